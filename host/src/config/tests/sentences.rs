//! One sentence for each wrong shape.

use super::mistakes;

/// One wrong thing, in an otherwise sound manifest, and its sentence.
#[test]
fn every_wrong_shape_has_its_sentence() {
    let rule = |extra: &str| {
        format!("rules:\n  - id: r\n    sql: s\n    actions: [{{log: {{}}}}]\n    {extra}\n")
    };
    let cases = [
        (
            "7".to_owned(),
            "1:1: a manifest must be a mapping, found a number",
        ),
        (
            "rules: 7".to_owned(),
            "1:8: \"rules\" must be a list, or a mapping by id, found a number",
        ),
        (
            "confKeys: []".to_owned(),
            "1:11: \"confKeys\" must be a mapping, found a list",
        ),
        (
            "confKeys: {mqtt: []}".to_owned(),
            "1:18: the conf keys of a type must be a mapping, found a list",
        ),
        (
            "confKeys: {mqtt: {a: 1}}".to_owned(),
            "1:22: a conf key must be a mapping, found a number",
        ),
        (
            "confKeys: {mqtt: {a.b: {}}}".to_owned(),
            "1:19: conf key 'a.b' contains invalid characters: only alphanumeric, hyphens and underscores are allowed",
        ),
        (
            "connectors: {x: 1}".to_owned(),
            "1:17: this must be a path: the connector's .wasm file; found a number",
        ),
        (
            "connectors: {a b: x.wasm}".to_owned(),
            "1:14: connector name 'a b' contains invalid characters: only alphanumeric, hyphens and underscores are allowed",
        ),
        (
            "files: {rot: x}".to_owned(),
            "1:9: unknown key of \"files\" \"rot\"; did you mean \"root\"? Allowed: root",
        ),
        (
            "connections: [{typ: mqtt}]".to_owned(),
            "1:15: a connection needs an \"id\"",
        ),
        (
            "connections: [{id: 7, typ: mqtt}]".to_owned(),
            "1:20: the id of a connection must be text, found a number; put it in quotes",
        ),
        (
            "connections: [{id: a}]".to_owned(),
            "1:15: \"typ\" is missing: the connection type, \"mqtt\" for one",
        ),
        (
            "connections: [{id: a, typ: mqtt, props: 1}]".to_owned(),
            "1:41: \"props\" must be a mapping, found a number",
        ),
        (
            "connections: [{id: a, typ: mqtt, server: x}]".to_owned(),
            "1:34: unknown key of a connection \"server\"; Allowed: id, typ, props; properties stand below \"props\"",
        ),
        (
            "connections: {a: {id: b, typ: mqtt}}".to_owned(),
            "1:23: the id 'b' is not the key 'a' it stands under",
        ),
        (
            "streams: [7]".to_owned(),
            "1:11: a stream must be text (CREATE STREAM …) or {\"sql\": …}, found a number",
        ),
        (
            "streams: [{sq: x}]".to_owned(),
            "1:11: \"sql\" is missing: CREATE STREAM …",
        ),
        (
            "streams: {a: CREATE STREAM b () WITH ()}".to_owned(),
            "1:14: the stream 'b' is not the key 'a' it stands under",
        ),
        (
            "limits: {guestCpu: 0}".to_owned(),
            "1:20: \"guestCpu\" must be more than zero",
        ),
        (
            "limits: {guestCpu: soon}".to_owned(),
            "1:20: \"guestCpu\" must be milliseconds or text like \"1m30s\", found \"soon\"",
        ),
        (
            "limits: {guestMemoryBytes: 12 apples}".to_owned(),
            "1:28: \"guestMemoryBytes\" must be a number of bytes, at least 1048576, with or without a unit (KiB, MiB, GiB), found \"12 apples\"",
        ),
        (
            "limits: {unsettledMessages: 65536}".to_owned(),
            "1:29: \"unsettledMessages\" must be a whole number from 1 to 65535, found 65536",
        ),
        (
            rule("graph: {}"),
            "5:5: \"graph\" is not supported; write the rule as \"sql\"",
        ),
        (
            rule("triggered: maybe"),
            "5:16: \"triggered\" must be true or false, found text",
        ),
        (
            rule("tags: x"),
            "5:11: \"tags\" must be a list of texts, found text",
        ),
        (
            rule("tags: [1]"),
            "5:12: a tag must be text, found a number",
        ),
        (
            rule("options: 1"),
            "5:14: \"options\" must be a mapping, found a number",
        ),
        (
            rule("options: {qos: 3}"),
            "5:20: \"qos\" must be a whole number from 0 to 2, found 3",
        ),
        (
            rule("options: {bufferLength: 0}"),
            "5:29: \"bufferLength\" must be a whole number from 1 to 1000000, found 0",
        ),
        (
            rule("options: {bufferlenght: 1}"),
            "5:15: unknown option \"bufferlenght\"; did you mean \"bufferLength\"? Allowed: qos, bufferLength, \
             restartStrategy, sendNilField, overflow, diskQueueBytes, deadLetters",
        ),
        (
            rule("options: {overflow: dropoldest}"),
            "5:25: unknown overflow \"dropoldest\"; did you mean \"drop-oldest\"? Allowed: block, drop-oldest",
        ),
        (
            rule("options: {restartStrategy: {multiplier: 0.5}}"),
            "5:45: \"multiplier\" must be a number from 1 to 1000, found 0.5",
        ),
        (
            rule("options: {restartStrategy: {attempt: 1}}"),
            "5:33: unknown key of \"restartStrategy\" \"attempt\"; did you mean \"attempts\"? \
             Allowed: attempts, delay, multiplier, maxDelay, jitterFactor",
        ),
        (
            "rules: [{id: r, sql: s, actions: []}]".to_owned(),
            "1:34: \"actions\" is empty: a rule needs a list like [{\"log\": {}}]",
        ),
        (
            "rules: [{id: r, sql: s, actions: {log: {}}}]".to_owned(),
            "1:34: \"actions\" must be a list like [{\"log\": {}}], found a mapping",
        ),
        (
            "rules: [{id: r, sql: s, actions: [log]}]".to_owned(),
            "1:35: an action must be a mapping from a connector's name to its properties, found text",
        ),
        (
            "rules: [{id: r, sql: s, actions: [{log: 1}]}]".to_owned(),
            "1:41: the properties of an action must be a mapping, found a number",
        ),
        (
            "rules: [{id: r, sql: 1, actions: [{log: }]}]".to_owned(),
            "1:22: \"sql\" must be text, found a number",
        ),
        (
            "connections: [{id: a, typ: mqtt, props: {server: \"${HOST}\"}}]".to_owned(),
            "1:50: the variable HOST is not set; set it, or give a default: ${HOST:-default}",
        ),
    ];
    for (text, expected) in cases {
        let found = mistakes(&text);
        assert!(
            found.contains(&format!("m.yaml:{expected}")),
            "{text}\nexpected {expected}\nfound {found:#?}"
        );
    }
}
