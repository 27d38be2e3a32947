//! Events, requests and commands as EdgeX reads them, from rows. The value type of a reading comes
//! from its JSON value, or from the metadata that a row carries along (`metadata`).
//! Source of the formats: go-mod-core-contracts, `dtos/reading.go` and `common/constants.go`;
//! go-mod-messaging, `types/message_envelope.go`.

use serde::Deserialize;
use serde_json::value::RawValue;
use windlass_connector::{base64_encode, write_json_text};

use crate::pairs::{self, Pairs};

/// What is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MessageType {
    /// An event.
    #[default]
    Event,
    /// A request to add an event.
    Request,
    /// The settings of a command to a device.
    Command,
}

/// The form of the envelope.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Version {
    V2,
    V3,
    /// The payload is inline.
    #[default]
    V4,
}

/// How events are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maker {
    pub(crate) message_type: MessageType,
    pub(crate) version: Version,
    /// The field of a row that holds its metadata.
    pub(crate) metadata: Option<String>,
    pub(crate) profile: String,
    pub(crate) device: String,
    pub(crate) source: String,
}

/// What has no sense of its own: ids and the time, so that a test can give them.
pub(crate) trait Fresh {
    /// A new UUID.
    fn uuid(&mut self) -> String;
    /// Nanoseconds since 1970.
    fn now(&mut self) -> u64;
}

/// A message for the bus.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// The envelope.
    pub(crate) envelope: Vec<u8>,
    /// `<profile>/<device>/<source>`, for a topic with a prefix.
    pub(crate) path: String,
    /// Fields that have no place in an event, and why.
    pub(crate) left_out: Vec<String>,
}

impl Maker {
    /// The rows of one message as one event.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn make(&self, payload: &[u8], fresh: &mut impl Fresh) -> Result<Made, String> {
        let text = std::str::from_utf8(payload).map_err(|_| "the message is not UTF-8")?;
        let rows: Vec<Pairs<'_>> = if text.trim_start().starts_with('[') {
            serde_json::from_str(text)
                .map_err(|error| format!("the message is no list of objects: {error}"))?
        } else {
            vec![
                pairs::parse(text)
                    .map_err(|why| format!("the message is no JSON object: {why}"))?,
            ]
        };
        let mut left_out = Vec::new();
        let request = fresh.uuid();
        let (body, path) = match self.message_type {
            MessageType::Command => (settings(&rows)?, String::new()),
            kind => {
                let (event, path) = self.event(&rows, fresh, &mut left_out)?;
                if kind == MessageType::Event {
                    (event, path)
                } else {
                    let mut body = br#"{"apiVersion":"#.to_vec();
                    write_json_text(&mut body, self.api_version());
                    body.extend_from_slice(br#","requestId":"#);
                    write_json_text(&mut body, &request);
                    body.extend_from_slice(br#","event":"#);
                    body.extend_from_slice(&event);
                    body.push(b'}');
                    (body, path)
                }
            }
        };
        let request = if self.message_type == MessageType::Command {
            request.as_str()
        } else {
            ""
        };
        Ok(Made {
            envelope: self.envelope(&body, request, fresh),
            path,
            left_out,
        })
    }

    fn api_version(&self) -> &'static str {
        if self.version == Version::V2 {
            "v2"
        } else {
            "v3"
        }
    }

