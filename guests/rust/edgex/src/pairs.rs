//! A JSON object as pairs of name and text: what a value says is left as it was written, so that no
//! number loses a digit.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, in their order.
#[derive(Debug, Default)]
pub(crate) struct Pairs<'a>(pub(crate) Vec<(String, &'a RawValue)>);

/// Reads an object.
///
/// # Errors
/// It is none: why.
pub(crate) fn parse(text: &str) -> Result<Pairs<'_>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

impl<'a> Pairs<'a> {
    /// The member of that name; `null` counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.find(|known| known == name)
    }

    /// The member of that name, without regard to case.
    pub(crate) fn get_any_case(&self, name: &str) -> Option<&'a RawValue> {
        self.find(|known| known.eq_ignore_ascii_case(name))
    }

    /// The member of that name, if it is a text.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    fn find(&self, is: impl Fn(&str) -> bool) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().find(|(name, _)| is(name))?;
        (value.get() != "null").then_some(*value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Pairs)
    }
}
