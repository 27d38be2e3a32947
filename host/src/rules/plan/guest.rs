//! The properties of one stream or action: divided between its connections and its connector, and
//! checked by whom they belong to.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{GuestPlan, Planner, RENDER, Reach, Role, SELECTORS, SHARED, SlotPlan, among, placed};
use crate::config::pointer_to;
use crate::connections::pool::otherwise;
use crate::connections::{Interface, Properties, file, memory};
use crate::rules::decompress;
use crate::rules::duplicates::Deduplicate;
use crate::rules::engine::TENANT;
use crate::rules::message_id::MessageIdOptions;
use crate::rules::output::{OutputPlan, is_dynamic};
use crate::rules::retry::RetryPolicy;
use crate::rules::spill::SpillOptions;
use crate::runtime::{Connector, Slot};

/// What a stream or an action gives to its connector, and to the connection that it makes itself.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) props: Map<String, Value>,
    /// Of the connection, though the connector knows the names too: [`Planner::divided`].
    pub(super) divided: Properties,
}

impl Planner<'_> {
    /// Takes out of the properties what the type of their own connection says is its part of them.
    /// Nothing, where a connection is named.
    pub(super) fn divided(
        &mut self,
        connector: &Connector,
        typ: &str,
        props: &mut Map<String, Value>,
        at: &dyn Fn(&str) -> String,
    ) -> Properties {
        let mut named = SELECTORS.iter().chain(&["connections"]);
        if connector.descriptor.slots.is_empty() || named.any(|it| props.contains_key(*it)) {
            return Properties::new();
        }
        self.pool.divide(typ, props).unwrap_or_else(|errors| {
            for error in errors {
                let (place, message) = placed(&error);
                self.error(&at(place.trim_start_matches('/')), message);
            }
            Properties::new()
        })
    }

    /// Splits the properties between connection and connector and checks both.
    pub(super) fn guest(
        &mut self,
        connector: Arc<Connector>,
        typ: &str,
        role: Role,
        given: Given,
        pointer: &str,
        at: &dyn Fn(&str) -> String,
    ) -> Option<GuestPlan> {
        let Given { mut props, divided } = given;
        let schema = schema(&connector, role);
        let own = schema_properties(&schema);
        let before = self.errors.len();
        let slots = self.slots(
            &connector.descriptor.slots,
            typ,
            (&mut props, divided),
            &own,
            pointer,
            at,
        );
        self.validate(&schema, &own, typ, role, &props, pointer, at);
        if self.errors.len() > before {
            return None;
        }
        // What is rendered per message is the host's business: the guest sees the message. What is shared
        // it gets as it was written too.
        props.retain(|name, value| {
            let property = schema.pointer(&pointer_to("/properties", name));
            let render = property.and_then(|property| property.get(RENDER));
            let shared =
                property.and_then(|property| property.get(SHARED)) == Some(&Value::Bool(true));
            let gone = match render.and_then(Value::as_str) {
                Some("headers") => true,
                Some(_) => is_dynamic(value),
                None => false,
            };
            shared || !gone
        });
        Some(GuestPlan {
            connector,
            config: Value::Object(props).to_string(),
            slots,
        })
    }

    fn slots(
        &mut self,
        slots: &[Slot],
        typ: &str,
        (props, divided): (&mut Map<String, Value>, Properties),
        own: &[String],
        pointer: &str,
        at: &dyn Fn(&str) -> String,
    ) -> Vec<SlotPlan> {
        let mut divided = Some(divided);
        // By slot: the connection's id, and where it was named.
        let mut chosen: HashMap<String, (String, String)> = HashMap::new();
        for selector in SELECTORS {
            let Some(value) = props.remove(selector) else {
                continue;
            };
            if selector == "connentionSelector" {
                self.warn(
                    &at(selector),
                    "\"connentionSelector\" is taken for \"connectionSelector\"",
                );
            }
            match (value.as_str(), slots) {
                (Some(id), [only]) => {
                    chosen.insert(only.name.clone(), (id.to_owned(), at(selector)));
                }
                (Some(_), []) => {
                    self.error(
                        &at(selector),
                        format!("\"{typ}\" uses no connection; leave \"{selector}\" out"),
                    );
                }
                (Some(id), many) => {
                    let required: Vec<_> = many.iter().filter(|slot| !slot.optional).collect();
                    if let [only] = required.as_slice() {
                        chosen.insert(only.name.clone(), (id.to_owned(), at(selector)));
                    } else {
                        let names: Vec<_> = many
                            .iter()
                            .map(|slot| format!("\"{}\"", slot.name))
                            .collect();
                        let message = format!(
                            "\"{typ}\" has several slots ({}): name a connection for each in \"connections\"",
                            names.join(", ")
                        );
                        self.error(&at(selector), message);
                    }
                }
                (None, _) => self.error(
                    &at(selector),
                    format!("\"{selector}\" is the id of a connection, a string"),
                ),
            }
        }
        match props.remove("connections") {
            Some(Value::Object(map)) => {
                for (slot, id) in map {
                    let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
                    if !names.contains(&slot.as_str()) {
                        let message =
                            format!("\"{typ}\" has no slot \"{slot}\"{}", among(&slot, &names));
                        self.error(&at("connections"), message);
                    } else if let Some(id) = id.as_str() {
                        chosen.insert(slot, (id.to_owned(), at("connections")));
                    } else {
                        self.error(
                            &at("connections"),
                            format!("slot \"{slot}\": the id of a connection is a string"),
                        );
                    }
                }
            }
            Some(_) => self.error(
                &at("connections"),
                "\"connections\" is an object: slot to connection id",
            ),
            None => {}
        }
        let mut filled = Vec::new();
        for slot in slots {
            if let Some((id, place)) = chosen.get(&slot.name) {
                if let Some(typ) = self.attached(id) {
                    filled.push(SlotPlan {
                        slot: slot.name.clone(),
                        reach: Reach::Anonymous {
                            typ: typ.to_owned(),
                            props: Map::new(),
                        },
                    });
                } else if self.named(id, &slot.name, slot.interface, place) {
                    self.ignore_connection_properties(id, props, own, at);
                    filled.push(SlotPlan {
                        slot: slot.name.clone(),
                        reach: Reach::Named(id.clone()),
                    });
                }
            } else if let Some(reach) = self.anonymous(
                slot,
                typ,
                (props, divided.take().unwrap_or_default()),
                own,
                pointer,
                at,
            ) {
                filled.push(SlotPlan {
                    slot: slot.name.clone(),
                    reach,
                });
            }
        }
        filled
    }

    /// The host type that an id stands for when no connection has it: these are attached to a rule, so
    /// that none can be created. What else they need, the guest says as options.
    fn attached(&self, id: &str) -> Option<&'static str> {
        let taken = self.manifest.connections.iter().any(|def| def.id == id);
        [memory::NAME, file::NAME]
            .into_iter()
            .find(|name| *name == id && !taken)
    }

    /// The connection is defined and offers what the slot wants.
    pub(super) fn named(&mut self, id: &str, slot: &str, wanted: Interface, pointer: &str) -> bool {
        let Some(def) = self.manifest.connections.iter().find(|def| def.id == id) else {
            let known: Vec<&str> = self
                .manifest
                .connections
                .iter()
                .map(|def| def.id.as_str())
                .collect();
            self.error(
                pointer,
                format!("there is no connection \"{id}\"{}", among(id, &known)),
            );
            return false;
        };
        // One that cannot be built was complained about where it stands.
        let Some(offers) = self.offers.get(id) else {
            return false;
        };
        if !offers.contains(&wanted) {
            let message = format!(
                "slot \"{slot}\" wants \"{}\", and connection \"{id}\" is of type \"{}\", which does not offer it",
                wanted.as_str(),
                def.typ
            );
            self.error(pointer, message);
            return false;
        }
        true
    }

    /// Properties of a connection beside a selector have no effect: the connection decides.
    fn ignore_connection_properties(
        &mut self,
        id: &str,
        props: &mut Map<String, Value>,
        own: &[String],
        at: &dyn Fn(&str) -> String,
    ) {
        let Some(def) = self.manifest.connections.iter().find(|def| def.id == id) else {
            return;
        };
        for name in self.connection_names(&def.typ, props, own) {
            props.remove(&name);
            self.warn(
                &at(&name),
                format!("\"{name}\" has no effect here: connection \"{id}\" decides"),
            );
        }
    }

    /// Which of these properties a connection of that type knows and the connector does not.
    pub(super) fn connection_names(
        &self,
        typ: &str,
        props: &Map<String, Value>,
        own: &[String],
    ) -> Vec<String> {
        let known = self.pool.property_names(typ);
        let is_known = |name: &&String| known.iter().any(|known| known.eq_ignore_ascii_case(name));
        props
            .keys()
            .filter(|name| !own.contains(name))
            .filter(is_known)
            .cloned()
            .collect()
    }

    /// A connection of the stream's or action's own, from its properties.
    fn anonymous(
        &mut self,
        slot: &Slot,
        typ: &str,
        (props, mut given): (&mut Map<String, Value>, Properties),
        own: &[String],
        pointer: &str,
        at: &dyn Fn(&str) -> String,
    ) -> Option<Reach> {
        if !self.pool.has_type(typ) {
            if !slot.optional {
                let message = format!(
                    "\"{typ}\" needs a connection for its slot \"{}\" ({}): name one in \"connectionSelector\"",
                    slot.name,
                    slot.interface.as_str()
                );
                self.error(pointer, message);
            }
            return None;
        }
        for name in self.connection_names(typ, props, own) {
            if let Some(value) = props.remove(&name) {
                given.insert(name, value);
            }
        }
        for name in self.pool.common_property_names(typ) {
            if let Some((name, value)) = props
                .iter()
                .find(|(given, _)| own.contains(given) && given.eq_ignore_ascii_case(name))
            {
                given.insert(name.clone(), value.clone());
            }
        }
        match self.pool.look_at(TENANT, "check", typ, &given) {
            Ok(look) => {
                for warning in look.warnings {
                    let (place, message) = placed(&warning);
                    self.warn(&at(place.trim_start_matches('/')), message);
                }
            }
            Err(errors) => {
                for error in errors {
                    let (place, message) = placed(&error);
                    self.error(&at(place.trim_start_matches('/')), message);
                }
            }
        }
        self.share(typ, &given, pointer, at);
        Some(Reach::Anonymous {
            typ: typ.to_ascii_lowercase(),
            props: given,
        })
    }

    /// Whoever names the same exclusive endpoint shares one connection, and must mean the same one.
    fn share(
        &mut self,
        typ: &str,
        props: &Map<String, Value>,
        pointer: &str,
        at: &dyn Fn(&str) -> String,
    ) {
        let Some(endpoint) = self.pool.exclusive_endpoint(typ, props) else {
            return;
        };
        let Some((first, its)) = self.endpoints.get(&endpoint) else {
            let whose = (self.whose.clone(), props.clone());
            self.endpoints.insert(endpoint, whose);
            return;
        };
        let names = self.pool.differing(typ, its, props);
        if !names.is_empty() {
            let message = otherwise(std::slice::from_ref(first), &names);
            let own = names.iter().find(|name| props.contains_key(*name));
            let place = own.map_or_else(|| pointer.to_owned(), |name| at(name));
            self.error(&place, message);
        }
    }

    /// The connector's own schema, on what is left. An unknown name gets the nearest valid one.
    #[allow(
        clippy::too_many_arguments,
        reason = "one call site; a struct would only rename them"
    )]
    fn validate(
        &mut self,
        schema: &Value,
        own: &[String],
        typ: &str,
        role: Role,
        props: &Map<String, Value>,
        pointer: &str,
        at: &dyn Fn(&str) -> String,
    ) {
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let mut known = props.clone();
        if closed {
            let mut names: Vec<&str> = own.iter().map(String::as_str).collect();
            names.push("connectionSelector");
            if role == Role::Source {
                names.push(decompress::PROPERTY);
            } else {
                names.extend(OutputPlan::PROPERTIES);
                names.extend(SpillOptions::PROPERTIES);
                names.extend(RetryPolicy::PROPERTIES);
                names.extend(MessageIdOptions::PROPERTIES);
                names.extend(Deduplicate::PROPERTIES);
            }
            for name in props.keys().filter(|name| !own.contains(name)) {
                known.remove(name);
                let message = format!(
                    "\"{name}\" is no property of the {} \"{typ}\"{}",
                    role.word(),
                    among(name, &names)
                );
                self.errors
                    .push(self.manifest.error_at_key(&at(name), message));
            }
        }
        let validator = match jsonschema::validator_for(schema) {
            Ok(validator) => validator,
            Err(error) => {
                self.error(
                    pointer,
                    format!("the schema of connector \"{typ}\" is not valid: {error}"),
                );
                return;
            }
        };
        let instance = Value::Object(known);
        for error in validator.iter_errors(&instance) {
            let path = error.instance_path().to_string();
            let mut parts = path.trim_start_matches('/').splitn(2, '/');
            let place = match parts.next().filter(|name| !name.is_empty()) {
                None => pointer.to_owned(),
                Some(name) => match parts.next() {
                    None => at(name),
                    Some(rest) => format!("{}/{rest}", at(name)),
                },
            };
            self.error(
                &place,
                format!(
                    "{}: {error}",
                    if path.is_empty() {
                        typ
                    } else {
                        path.trim_start_matches('/')
                    }
                ),
            );
        }
    }
}

/// The schema of one role: a connector with two documents keeps them under `$defs`.
#[must_use]
pub fn schema(connector: &Connector, role: Role) -> Value {
    connector.config_schema(role.word()).clone()
}

pub(super) fn schema_properties(schema: &Value) -> Vec<String> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}