    fn envelope(&self, body: &[u8], request: &str, fresh: &mut impl Fresh) -> Vec<u8> {
        let mut out = Vec::with_capacity(body.len() + 256);
        let mut member = |name: &str, value: &str| {
            out.push(if out.is_empty() { b'{' } else { b',' });
            write_json_text(&mut out, name);
            out.push(b':');
            write_json_text(&mut out, value);
        };
        member("apiVersion", self.api_version());
        member("receivedTopic", "");
        member("correlationID", &fresh.uuid());
        member("requestID", request);
        out.extend_from_slice(br#","errorCode":0,"payload":"#);
        match self.version {
            Version::V4 => out.extend_from_slice(body),
            Version::V2 | Version::V3 => write_json_text(&mut out, &base64_encode(body)),
        }
        out.extend_from_slice(br#","contentType":"application/json"}"#);
        out
    }

    fn event(
        &self,
        rows: &[Pairs<'_>],
        fresh: &mut impl Fresh,
        left_out: &mut Vec<String>,
    ) -> Result<(Vec<u8>, String), String> {
        let about = rows
            .iter()
            .find_map(|row| row.get(self.metadata.as_deref()?));
        let about = about.map(unwrapped).unwrap_or_default();
        let about = if about.is_empty() {
            Pairs::default()
        } else {
            pairs::parse(&about).map_err(|why| format!("the metadata are no object: {why}"))?
        };
        let text =
            |name: &str, standard: &str| about.text(name).unwrap_or_else(|| standard.to_owned());
        let profile = text("profileName", &self.profile);
        let device = text("deviceName", &self.device);
        let source = text("sourceName", &self.source);
        let origin = number(&about, "origin").unwrap_or_else(|| fresh.now().to_string());
        let mut out = Object::default();
        out.text("apiVersion", self.api_version());
        out.text("id", &about.text("id").unwrap_or_else(|| fresh.uuid()));
        out.text("deviceName", &device);
        out.text("profileName", &profile);
        out.text("sourceName", &source);
        out.raw("origin", origin.as_bytes());
        let mut readings = vec![b'['];
        for row in rows {
            for (name, value) in &row.0 {
                if Some(name) == self.metadata.as_ref() {
                    continue;
                }
                let own = about.get(name).map(unwrapped).unwrap_or_default();
                let own = pairs::parse(&own).unwrap_or_default();
                match kind_of(&own, value) {
                    Ok(None) => {}
                    Ok(Some((kind, place, text))) => {
                        if readings.len() > 1 {
                            readings.push(b',');
                        }
                        let mut reading = Object::default();
                        reading.text("id", &own.text("id").unwrap_or_else(|| fresh.uuid()));
                        let when = number(&own, "origin").unwrap_or_else(|| origin.clone());
                        reading.raw("origin", when.as_bytes());
                        reading.text(
                            "deviceName",
                            &own.text("deviceName").unwrap_or_else(|| device.clone()),
                        );
                        reading.text("resourceName", name);
                        reading.text(
                            "profileName",
                            &own.text("profileName").unwrap_or_else(|| profile.clone()),
                        );
                        reading.text("valueType", &kind);
                        if let Some(units) = own.text("units") {
                            reading.text("units", &units);
                        }
                        if place == "binaryValue" {
                            let media = own.text("mediaType");
                            reading.text(
                                "mediaType",
                                media.as_deref().unwrap_or("application/octet-stream"),
                            );
                        }
                        reading.raw(place, text.as_bytes());
                        readings.extend_from_slice(&reading.end());
                    }
                    Err(why) => left_out.push(format!("{name}: {why}")),
                }
            }
        }
        if readings.len() == 1 {
            let why = left_out
                .first()
                .map_or("all of them are null", String::as_str);
            return Err(format!(
                "an event needs a reading, and no field can be one: {why}"
            ));
        }
        readings.push(b']');
        out.raw("readings", &readings);
        if let Some(tags) = about
            .get("tags")
            .map(unwrapped)
            .filter(|tags| tags.starts_with('{'))
        {
            out.raw("tags", tags.as_bytes());
        }
        Ok((out.end(), format!("{profile}/{device}/{source}")))
    }
}

/// What `meta(*)` gives holds objects as texts: an object in either form.
fn unwrapped(value: &RawValue) -> String {
    let text = value.get();
    if text.starts_with('"') {
        serde_json::from_str(text).unwrap_or_default()
    } else {
        text.to_owned()
    }
}

/// Nanoseconds in metadata: a number, or one as a text.
fn number(about: &Pairs<'_>, name: &str) -> Option<String> {
    let text = unwrapped(about.get(name)?);
    text.parse::<i64>().is_ok().then_some(text)
}

/// A command's settings: each a text, as device services take them; objects and lists as they are.
fn settings(rows: &[Pairs<'_>]) -> Result<Vec<u8>, String> {
    let mut out = Object::default();
    for (name, value) in rows.iter().flat_map(|row| &row.0) {
        let text = value.get();
        match text.as_bytes().first() {
            Some(b'n') => {}
            Some(b'"' | b'{' | b'[') => out.raw(name, text.as_bytes()),
            _ => out.text(name, text),
        }
    }
    if out.0.is_empty() {
        return Err("a command needs a setting, and all fields are null".to_owned());
    }
    Ok(out.end())
}

/// A reading: its value type, the member that holds the value, and the value there as JSON.
type Reading = (String, &'static str, String);

/// None: null, which is no reading.
fn kind_of(own: &Pairs<'_>, value: &RawValue) -> Result<Option<Reading>, String> {
    let text = value.get();
    if text == "null" {
        return Ok(None);
    }
    let kind = match own.text("valueType") {
        Some(kind) => kind,
        None => match found(text) {
            Some(kind) => kind.to_owned(),
            None => return Ok(None),
        },
    };
    let (place, value) = match kind.as_str() {
        "Object" | "ObjectArray" => ("objectValue", text.to_owned()),
        "Binary" => {
            let is_text = text.starts_with('"');
            if !is_text {
                return Err("a Binary is base64, a text".to_owned());
            }
            ("binaryValue", text.to_owned())
        }
        _ => ("value", json_text(&simple(&kind, text)?)),
    };
    Ok(Some((kind, place, value)))
}

/// The value type that a JSON value has by itself, as eKuiper finds it.
fn found(text: &str) -> Option<&'static str> {
    Some(match text.as_bytes().first()? {
        b't' | b'f' => "Bool",
        b'"' => "String",
        b'{' => "Object",
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            let floats = items
                .iter()
                .any(|item| found(item.get()) == Some("Float64"));
            let large = items.iter().any(|item| found(item.get()) == Some("Uint64"));
            match items.first().map(|item| item.get()) {
                None => "StringArray",
                Some(first) => match found(first)? {
                    "Bool" => "BoolArray",
                    "String" => "StringArray",
                    "Int64" | "Uint64" | "Float64" if floats => "Float64Array",
                    "Int64" | "Uint64" if large => "Uint64Array",
                    "Int64" | "Uint64" => "Int64Array",
                    "Object" => "ObjectArray",
                    _ => "Object",
                },
            }
        }
        b'n' => return None,
        _ if text.parse::<i64>().is_ok() => "Int64",
        _ if text.parse::<u64>().is_ok() => "Uint64",
        _ => "Float64",
    })
}

/// A value as the text that EdgeX keeps of it.
fn simple(kind: &str, json: &str) -> Result<String, String> {
    let wrong = || {
        let json: String = json.chars().take(60).collect();
        format!("{json} is no {kind}")
    };
    if let Some(one) = kind.strip_suffix("Array") {
        let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| wrong())?;
        let items = items.into_iter().map(|item| {
            let text = simple(one, item.get())?;
            Ok(if one == "String" {
                json_text(&text)
            } else {
                text
            })
        });
        let items = items.collect::<Result<Vec<_>, String>>()?;
        return Ok(format!("[{}]", items.join(", ")));
    }
    let text: String = if json.starts_with('"') {
        serde_json::from_str(json).map_err(|_| wrong())?
    } else {
        json.to_owned()
    };
    let fits = match kind {
        "Bool" => matches!(text.as_str(), "true" | "false"),
        "Int8" => text.parse::<i8>().is_ok(),
        "Int16" => text.parse::<i16>().is_ok(),
        "Int32" => text.parse::<i32>().is_ok(),
        "Int64" => text.parse::<i64>().is_ok(),
        "Uint8" => text.parse::<u8>().is_ok(),
        "Uint16" => text.parse::<u16>().is_ok(),
        "Uint32" => text.parse::<u32>().is_ok(),
        "Uint64" => text.parse::<u64>().is_ok(),
        "Float32" | "Float64" => {
            let number: f64 = text.parse().map_err(|_| wrong())?;
            return if number.is_finite() {
                Ok(scientific(number))
            } else {
                Err(wrong())
            };
        }
        _ => true,
    };
    if fits { Ok(text) } else { Err(wrong()) }
}

/// As Go writes a float: `5e+01`, the shortest digits that give the same number back.
fn scientific(number: f64) -> String {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn json_text(text: &str) -> String {
    let mut out = Vec::new();
    write_json_text(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

/// A JSON object being written.
#[derive(Debug, Default)]
struct Object(Vec<u8>);

impl Object {
    fn raw(&mut self, name: &str, json: &[u8]) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        write_json_text(&mut self.0, name);
        self.0.push(b':');
        self.0.extend_from_slice(json);
    }

    fn text(&mut self, name: &str, text: &str) {
        let json = json_text(text);
        self.raw(name, json.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counted(u64);
    impl Fresh for Counted {
        fn uuid(&mut self) -> String {
            self.0 += 1;
            format!("u{}", self.0)
        }
        fn now(&mut self) -> u64 {
            1_760_000_000_000_000_001
        }
    }

    fn maker() -> Maker {
        Maker {
            profile: "p".to_owned(),
            device: "d".to_owned(),
            source: "s".to_owned(),
            metadata: Some("meta".to_owned()),
            ..Maker::default()
        }
    }

    fn made(maker: &Maker, row: &str) -> Result<(serde_json::Value, Made), String> {
        let made = maker.make(row.as_bytes(), &mut Counted(0))?;
        Ok((serde_json::from_slice(&made.envelope).unwrap(), made))
    }

    #[test]
    fn each_json_value_becomes_a_reading_of_its_type() {
        for (json, kind, place, wanted) in [
            ("true", "Bool", "value", r#""true""#),
            ("-7", "Int64", "value", r#""-7""#),
            (
                "18446744073709551615",
                "Uint64",
                "value",
                r#""18446744073709551615""#,
            ),
            ("50.0", "Float64", "value", r#""5e+01""#),
            ("-0.00125", "Float64", "value", r#""-1.25e-03""#),
            (r#""a\"b""#, "String", "value", r#""a\"b""#),
            ("[1, 2]", "Int64Array", "value", r#""[1, 2]""#),
            ("[1, 2.5]", "Float64Array", "value", r#""[1e+00, 2.5e+00]""#),
            (
                "[1, 18446744073709551615]",
                "Uint64Array",
                "value",
                r#""[1, 18446744073709551615]""#,
            ),
            (
                r#"["a","b"]"#,
                "StringArray",
                "value",
                r#""[\"a\", \"b\"]""#,
            ),
            ("[true]", "BoolArray", "value", r#""[true]""#),
            ("[]", "StringArray", "value", r#""[]""#),
            (
                r#"{"big":9007199254740993}"#,
                "Object",
                "objectValue",
                r#"{"big":9007199254740993}"#,
            ),
            (r#"[{"a":1}]"#, "ObjectArray", "objectValue", r#"[{"a":1}]"#),
        ] {
            let made = maker()
                .make(format!(r#"{{"r":{json}}}"#).as_bytes(), &mut Counted(0))
                .unwrap();
            let text = String::from_utf8(made.envelope).unwrap();
            let wanted = format!(
                r#""resourceName":"r","profileName":"p","valueType":"{kind}","{place}":{wanted}}}"#
            );
            assert!(text.contains(&wanted), "{json}: {text}");
        }
    }

    #[test]
    fn an_event_has_all_that_edgex_asks_for_and_its_metadata_count() {
        let (envelope, made) = made(&maker(), r#"[{"t":1,"gone":null},{"h":2}]"#).unwrap();
        assert_eq!(envelope["apiVersion"], "v3");
        assert_eq!(
            (&envelope["contentType"], &envelope["errorCode"]),
            (&"application/json".into(), &0.into())
        );
        let event = &envelope["payload"];
        assert_eq!(event["readings"].as_array().unwrap().len(), 2);
        assert_eq!(event["origin"], 1_760_000_000_000_000_001_u64);
        assert_eq!(made.path, "p/d/s");
        // As `meta(*)` gives it: objects and numbers as texts.
        let row = r#"{"t":7,"b":"AQID","meta":{"deviceName":"D","origin":"1700000000000000003","tags":"{\"a\":\"b\"}",
            "t":"{\"valueType\":\"Uint8\",\"origin\":5,\"units\":\"C\"}","b":{"valueType":"Binary","mediaType":"x/y"}}}"#;
        let (envelope, made) = self::made(&maker(), row).unwrap();
        let event = &envelope["payload"];
        assert_eq!(made.path, "p/D/s");
        assert_eq!(
            (&event["origin"], &event["tags"]["a"]),
            (&1_700_000_000_000_000_003_u64.into(), &"b".into())
        );
        let reading = &event["readings"][0];
        assert_eq!(
            (
                &reading["valueType"],
                &reading["value"],
                &reading["origin"],
                &reading["units"],
                &reading["deviceName"]
            ),
            (
                &"Uint8".into(),
                &"7".into(),
                &5.into(),
                &"C".into(),
                &"D".into()
            )
        );
        let binary = &event["readings"][1];
        assert_eq!(
            (&binary["binaryValue"], &binary["mediaType"]),
            (&"AQID".into(), &"x/y".into())
        );
    }

    #[test]
    fn a_value_that_its_type_does_not_take_is_left_out_and_said() {
        let row = r#"{"t":300,"h":1,"meta":{"t":{"valueType":"Uint8"}}}"#;
        let (envelope, made) = made(&maker(), row).unwrap();
        assert_eq!(envelope["payload"]["readings"].as_array().unwrap().len(), 1);
        assert_eq!(made.left_out, ["t: 300 is no Uint8"]);
        for none in [
            "{}",
            r#"{"t":null}"#,
            "7",
            "[7]",
            "nonsense",
            r#"{"t":300,"meta":{"t":{"valueType":"Uint8"}}}"#,
        ] {
            assert!(self::made(&maker(), none).is_err(), "{none}");
        }
    }

    #[test]
    fn requests_commands_and_older_envelopes_have_their_form() {
        let request = Maker {
            message_type: MessageType::Request,
            version: Version::V2,
            ..maker()
        };
        let (envelope, _) = made(&request, r#"{"t":1}"#).unwrap();
        assert_eq!(envelope["apiVersion"], "v2");
        let body =
            windlass_connector::base64_decode(envelope["payload"].as_str().unwrap()).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["event"]["readings"][0]["value"], "1");
        assert_eq!(
            (&body["apiVersion"], &body["requestId"]),
            (&"v2".into(), &"u1".into())
        );
        let command = Maker {
            message_type: MessageType::Command,
            ..maker()
        };
        let (envelope, _) = made(
            &command,
            r#"{"on":true,"level":7,"o":{"a":1},"x":null,"s":"t"}"#,
        )
        .unwrap();
        assert_eq!(
            envelope["payload"].to_string(),
            r#"{"level":"7","o":{"a":1},"on":"true","s":"t"}"#
        );
        assert_eq!(envelope["requestID"], "u1");
    }
}
