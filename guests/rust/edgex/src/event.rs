//! Events of EdgeX (go-mod-core-contracts, `dtos/event.go` and `dtos/reading.go`) as rows: each
//! reading is a field with its resource's name and its value by `valueType`. What an event and its
//! readings say beside that becomes headers, which a query reads with `meta(...)`.

use serde_json::value::RawValue;
use windlass_connector::write_json_text;

use crate::pairs::{self, Pairs};

/// An event as a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// A JSON object.
    pub(crate) json: Vec<u8>,
    /// Metadata of the event, then of each reading under its resource's name.
    pub(crate) headers: Vec<(String, String)>,
    /// Readings that were left out, and why.
    pub(crate) left_out: Vec<String>,
}

/// Reads an event, or the request to add one that holds it.
///
/// # Errors
/// It is none, or none of its readings can be used.
pub(crate) fn row(payload: &str, correlation: &str) -> Result<Row, String> {
    let outer = pairs::parse(payload).map_err(|why| format!("the payload is no event: {why}"))?;
    let inner;
    let event = match outer.get("event") {
        Some(event) if outer.get("readings").is_none() => {
            inner = pairs::parse(event.get()).map_err(|why| format!("the event is none: {why}"))?;
            &inner
        }
        _ => &outer,
    };
    let readings = event
        .get("readings")
        .ok_or("the payload is no event: it has no readings")?;
    let readings: Vec<Pairs<'_>> = serde_json::from_str(readings.get())
        .map_err(|error| format!("the event's readings are none: {error}"))?;
    let mut row = Row {
        json: Vec::new(),
        headers: metadata(event, correlation),
        left_out: Vec::new(),
    };
    let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
    for reading in &readings {
        let Some(name) = reading.text("resourceName") else {
            row.left_out
                .push("a reading has no resourceName".to_owned());
            continue;
        };
        match value(reading) {
            Ok(value) => {
                if row.headers.iter().all(|(known, _)| *known != name) {
                    row.headers.push((name.clone(), about(reading)));
                }
                fields.retain(|(known, _)| *known != name);
                fields.push((name, value));
            }
            Err(why) => row.left_out.push(format!("{name}: {why}")),
        }
    }
    if fields.is_empty() {
        let why = row.left_out.first().map_or("it has none", String::as_str);
        return Err(format!("no reading of the event can be used: {why}"));
    }
    for (place, (name, value)) in fields.iter().enumerate() {
        row.json.push(if place == 0 { b'{' } else { b',' });
        write_json_text(&mut row.json, name);
        row.json.push(b':');
        row.json.extend_from_slice(value);
    }
    row.json.push(b'}');
    Ok(row)
}

/// A value as a text: a JSON text without its quotes, anything else as it is written.
fn plain(value: &RawValue) -> String {
    serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

fn metadata(event: &Pairs<'_>, correlation: &str) -> Vec<(String, String)> {
    let names = [
        "id",
        "deviceName",
        "profileName",
        "sourceName",
        "origin",
        "tags",
    ];
    let mut headers: Vec<(String, String)> = names
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), plain(event.get(name)?))))
        .collect();
    if !correlation.is_empty() {
        headers.push(("correlationid".to_owned(), correlation.to_owned()));
    }
    headers
}

/// What a reading says beside its value, as a JSON object.
fn about(reading: &Pairs<'_>) -> String {
    let names = [
        "id",
        "origin",
        "deviceName",
        "profileName",
        "valueType",
        "mediaType",
        "units",
        "tags",
    ];
    let mut out = Vec::new();
    for name in names {
        if let Some(value) = reading.get(name) {
            out.push(if out.is_empty() { b'{' } else { b',' });
            write_json_text(&mut out, name);
            out.push(b':');
            out.extend_from_slice(value.get().as_bytes());
        }
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    String::from_utf8(out).unwrap_or_default()
}

/// The value of a reading as JSON.
fn value(reading: &Pairs<'_>) -> Result<Vec<u8>, String> {
    let kind = reading
        .text("valueType")
        .unwrap_or_else(|| "String".to_owned());
    match kind.as_str() {
        "Binary" => member(reading, "binaryValue"),
        "Object" | "ObjectArray" => member(reading, "objectValue"),
        _ => {
            let text = reading.get("value").map(plain).ok_or("it has no value")?;
            simple(&kind, &text).map(String::into_bytes)
        }
    }
}

fn member(reading: &Pairs<'_>, name: &str) -> Result<Vec<u8>, String> {
    let value = reading
        .get(name)
        .ok_or_else(|| format!("it has no {name}"))?;
    Ok(value.get().as_bytes().to_vec())
}

/// A value that EdgeX writes as a text.
fn simple(kind: &str, text: &str) -> Result<String, String> {
    let wrong = || {
        let text: String = text.chars().take(60).collect();
        format!("\"{text}\" is no {kind}")
    };
    if let Some(one) = kind.strip_suffix("Array") {
        let values: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| wrong())?;
        let mut out = "[".to_owned();
        for (place, value) in values.into_iter().enumerate() {
            if place > 0 {
                out.push(',');
            }
            // A text of an array of texts stays one; numbers may stand in quotes.
            out.push_str(&simple(one, &plain(value))?);
        }
        out.push(']');
        return Ok(out);
    }
    match kind {
        "Bool" => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".to_owned()),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".to_owned()),
            _ => Err(wrong()),
        },
        "Int8" => text
            .parse::<i8>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        "Int16" => text
            .parse::<i16>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        "Int32" => text
            .parse::<i32>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        "Int64" => text
            .parse::<i64>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        "Uint8" => text
            .parse::<u8>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        "Uint16" => text
            .parse::<u16>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        "Uint32" => text
            .parse::<u32>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        "Uint64" => text
            .parse::<u64>()
            .map(|it| it.to_string())
            .map_err(|_| wrong()),
        // A Float32 is read as what its digits say: 1.1 stays 1.1.
        "Float32" | "Float64" => {
            let number = text.parse::<f64>().map_err(|_| wrong())?;
            let number = serde_json::Number::from_f64(number).ok_or_else(wrong)?;
            Ok(number.to_string())
        }
        // An unknown type is a text, as in eKuiper.
        _ => Ok(json_text(text)),
    }
}

