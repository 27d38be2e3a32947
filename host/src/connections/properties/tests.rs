//! What the reader of properties promises.

use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::json;

use super::*;

const KNOWN: &[Property] = &[
    Property::plain("server"),
    Property::plain("qos"),
    Property::plain("timeout"),
    Property::plain("servers"),
    Property::plain("headers"),
    Property::plain("optional"),
    Property::plain("cleanSession"),
    Property::plain("version"),
    Property::secret("password"),
    Property::ignored("kubeedgeVersion", "there is no KubeEdge here"),
];
const SECOND: Duration = Duration::from_secs(1);

fn props(value: Value) -> Properties {
    value.as_object().unwrap().clone()
}

#[test]
fn names_are_read_without_regard_to_case_and_every_type_has_its_getter() {
    let properties = props(json!({
        "SERVER": "tcp://h:1883", "qos": 1.0, "Timeout": "1m30s", "servers": ["a", "b"],
        "headers": {"a": "b", "n": 3}, "cleansession": true, "version": "V5", "password": "pw",
        "kubeEdgeVersion": "1", "optional": null,
    }));
    let mut reader = Reader::new(&properties, KNOWN, Path::new("/"));
    assert_eq!(reader.required_string("server"), "tcp://h:1883");
    assert_eq!(reader.integer("qos", 0_u8..=2), Some(1));
    assert_eq!(
        reader.duration("timeout", SECOND..=SECOND * 100),
        Some(SECOND * 90)
    );
    assert_eq!(
        reader.strings("servers"),
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
    let headers = reader.string_map("headers").unwrap();
    assert_eq!(headers[1], ("n".to_owned(), "3".to_owned()));
    assert_eq!(reader.bool("cleanSession"), Some(true));
    assert_eq!(reader.one_of("version", &["v4", "v5"]), Some("v5"));
    assert_eq!(reader.secret("password").unwrap().expose_secret(), "pw");
    assert!(!reader.has("optional"));
    assert!(!format!("{reader:?}").contains("pw"));
    let warnings = reader.finish().unwrap();
    assert_eq!(
        warnings,
        ["property \"kubeedgeVersion\" is ignored: there is no KubeEdge here"]
    );
}

#[test]
fn every_mistake_is_found_in_one_pass_with_its_place_and_what_is_allowed() {
    let properties = props(json!({
        "servr": "x", "qos": 7, "Timeout": "fast", "cleanSession": "yes", "password": 5,
        "version": "v6", "servers": [1], "headers": [], "optional": {"a/b": 1},
    }));
    let mut reader = Reader::new(&properties, KNOWN, Path::new("/"));
    assert_eq!(reader.required_string("server"), "");
    assert_eq!(reader.integer("qos", 0_u8..=2), None);
    assert_eq!(reader.duration("timeout", SECOND..=SECOND * 3600), None);
    assert_eq!(reader.bool("cleanSession"), None);
    assert!(reader.secret("password").is_none());
    assert_eq!(reader.one_of("version", &["v4", "v5"]), None);
    assert_eq!(reader.strings("servers"), None);
    assert_eq!(reader.string_map("headers"), None);
    reader.nested("optional", &[], |_| ());
    let texts: Vec<_> = reader
        .finish()
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        texts,
        [
            "/props/servr: unknown property; did you mean \"server\"? Allowed: server, qos, \
             timeout, servers, headers, optional, cleanSession, version, password",
            "/props/server: is missing; it must be a string that is not empty",
            "/props/qos: found the number 7; must be a whole number from 0 to 2",
            "/props/Timeout: found the string \"fast\"; must be a time from 1s to 1h: a string \
             such as \"1m30s\" or \"500ms\", or milliseconds as a number",
            "/props/cleanSession: found the string \"yes\"; must be true or false",
            "/props/password: found a number; must be a string",
            "/props/version: found the string \"v6\"; did you mean \"v4\"? Allowed: v4, v5",
            "/props/servers: found a list; must be a list of strings",
            "/props/headers: found a list; must be an object of names and strings",
            "/props/optional/a~1b: unknown property; Allowed: ",
        ]
    );
}

