//! Rows as writes, in the forms that Neuron's plugin for eKuiper reads. Pure.
//!
//! `{"group_name": …, "node_name": …, "tags": [{"tag_name": …, "value": …}, …]}`, keys in the order in which
//! eKuiper writes them. A value is a number, a boolean, a text of less than 256 bytes, or a list of numbers
//! or booleans; with any other Neuron drops the whole write.

use serde_json::value::RawValue;
use windlass_connector::{Row, rows, write_json_text};

/// Bytes of a text that Neuron takes, and one more (`NEU_VALUE_SIZE` with its closing zero).
const TOO_LONG: usize = 256;

/// How rows are written.
#[derive(Debug)]
pub(crate) enum Form {
    /// As they are.
    Raw,
    /// Their columns as tags.
    Tags(Target),
}

/// Where to.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) node: String,
    pub(crate) group: String,
    /// Columns to write; none: all.
    pub(crate) tags: Vec<String>,
}

/// Calls `take` with the write of each row of a message.
///
/// # Errors
/// A sentence: a row that Neuron could not take, or no row at all.
pub(crate) fn each_row(
    payload: &[u8],
    form: &Form,
    mut take: impl FnMut(&[u8]),
) -> Result<(), String> {
    match form {
        Form::Raw => {
            let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
            if first != Some(&b'[') {
                take(payload);
                return Ok(());
            }
            let rows: Vec<&RawValue> = serde_json::from_slice(payload)
                .map_err(|error| format!("the message is not a list of rows: {error}"))?;
            rows.iter().for_each(|row| take(row.get().as_bytes()));
        }
        Form::Tags(target) => {
            for row in rows(payload)? {
                take(&target.write(&row)?);
            }
        }
    }
    Ok(())
}

impl Target {
    fn write(&self, row: &Row<'_>) -> Result<Vec<u8>, String> {
        let mut out = br#"{"group_name":"#.to_vec();
        write_json_text(&mut out, &self.group);
        out.extend_from_slice(br#","node_name":"#);
        write_json_text(&mut out, &self.node);
        out.extend_from_slice(br#","tags":["#);
        let all = || row.fields.iter().map(|(name, value)| (&**name, *value));
        let chosen: Vec<(&str, &RawValue)> = if self.tags.is_empty() {
            all().collect()
        } else {
            let tags = self.tags.iter();
            tags.filter_map(|tag| Some((tag.as_str(), row.get(tag)?)))
                .collect()
        };
        let mut count = 0;
        for (tag, value) in chosen {
            // A null is a column that is missing.
            if value.get() == "null" {
                continue;
            }
            if let Err(why) = check(value) {
                return Err(format!("tag \"{tag}\": Neuron cannot write {why}"));
            }
            if count > 0 {
                out.push(b',');
            }
            count += 1;
            out.extend_from_slice(br#"{"tag_name":"#);
            write_json_text(&mut out, tag);
            out.extend_from_slice(br#","value":"#);
            out.extend_from_slice(value.get().as_bytes());
            out.push(b'}');
        }
        if count == 0 {
            return Err("the row has none of the tags to write".to_owned());
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }
}

/// What Neuron takes as a value.
fn check(value: &RawValue) -> Result<(), String> {
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'"') => {
            let length = serde_json::from_str::<String>(text)
                .map_err(|error| error.to_string())?
                .len();
            if length >= TOO_LONG {
                return Err(format!(
                    "a text of {length} bytes; {} are allowed",
                    TOO_LONG - 1
                ));
            }
            Ok(())
        }
        Some(b'{') => Err("an object".to_owned()),
        Some(b'[') => {
            let items: Vec<&RawValue> =
                serde_json::from_str(text).map_err(|error| error.to_string())?;
            let plain = |item: &&RawValue| !item.get().starts_with(['"', '{', '[', 'n']);
            if items.iter().all(plain) {
                Ok(())
            } else {
                Err("a list of anything but numbers or booleans".to_owned())
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payload: &str, form: &Form) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        each_row(payload.as_bytes(), form, |write| {
            all.push(String::from_utf8(write.to_vec()).unwrap());
        })?;
        Ok(all)
    }

    fn tags(tags: &[&str]) -> Form {
        Form::Tags(Target {
            node: "modbus".to_owned(),
            group: "g\"1".to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        })
    }

    #[test]
    fn each_row_is_a_write_of_its_own_and_no_digit_is_lost() {
        let rows = r#"[{"temperature":25.20,"big":18446744073709551615},{"on":true,"gone":null}]"#;
        assert_eq!(
            written(rows, &tags(&[])).unwrap(),
            [
                r#"{"group_name":"g\"1","node_name":"modbus","tags":[{"tag_name":"temperature","value":25.20},{"tag_name":"big","value":18446744073709551615}]}"#,
                r#"{"group_name":"g\"1","node_name":"modbus","tags":[{"tag_name":"on","value":true}]}"#,
            ]
        );
    }

    #[test]
    fn only_the_tags_that_are_named_are_written_in_that_order() {
        let row = r#"{"a":1,"b":[1,2.5],"c":"x"}"#;
        assert_eq!(
            written(row, &tags(&["c", "missing", "b"])).unwrap(),
            [
                r#"{"group_name":"g\"1","node_name":"modbus","tags":[{"tag_name":"c","value":"x"},{"tag_name":"b","value":[1,2.5]}]}"#
            ]
        );
        let none = written(row, &tags(&["missing"])).unwrap_err();
        assert!(none.contains("none of the tags"), "{none}");
    }

    #[test]
    fn what_neuron_drops_without_a_word_is_refused_with_the_tag() {
        let long = format!(r#"{{"t":"{}"}}"#, "x".repeat(256));
        for (row, words) in [
            (r#"{"t":{"a":1}}"#, "an object"),
            (r#"{"t":["a"]}"#, "a list of anything"),
            (r#"{"t":[[1]]}"#, "a list of anything"),
            (&long, "256 bytes"),
        ] {
            let why = written(row, &tags(&[])).unwrap_err();
            assert!(why.contains("\"t\"") && why.contains(words), "{why}");
        }
        let fits = format!(r#"{{"t":"{}"}}"#, "x".repeat(255));
        assert!(written(&fits, &tags(&[])).is_ok());
        assert!(written("7", &tags(&[])).is_err());
    }

    #[test]
    fn raw_rows_go_out_as_they_are() {
        for (payload, all) in [
            (r#" {"node_name": "n"}"#, vec![r#" {"node_name": "n"}"#]),
            (r#"[{"a": 1}, {"b":2}]"#, vec![r#"{"a": 1}"#, r#"{"b":2}"#]),
            ("[]", vec![]),
        ] {
            assert_eq!(written(payload, &Form::Raw).unwrap(), all);
        }
        assert!(written("[1", &Form::Raw).is_err());
    }
}
