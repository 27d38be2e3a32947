//! The connectors in C, built by `windlass connector build` and used in a rule: frames that `checksum`
//! makes are taken apart by `frames`, and what is damaged goes where it was told to go.

use std::time::Duration;

use serde_json::json;
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::toolchain::{Plain, expect_connector, root};
use windlass_tests::windlass::Windlass;

use crate::settings::wait_ready;

/// Builds one of `guests/c`; answers its component.
fn build(place: &std::path::Path, name: &str) -> std::path::PathBuf {
    let file = place.join(format!("{name}.wasm"));
    let folder = root().join("guests/c").join(name);
    expect_connector(
        place,
        &[
            "build",
            &folder.display().to_string(),
            "-o",
            &file.display().to_string(),
        ],
    );
    file
}

/// `[length][payload][CRC-16/MODBUS, low byte first]`, calculated here by another way than the
/// connectors': from the polynomial as it is written, bits reversed.
fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::try_from(payload.len()).expect("short")];
    frame.extend_from_slice(payload);
    let mut crc = 0xffff_u16;
    for byte in &frame {
        crc ^= u16::from(byte.reverse_bits()) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x8005;
            }
        }
    }
    frame.extend_from_slice(&crc.reverse_bits().to_le_bytes());
    frame
}

#[test]
fn frames_are_taken_apart_and_damaged_ones_go_on_under_their_own_subject() {
    let _machine = shared();
    let place = tempfile::tempdir().expect("a folder");
    let broker = Mosquitto::start();
    let mut far = Plain::connect(broker.port(), "far", Some("out/#"));
    let props =
        json!({ "connectionSelector": "line", "broken": "forward", "brokenSubject": "broken" });
    let manifest = Manifest::new()
        .connector("frames", &build(place.path(), "frames"))
        .mqtt("line", &broker.url())
        .conf_key("frames", "serial", props)
        .stream(r#"CREATE STREAM serial () WITH (TYPE="frames", DATASOURCE="line/+", FORMAT="binary", CONF_KEY="serial")"#)
        .rule(
            "good",
            r#"SELECT * FROM serial WHERE meta(topic) != "broken""#,
            json!([{ "mqtt": { "connectionSelector": "line", "topic": "out/good", "sendSingle": true, "format": "binary" } }]),
        )
        .rule(
            "bad",
            r#"SELECT * FROM serial WHERE meta(topic) = "broken""#,
            json!([{ "mqtt": { "connectionSelector": "line", "topic": "out/bad", "sendSingle": true, "format": "binary" } }]),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["line"], &["good", "bad"]);
    let mut damaged = framed(b"two");
    damaged[2] ^= 1;
    let line = [
        framed(b"one"),
        damaged.clone(),
        framed(b"\x00\xff"),
        vec![9, b'c'],
    ]
    .concat();
    Plain::connect(broker.port(), "near", None).publish("line/1", &line);
    let mut arrived = Vec::new();
    while arrived.len() < 4 {
        let next = far.receive(Duration::from_secs(30));
        arrived.push(next.unwrap_or_else(|| panic!("only {arrived:?}; {}", windlass.log())));
    }
    let of = |topic: &str| -> Vec<Vec<u8>> {
        let of_it = arrived.iter().filter(|(from, _)| from == topic);
        of_it.map(|(_, payload)| payload.clone()).collect()
    };
    assert_eq!(of("out/good"), [b"one".to_vec(), b"\x00\xff".to_vec()]);
    assert_eq!(of("out/bad"), [damaged, vec![9, b'c']]);
}

#[test]
fn a_sink_frames_payloads_and_what_is_too_long_is_a_dead_letter() {
    let _machine = shared();
    let place = tempfile::tempdir().expect("a folder");
    let broker = Mosquitto::start();
    let mut far = Plain::connect(broker.port(), "far", Some("line"));
    let manifest = Manifest::new()
        .connector("checksum", &build(place.path(), "checksum"))
        .mqtt("plant", &broker.url())
        .mqtt_stream("demo", "plant", "in/#", 1, false)
        .rule(
            "seal",
            "SELECT * FROM demo",
            json!([{ "checksum": { "connectionSelector": "plant", "topic": "line", "sendSingle": true } }]),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["seal"]);
    let mut near = Plain::connect(broker.port(), "near", None);
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(300));
    for payload in [r#"{"n":1}"#, &long, r#"{"n":2}"#] {
        near.publish("in/1", payload.as_bytes());
    }
    for expected in [r#"{"n":1}"#, r#"{"n":2}"#] {
        let (_, payload) = far
            .receive(Duration::from_secs(30))
            .unwrap_or_else(|| panic!("nothing came; {}", windlass.log()));
        assert_eq!(payload, framed(expected.as_bytes()));
    }
    wait_until(
        Duration::from_secs(10),
        "the long one is a dead letter",
        || windlass.counter("seal", "deadLetters") == Some(1),
    );
}
