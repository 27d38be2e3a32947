//! Objects whose values follow from the number of the message: the same number and seed give the same
//! object, except for `timestamp`.

use std::f64::consts::TAU;
use std::fmt;
use std::io::Write;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Named fields in the order in which they were written.
#[derive(Debug)]
pub(crate) struct Fields(Vec<Field>);

#[derive(Debug)]
struct Field {
    /// The name as it stands in JSON: quoted, with its colon.
    key: String,
    shape: Shape,
}

/// How a value comes about.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Anywhere from `min` to `max`, or one of `values`.
    #[default]
    Random,
    /// From `min` up to `max` in `period` messages, then from `min` again.
    Ramp,
    /// Up and down between `min` and `max`, once in `period` messages.
    Sine,
    /// The number of the message.
    Sequence,
    /// The time in milliseconds since 1970.
    Timestamp,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Shape {
    kind: Kind,
    min: f64,
    max: f64,
    period: u64,
    decimals: u32,
    values: Vec<Box<RawValue>>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            min: 0.0,
            max: 100.0,
            period: 60,
            decimals: 2,
            values: Vec::new(),
        }
    }
}

/// What is sent when nothing is said.
impl Default for Fields {
    fn default() -> Self {
        let field = |name, shape| Field {
            key: key(name),
            shape,
        };
        Self(vec![
            field(
                "sequence",
                Shape {
                    kind: Kind::Sequence,
                    ..Shape::default()
                },
            ),
            field(
                "temperature",
                Shape {
                    kind: Kind::Sine,
                    min: 15.0,
                    max: 25.0,
                    ..Shape::default()
                },
            ),
            field(
                "humidity",
                Shape {
                    min: 40.0,
                    max: 60.0,
                    ..Shape::default()
                },
            ),
        ])
    }
}

impl Fields {
    /// Appends the object of this message as JSON.
    pub(crate) fn write(&self, out: &mut Vec<u8>, number: u64, seed: u64, now: u64) {
        out.push(b'{');
        for (place, field) in self.0.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.extend_from_slice(field.key.as_bytes());
            let chance = mix(mix(seed.wrapping_add(place as u64)).wrapping_add(number));
            field.shape.write(out, number, chance, now);
        }
        out.push(b'}');
    }
}

impl Shape {
    fn write(&self, out: &mut Vec<u8>, number: u64, chance: u64, now: u64) {
        let period = self.period.max(1);
        let along = fraction(number % period, period);
        let part = match self.kind {
            Kind::Sequence => return whole(out, number),
            Kind::Timestamp => return whole(out, now),
            Kind::Random if !self.values.is_empty() => {
                let place = usize::try_from(chance % self.values.len() as u64).unwrap_or_default();
                out.extend_from_slice(
                    self.values
                        .get(place)
                        .map_or("null", |value| value.get())
                        .as_bytes(),
                );
                return;
            }
            Kind::Random => fraction(chance >> 11, 1 << 53),
            Kind::Ramp => fraction(number % period, (period - 1).max(1)),
            Kind::Sine => (along * TAU).sin().midpoint(1.0),
        };
        let value = self.min + part * (self.max - self.min);
        let scale = 10_f64.powi(i32::try_from(self.decimals).unwrap_or(0));
        let rounded = (value * scale).round() / scale;
        // Writing to memory does not fail.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole numbers were asked for; the cast saturates"
        )]
        let written = if self.decimals == 0 {
            serde_json::to_writer(out, &(rounded as i64))
        } else {
            serde_json::to_writer(out, &rounded)
        };
        debug_assert!(written.is_ok());
    }
}

fn whole(out: &mut Vec<u8>, number: u64) {
    let written = write!(out, "{number}");
    debug_assert!(written.is_ok());
}

#[expect(clippy::cast_precision_loss, reason = "2^53 steps are enough")]
fn fraction(part: u64, of: u64) -> f64 {
    part as f64 / of as f64
}

/// Spreads the bits of a number (the finalizer of SplitMix64, public domain).
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn key(name: &str) -> String {
    serde_json::to_string(name).unwrap_or_default() + ":"
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, shape)) = map.next_entry::<String, Shape>()? {
                    fields.push(Field {
                        key: key(&name),
                        shape,
                    });
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn object(fields: &Fields, number: u64, seed: u64) -> (String, Value) {
        let mut out = Vec::new();
        fields.write(&mut out, number, seed, 1_700_000_000_000);
        let text = String::from_utf8(out).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    fn fields(text: &str) -> Fields {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn fields_stand_in_the_order_in_which_they_were_written_and_names_are_quoted() {
        let fields = fields(r#"{"z\"1":{"kind":"sequence"},"a":{"kind":"timestamp"}}"#);
        assert_eq!(object(&fields, 7, 0).0, r#"{"z\"1":7,"a":1700000000000}"#);
    }

    #[test]
    fn random_values_stay_in_their_bounds_spread_and_repeat_with_the_same_seed() {
        let fields = fields(r#"{"x":{"min":-5,"max":5},"n":{"min":1,"max":6,"decimals":0}}"#);
        let values: Vec<f64> = (0..1000)
            .map(|number| object(&fields, number, 0).1["x"].as_f64().unwrap())
            .collect();
        assert!(values.iter().all(|value| (-5.0..=5.0).contains(value)));
        let mean = values.iter().sum::<f64>() / 1000.0;
        assert!(mean.abs() < 0.5, "{mean}");
        assert!(
            (0..100).all(
                |number| (1..=6).contains(&object(&fields, number, 0).1["n"].as_i64().unwrap())
            )
        );
        assert_eq!(object(&fields, 3, 1), object(&fields, 3, 1));
        assert_ne!(object(&fields, 3, 1), object(&fields, 3, 2));
    }

    #[test]
    fn a_ramp_goes_from_min_to_max_and_starts_again() {
        let fields = fields(r#"{"x":{"kind":"ramp","min":10,"max":20,"period":3,"decimals":0}}"#);
        let values: Vec<_> = (0..4)
            .map(|number| object(&fields, number, 0).1["x"].as_i64().unwrap())
            .collect();
        assert_eq!(values, [10, 15, 20, 10]);
    }

    #[test]
    fn a_sine_starts_in_the_middle_and_reaches_both_bounds() {
        let fields = fields(r#"{"x":{"kind":"sine","min":0,"max":10,"period":4,"decimals":0}}"#);
        let values: Vec<_> = (0..5)
            .map(|number| object(&fields, number, 0).1["x"].as_i64().unwrap())
            .collect();
        assert_eq!(values, [5, 10, 5, 0, 5]);
    }

    #[test]
    fn a_choice_is_one_of_its_values_as_they_were_written() {
        let fields = fields(r#"{"x":{"values":["on","off",null]}}"#);
        let seen: std::collections::BTreeSet<String> = (0..100)
            .map(|number| object(&fields, number, 0).1["x"].to_string())
            .collect();
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            ["\"off\"", "\"on\"", "null"]
        );
    }
}