#[test]
fn one_property_in_two_spellings_is_refused() {
    let properties = props(json!({"qos": 1, "QoS": 2}));
    let reader = Reader::new(&properties, KNOWN, Path::new("/"));
    assert!(
        reader.finish().unwrap_err()[0]
            .message
            .contains("given as \"qos\" too")
    );
}

#[test]
fn a_secret_comes_from_a_file_or_the_environment_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "from a file\n").unwrap();
    let read = |text: &str| {
        let properties = props(json!({"password": text}));
        let mut reader = Reader::new(&properties, KNOWN, folder.path());
        let secret = reader
            .secret("password")
            .map(|s| s.expose_secret().to_owned());
        reader
            .finish()
            .map(|_| secret.unwrap())
            .map_err(|errors| errors[0].to_string())
    };
    assert_eq!(read("file:pw").unwrap(), "from a file");
    assert_eq!(read("env:PATH").unwrap(), std::env::var("PATH").unwrap());
    std::fs::write(folder.path().join("pw"), "rotated").unwrap();
    assert_eq!(read("file:pw").unwrap(), "rotated");
    assert!(
        read("file:none")
            .unwrap_err()
            .contains("refers to the file \"none\": No such file")
    );
    assert!(read("file:.").unwrap_err().contains("not a regular file"));
    assert!(
        read("env:WINDLASS_NOT_SET_1")
            .unwrap_err()
            .contains("\"WINDLASS_NOT_SET_1\"")
    );
}

#[test]
fn times_are_read_as_go_writes_them() {
    for (text, ms) in [
        ("1m30s", 90_000),
        ("500ms", 500),
        ("1.5h", 5_400_000),
        ("0", 0),
        (".5s", 500),
    ] {
        assert_eq!(
            parse_duration(text),
            Some(Duration::from_millis(ms)),
            "{text}"
        );
    }
    for text in [
        "",
        "10",
        "s",
        "-1s",
        "1x",
        "1 s",
        ".s",
        "99999999999999999999s",
        "1.2.3s",
    ] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_of_times_panic(text in ".*") {
        prop_assert!(parse_duration(&text).is_none_or(|time| time < Duration::MAX));
    }

    #[test]
    fn a_time_in_milliseconds_reads_the_same_as_number_and_as_text(ms in 0_u64..10_000_000) {
        let properties = props(json!({"timeout": ms, "server": format!("{ms}ms")}));
        let mut reader = Reader::new(&properties, KNOWN, Path::new("/"));
        let all = Duration::ZERO..=Duration::MAX;
        let read = reader.duration("timeout", all.clone());
        prop_assert_eq!(read, reader.duration("server", all));
        prop_assert_eq!(read, Some(Duration::from_millis(ms)));
    }
}

#[test]
fn a_time_that_a_call_does_not_leave_is_named_with_the_calls_own() {
    const IN_CALL: &[Property] = &[
        Property::plain("timeout").duration_in_call(),
        Property::plain("connectTimeout").duration(),
    ];
    let call = 10 * SECOND;
    for (given, late) in [
        (
            json!({ "timeout": "9500ms", "connectTimeout": "60s" }),
            false,
        ),
        (json!({}), false),
        (json!({ "timeout": "x" }), false),
        (json!({ "timeout": 9501 }), true),
        (json!({ "TIMEOUT": "1m" }), true),
    ] {
        let given = props(given);
        let found = beyond_call(&given, IN_CALL, call);
        assert_eq!(found.len(), usize::from(late), "{given:?}");
        for (name, words) in found {
            assert!(given.contains_key(name), "{name}");
            assert!(
                words.contains("callDeadline") && words.contains("10s"),
                "{words}"
            );
        }
    }
}
