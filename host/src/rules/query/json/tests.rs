use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

fn shallow(text: &[u8]) -> Result<Vec<Map<String, Value>>, JsonError> {
    let (mut objects, mut entries) = (Vec::new(), Vec::new());
    parse(text, &mut objects, &mut entries)?;
    let row = |object: &Object| {
        entries[object.entries.start as usize..object.entries.end as usize]
            .iter()
            .map(|entry| {
                let value = serde_json::from_slice(entry.value.of(text)).unwrap();
                (unescape(entry.key.of(text)).into_owned(), value)
            })
            .collect()
    };
    Ok(objects.iter().map(row).collect())
}

fn json() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        "[a-c]{0,2}",
        any::<String>(),
        Just("\\\"\u{1}\u{7f}\u{1f600}\n/".to_owned()),
    ];
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        (-1e300..1e300f64).prop_map(|n| format!("{n:e}")),
        Just("-0".to_owned()),
        Just("1.50E+3".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
    ];
    let string = text.clone().prop_map(|text| {
        // Some characters as escapes, pairs included.
        let plain = serde_json::to_string(&text).unwrap();
        let mut out = String::new();
        for c in plain.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                c.encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|u| out += &format!("\\u{u:04X}"));
            }
        }
        out
    });
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        number,
        string.clone(),
    ];
    let space = prop_oneof![Just(""), Just(" "), Just("\r\n\t")];
    let value = leaf.prop_recursive(4, 40, 6, move |inner| {
        let member = (string.clone(), space.clone(), inner.clone())
            .prop_map(|(key, space, value)| format!("{key}{space}:{space}{value}"));
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(|all| format!("[{}]", all.join(" ,"))),
            prop::collection::vec(member, 0..5).prop_map(|all| format!("{{{}}}", all.join(", "))),
        ]
    });
    let object = prop::collection::vec(("[a-c]{0,2}", value), 0..6).prop_map(|members| {
        let members: Vec<_> = members
            .iter()
            .map(|(k, v)| format!("\"{k}\":{v}"))
            .collect();
        format!("{{{}}}", members.join(","))
    });
    (object.clone(), object, any::<bool>())
        .prop_map(|(a, b, list)| if list { format!(" [{a},{b}] ") } else { a })
}

proptest! {
    #[test]
    fn the_pass_without_a_tree_agrees_with_a_full_decoder(text in json()) {
        let full: Value = serde_json::from_str(&text).unwrap();
        let full: Vec<Map<String, Value>> = match full {
            Value::Array(all) => {
                all.into_iter().map(|v| v.as_object().unwrap().clone()).collect()
            }
            one => vec![one.as_object().unwrap().clone()],
        };
        prop_assert_eq!(shallow(text.as_bytes()).unwrap(), full);
    }

    #[test]
    fn damaged_text_is_refused_exactly_when_a_full_decoder_refuses_it(
        text in json(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let full = serde_json::from_slice::<Value>(&text);
        let known_to_differ = matches!(&full, Err(error)
            if error.to_string().contains("surrogate") || error.to_string().contains("out of range")
                || error.to_string().contains("unexpected end of hex escape"));
        if !known_to_differ {
            let rows = full.ok().is_some_and(|v| match v {
                Value::Object(_) => true,
                Value::Array(all) => all.iter().all(Value::is_object),
                _ => false,
            });
            let (mut objects, mut entries) = (Vec::new(), Vec::new());
            prop_assert_eq!(parse(&text, &mut objects, &mut entries).is_ok(), rows);
        }
    }

    #[test]
    fn a_string_written_reads_back(text in any::<String>()) {
        let mut out = Vec::new();
        write_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}

#[test]
fn the_last_of_equal_names_counts_and_nesting_is_found() {
    let text = br#"{"a":{"b":1,"\u0062":[1,{"c":"x"}]},"a2":0}"#;
    let inner = find(text, "a").unwrap();
    assert_eq!(find(inner, "b").unwrap(), br#"[1,{"c":"x"}]"#);
    assert_eq!(
        elements(find(inner, "b").unwrap()).nth(1).unwrap(),
        br#"{"c":"x"}"#
    );
    assert_eq!(find(text, "missing"), None);
}

#[test]
fn half_a_surrogate_pair_is_replaced_and_a_pair_is_one_character() {
    assert_eq!(unescape(br"a\ud83d\ude00b"), "a\u{1f600}b");
    assert_eq!(unescape(br"\ud83dx\ude00"), "\u{fffd}x\u{fffd}");
}

#[test]
fn deep_nesting_is_refused_and_not_a_stack_overflow() {
    let text = format!("{{\"a\":{}", "[".repeat(100_000));
    let error = parse(text.as_bytes(), &mut Vec::new(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.what, "nested too deeply");
}

#[test]
fn errors_name_the_byte() {
    for (text, at) in [
        ("", 0),
        ("12", 2),
        ("[1]", 2),
        ("{\"a\":1}x", 7),
        ("{\"a\":tru}", 5),
    ] {
        let error = parse(text.as_bytes(), &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.at, at, "{text}: {error}");
    }
}
