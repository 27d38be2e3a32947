//! An action: its properties divided between the output steps, the disk queue, retries, ids,
//! duplicates, its connection and its connector; and where its rule's dead letters go.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::guest::{Given, schema_properties};
use super::{
    ActionPlan, FILLED, GuestPlan, Planner, RENDER, Reach, Role, SELECTORS, SHARED, SlotPlan,
    schema,
};
use crate::config::{ActionDef, RuleDef, pointer_to};
use crate::connections::{Carries, ConfigError, Interface, Qos};
use crate::rules::duplicates::Deduplicate;
use crate::rules::forward::ForwardTo;
use crate::rules::message_id::{IdOrigin, MessageIdOptions};
use crate::rules::output::{
    Addressed, DynamicProperty, OutputPlan, Place, Rendered, dynamic_properties,
};
use crate::rules::retry::RetryPolicy;
use crate::rules::spill::SpillOptions;
use crate::runtime::Connector;

/// Gives the connector what only the host knows, where its schema asks for it and nobody has given it.
fn fill(props: &mut Map<String, Value>, schema: Option<&Value>, rule: &str) {
    let properties = schema.and_then(|schema| schema.get("properties")?.as_object());
    for (name, property) in properties.into_iter().flatten() {
        if property.get(FILLED).is_some_and(|what| what == "rule") {
            let value = props.entry(name).or_insert(Value::Null);
            if value.is_null() || value == "" {
                *value = rule.into();
            }
        }
    }
}