fn json_text(text: &str) -> String {
    let mut out = Vec::new();
    write_json_text(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(kind: &str, value: &str) -> String {
        format!(r#"{{"resourceName":"r","valueType":"{kind}",{value}}}"#)
    }

    fn read(kind: &str, value: &str) -> Result<String, String> {
        let event = format!(r#"{{"readings":[{}]}}"#, reading(kind, value));
        row(&event, "").map(|row| String::from_utf8(row.json).unwrap())
    }

    #[test]
    fn each_value_type_is_read_without_loss() {
        for (kind, value, json) in [
            ("Bool", r#""value":"True""#, "true"),
            ("Int8", r#""value":"-128""#, "-128"),
            ("Int16", r#""value":"-32768""#, "-32768"),
            ("Int32", r#""value":"-2147483648""#, "-2147483648"),
            (
                "Int64",
                r#""value":"-9223372036854775808""#,
                "-9223372036854775808",
            ),
            ("Uint8", r#""value":"255""#, "255"),
            ("Uint16", r#""value":"65535""#, "65535"),
            ("Uint32", r#""value":"4294967295""#, "4294967295"),
            (
                "Uint64",
                r#""value":"18446744073709551615""#,
                "18446744073709551615",
            ),
            ("Float32", r#""value":"1.100000e+00""#, "1.1"),
            ("Float64", r#""value":"5e+01""#, "50.0"),
            ("String", r#""value":"a \"b\" \u00e4""#, r#""a \"b\" ä""#),
            ("BoolArray", r#""value":"[true, false]""#, "[true,false]"),
            (
                "Uint64Array",
                r#""value":"[18446744073709551615, 1]""#,
                "[18446744073709551615,1]",
            ),
            ("Float64Array", r#""value":"[\"1.5e0\", 2.5]""#, "[1.5,2.5]"),
            ("StringArray", r#""value":"[\"a\", \"b\"]""#, r#"["a","b"]"#),
            (
                "Binary",
                r#""binaryValue":"AQID","mediaType":"x/y""#,
                r#""AQID""#,
            ),
            (
                "Object",
                r#""objectValue":{"big":9007199254740993}"#,
                r#"{"big":9007199254740993}"#,
            ),
            ("ObjectArray", r#""objectValue":[{"a":1}]"#, r#"[{"a":1}]"#),
            ("Unheard", r#""value":"x""#, r#""x""#),
        ] {
            assert_eq!(
                read(kind, value).as_deref(),
                Ok(&*format!(r#"{{"r":{json}}}"#)),
                "{kind}"
            );
        }
    }

    #[test]
    fn a_reading_that_does_not_fit_is_left_out_and_an_event_of_none_is_refused() {
        for (kind, value) in [
            ("Int8", r#""value":"128""#),
            ("Uint8", r#""value":"-1""#),
            ("Bool", r#""value":"yes""#),
            ("Float64", r#""value":"NaN""#),
            ("Int64Array", r#""value":"[1.5]""#),
            ("Binary", r#""value":"x""#),
            ("Int64", r#""other":"1""#),
        ] {
            assert!(read(kind, value).is_err(), "{kind}");
        }
        let event = format!(
            r#"{{"readings":[{},{{"resourceName":"good","valueType":"Int8","value":"1"}},{{}}]}}"#,
            reading("Int8", r#""value":"500""#)
        );
        let row = row(&event, "").unwrap();
        assert_eq!(String::from_utf8(row.json).unwrap(), r#"{"good":1}"#);
        assert_eq!(row.left_out.len(), 2, "{:?}", row.left_out);
        for none in [
            "{}",
            "[]",
            "7",
            r#"{"readings":7}"#,
            r#"{"readings":[]}"#,
            r#"{"event":7}"#,
        ] {
            assert!(super::row(none, "").is_err(), "{none}");
        }
    }

    #[test]
    fn metadata_become_headers_and_origin_keeps_its_digits() {
        let request = r#"{"apiVersion":"v3","requestId":"q","event":{"id":"e","deviceName":"d","profileName":"p","sourceName":"s","origin":1760000000000000001,"tags":{"a":"b"},
            "readings":[{"id":"i","origin":1760000000000000003,"resourceName":"t","valueType":"Int8","value":"1","units":"C"},{"resourceName":"id","valueType":"Int8","value":"2"}]}}"#;
        let row = row(request, "c").unwrap();
        let header = |name: &str| {
            let found = row.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(header("origin"), Some("1760000000000000001"));
        assert_eq!(
            (header("id"), header("correlationid")),
            (Some("e"), Some("c"))
        );
        assert_eq!(header("tags"), Some(r#"{"a":"b"}"#));
        assert_eq!(
            header("t"),
            Some(r#"{"id":"i","origin":1760000000000000003,"valueType":"Int8","units":"C"}"#)
        );
        assert_eq!(String::from_utf8(row.json).unwrap(), r#"{"t":1,"id":2}"#);
    }
}