impl Planner<'_> {
    pub(super) async fn action(
        &mut self,
        def: &ActionDef,
        place: usize,
        rule: &RuleDef,
    ) -> Option<ActionPlan> {
        let name = format!("{}_{place}", def.typ);
        let mut props = def.props.clone();
        let connector = self.connector(&def.typ, &def.pointer, Role::Sink).await;
        let at = |name: &str| pointer_to(&def.pointer, name);
        let spill = self.kept(SpillOptions::take_from(&mut props), &def.pointer);
        let retry = self.kept(RetryPolicy::take_from(&mut props), &def.pointer);
        let ids = self.kept(MessageIdOptions::take_from(&mut props), &def.pointer);
        let deduplicate = self.kept(Deduplicate::take_from(&mut props), &def.pointer);
        let schema = connector.as_ref().map(|c| schema(c, Role::Sink));
        let own = schema.as_ref().map(schema_properties).unwrap_or_default();
        // What is shared goes through the output steps, and the connector gets it too.
        let shared = |name: &&str| {
            let place = pointer_to("/properties", name);
            let property = schema.as_ref().and_then(|schema| schema.pointer(&place));
            property.is_some_and(|property| property.get(SHARED) == Some(&Value::Bool(true)))
        };
        let kept: Vec<&str> = own.iter().map(String::as_str).collect();
        let (shared, kept): (Vec<&str>, Vec<&str>) = kept.into_iter().partition(shared);
        let output = match OutputPlan::from_properties(&props, &kept) {
            Ok(planned) => {
                for warning in planned.warnings {
                    self.warn(&format!("{}{}", def.pointer, warning.at), warning.message);
                }
                for name in &planned.consumed {
                    if !shared.contains(&name.as_str()) {
                        props.remove(name);
                    }
                }
                Some(planned.plan)
            }
            Err(errors) => {
                for error in errors {
                    self.error(&format!("{}{}", def.pointer, error.at), error.message);
                }
                None
            }
        };
        let connector = connector?;
        let divided = self.divided(&connector, &def.typ, &mut props, &at);
        let mut dynamic = self.rendered(&connector, &props, &def.pointer)?;
        // After what is rendered: an id is text, whatever stands in it.
        fill(&mut props, schema.as_ref(), &rule.id);
        let header = ids
            .as_ref()
            .and_then(|ids| self.id_header(ids, &def.typ, schema.as_ref(), &mut props));
        if let (Some(IdOrigin::Rendered(template)), Some((header, _))) =
            (ids.as_ref().and_then(|ids| ids.origin.clone()), &header)
        {
            dynamic.push(Addressed {
                rendered: Rendered::Text(template),
                place: Place::Header(header.clone()),
            });
        }
        let topic = props
            .get("topic")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        self.whose = format!("action \"{name}\" of rule \"{}\"", rule.id);
        let given = Given { props, divided };
        let guest = self.guest(connector, &def.typ, Role::Sink, given, &def.pointer, &at)?;
        let mut spill = spill?;
        for warning in &spill.warnings {
            self.warn(
                &format!("{}{}", def.pointer, warning.at),
                warning.message.clone(),
            );
        }
        spill.adopt(&rule.options);
        let (output, deduplicate) = (output?, deduplicate?);
        if deduplicate.is_some() && output.is_batching() {
            let words = "\"deduplicate\" looks at single messages; it does not go with \"batchSize\" and \"lingerInterval\"";
            self.error(&at("deduplicate"), words);
        }
        let key = deduplicate.as_ref().map(|options| options.key.clone());
        let made = ids?.origin == Some(IdOrigin::Made);
        Some(ActionPlan {
            name,
            output: Arc::new(output.with_dynamic(dynamic).with_key(key)),
            spill,
            retry: retry?,
            ids: header.filter(|_| made),
            carries: self.carries(&guest),
            deduplicate,
            topic,
            guest,
        })
    }

    /// The header for the ids of an action's messages, as its connector finds it and as it is called
    /// outside. A connector that sends headers of its own configuration is told to send this one.
    fn id_header(
        &self,
        ids: &MessageIdOptions,
        typ: &str,
        schema: Option<&Value>,
        props: &mut Map<String, Value>,
    ) -> Option<(String, String)> {
        ids.origin.as_ref()?;
        let named = SELECTORS.iter().find_map(|name| props.get(*name)?.as_str());
        let typ = named.map_or(typ, |id| {
            let mut all = self.manifest.connections.iter();
            all.find(|def| def.id == id)
                .map_or(id, |def| def.typ.as_str())
        });
        let name = match &ids.header {
            Some(name) => name.clone(),
            None => self.pool.message_id_header(typ).to_owned(),
        };
        let configured = schema
            .and_then(|schema| schema.pointer("/properties/headers")?.get(RENDER))
            .is_some_and(|render| render == "header");
        if !configured {
            return Some((name.clone(), name));
        }
        let headers = props
            .entry("headers")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(headers) = headers.as_object_mut() {
            // What has a template in it the connector takes from the message.
            headers.insert(name.clone(), "{{id}}".into());
        }
        Some((format!("headers/{name}"), name))
    }

    /// What the connections of an action say of headers that came with its messages.
    fn carries(&self, guest: &GuestPlan) -> Vec<Carries> {
        let typ = |slot: &SlotPlan| match &slot.reach {
            Reach::Anonymous { typ, .. } => Some(typ.clone()),
            Reach::Named(id) => {
                let mut all = self.manifest.connections.iter();
                all.find(|def| def.id == *id).map(|def| def.typ.clone())
            }
        };
        let types = guest.slots.iter().filter_map(typ);
        types.filter_map(|typ| self.pool.carries(&typ)).collect()
    }

    /// Where the dead letters of a rule go; mistakes are noted.
    pub(super) fn forward(&mut self, rule: &RuleDef) -> Option<ForwardTo> {
        let letters = rule.options.dead_letters.as_ref()?;
        let pointer = format!("{}/options/deadLetters", rule.pointer);
        if letters.topic.contains("{{") {
            let words = "the topic of dead letters is one for all; \"{{\" has no place in it";
            self.error(&format!("{pointer}/topic"), words);
        }
        let place = format!("{pointer}/connectionSelector");
        self.named(
            &letters.connection,
            "deadLetters",
            Interface::Messaging,
            &place,
        )
        .then(|| ForwardTo {
            connection: letters.connection.clone(),
            topic: letters.topic.clone(),
            qos: match letters.qos {
                0 => Qos::AtMostOnce,
                1 => Qos::AtLeastOnce,
                _ => Qos::ExactlyOnce,
            },
        })
    }

    /// What was read of an action's properties; None, and all mistakes noted, where there are some.
    fn kept<T>(&mut self, read: Result<T, Vec<ConfigError>>, pointer: &str) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(errors) => {
                for error in errors {
                    self.error(&format!("{pointer}{}", error.at), error.message);
                }
                None
            }
        }
    }

    /// The properties that are rendered for each message: texts and lists of texts, and the
    /// texts of an object that go into headers, named `<property>/<key>`, or by their key alone. None
    /// after a mistake.
    pub(super) fn rendered(
        &mut self,
        connector: &Connector,
        props: &Map<String, Value>,
        pointer: &str,
    ) -> Option<Vec<Addressed>> {
        let schema = schema(connector, Role::Sink);
        let found = match dynamic_properties(props, &[]) {
            Ok(found) => found,
            Err(errors) => {
                for error in errors {
                    self.error(&format!("{pointer}{}", error.at), error.message);
                }
                return None;
            }
        };
        let mut all = Vec::new();
        for (name, rendered) in found {
            let render = schema
                .pointer(&pointer_to("/properties", &name))
                .and_then(|own| own.get(RENDER));
            let place = match render.and_then(Value::as_str) {
                Some("subject") => Place::Subject,
                Some("header") => Place::Header(name),
                // A list of a connector's own, which may mean something else by it.
                _ if matches!(rendered, Rendered::List(_)) => continue,
                _ => {
                    let at = pointer_to(pointer, &name);
                    self.error(
                        &at,
                        format!(
                            "\"{name}\" is not rendered per message; \"{{{{\" has no place in it"
                        ),
                    );
                    return None;
                }
            };
            all.push(Addressed { rendered, place });
        }
        for (name, value) in props {
            let render = schema
                .pointer(&pointer_to("/properties", name))
                .and_then(|own| own.get(RENDER));
            // With "headers" they are the message's own, and a text without a template is one too.
            let whole = match render.and_then(Value::as_str) {
                Some("header") => false,
                Some("headers") => true,
                _ => continue,
            };
            for (key, value) in value.as_object().into_iter().flatten() {
                let Some(text) = value
                    .as_str()
                    .filter(|text| whole || DynamicProperty::is_dynamic(text))
                else {
                    continue;
                };
                let header = if whole {
                    key.clone()
                } else {
                    format!("{name}/{key}")
                };
                match DynamicProperty::parse(text) {
                    Ok(property) => all.push(Addressed {
                        rendered: Rendered::Text(property),
                        place: Place::Header(header),
                    }),
                    Err(error) => {
                        self.error(
                            &pointer_to(&pointer_to(pointer, name), key),
                            error.to_string(),
                        );
                        return None;
                    }
                }
            }
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_property_that_wants_the_rules_id_has_it_unless_told() {
        let schema = json!({ "properties": {
            "sourceName": { "type": "string", FILLED: "rule" }, "other": { "type": "string" },
        }});
        for (given, source) in [
            (json!({}), "r1"),
            (json!({ "sourceName": "" }), "r1"),
            (json!({ "sourceName": "own" }), "own"),
        ] {
            let Value::Object(mut props) = given else {
                panic!("an object")
            };
            fill(&mut props, Some(&schema), "r1");
            assert_eq!(Value::Object(props), json!({ "sourceName": source }));
        }
    }
}
