use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::rules::query::{Delimited, Query};

fn planned(properties: Value) -> Planned {
    OutputPlan::from_properties(properties.as_object().unwrap(), &[])
        .unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// A template for the messages' subjects.
fn subject(template: &str) -> Addressed {
    let template = DynamicProperty::parse(template).unwrap();
    Addressed {
        rendered: Rendered::Text(template),
        place: Place::Subject,
    }
}

fn rows(payloads: &[&str], format: Format) -> RowBatch {
    let messages: Vec<_> = payloads
        .iter()
        .map(|p| Message {
            subject: "in".into(),
            ..Message::new((*p).to_owned())
        })
        .collect();
    RowBatch::new(Batch::from(messages), format)
}

fn run(properties: Value, sql: &str, payloads: &[&str]) -> (Vec<String>, Output) {
    let rows = rows(payloads, Format::Json);
    let selection = Query::parse(sql).unwrap().run(&rows);
    let output = planned(properties).plan.apply(&rows, &selection);
    let texts = output
        .batch
        .iter()
        .map(|m| String::from_utf8(m.payload.to_vec()).unwrap());
    (texts.collect(), output)
}

const ALL: &str = "SELECT * FROM s";

#[test]
fn whole_messages_pass_as_the_very_same_batch_and_the_very_same_bytes() {
    let plan = planned(json!({"sendSingle": true})).plan;
    let rows = rows(&["not even json", r#"{"a":7}"#], Format::Json);
    let all = Query::parse(ALL).unwrap().run(&rows);
    let output = plan.apply(&rows, &all);
    assert!(std::ptr::eq(
        output.batch.messages(),
        rows.batch().messages()
    ));
    assert!(output.sources.is_none() && output.failures.is_empty());

    let some = Query::parse("SELECT * FROM s WHERE a > 5")
        .unwrap()
        .run(&rows);
    let output = plan.apply(&rows, &some);
    assert_eq!(output.sources, Some(vec![1]));
    assert_eq!(
        output.batch[0].payload.as_ptr(),
        rows.batch()[1].payload.as_ptr()
    );

    // Also where a property is rendered for each message.
    let dynamic = subject("plant/{{.a}}");
    let output = plan.clone().with_dynamic(vec![dynamic]).apply(&rows, &some);
    assert_eq!(output.rendered, [["plant/7"]]);
    assert_eq!(
        output.batch[0].payload.as_ptr(),
        rows.batch()[1].payload.as_ptr()
    );
}

#[test]
fn binary_and_delimited_pass_untouched_to_the_same_format_only() {
    let selection = |rows: &RowBatch| Query::parse(ALL).unwrap().run(rows);
    let binary = rows(&["\u{1}x"], Format::Binary);
    let output = planned(json!({"format": "binary"}))
        .plan
        .apply(&binary, &selection(&binary));
    assert!(std::ptr::eq(
        output.batch.messages(),
        binary.batch().messages()
    ));
    let output = planned(json!({})).plan.apply(&binary, &selection(&binary));
    assert_eq!(output.batch[0].payload, r#"[{"self":"AXg="}]"#);

    let how = Delimited {
        delimiter: ",".to_owned(),
        columns: vec![("a".to_owned(), Some("bigint".to_owned()))],
    };
    let lines = rows(&["7,x"], Format::Delimited(Arc::new(how)));
    let plan = planned(json!({"format": "delimited", "sendSingle": true})).plan;
    let output = plan.apply(&lines, &selection(&lines));
    assert!(std::ptr::eq(
        output.batch.messages(),
        lines.batch().messages()
    ));
    let output = planned(json!({"sendSingle": true}))
        .plan
        .apply(&lines, &selection(&lines));
    assert_eq!(output.batch[0].payload, r#"{"a":7,"col1":"x"}"#);
}

#[test]
fn without_send_single_each_row_is_a_list_of_one() {
    let payloads = [r#"{"a":1}"#, r#"[{"a":2},{"a":3}]"#];
    let (texts, output) = run(json!({}), ALL, &payloads);
    assert_eq!(texts, [r#"[{"a":1}]"#, r#"[{"a":2}]"#, r#"[{"a":3}]"#]);
    assert_eq!(output.sources, Some(vec![0, 1, 1]));
    assert_eq!(&*output.batch[2].subject, "in");
    let (texts, _) = run(
        json!({"sendSingle": true}),
        "SELECT * FROM s WHERE a > 0",
        &payloads,
    );
    assert_eq!(texts, [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
    let (texts, _) = run(
        json!({"sendSingle": true}),
        "SELECT a+1 AS b FROM s",
        &payloads[..1],
    );
    assert_eq!(texts, [r#"{"b":2}"#]);
}

#[test]
fn fields_data_field_and_omit_if_empty_shape_a_row() {
    let payload = [r#"{"a":12345678901234567890,"b":"x","o":{"a":1,"c":2},"l":[{"a":3},{"a":4}]}"#];
    for (properties, expected) in [
        (
            json!({"fields": ["b", "a", "zz"]}),
            vec![r#"{"b":"x","a":12345678901234567890}"#],
        ),
        (
            json!({"excludeFields": ["l", "o", "a"]}),
            vec![r#"{"b":"x"}"#],
        ),
        (json!({"dataField": "o"}), vec![r#"{"a":1,"c":2}"#]),
        (
            json!({"tableDataField": "l"}),
            vec![r#"{"a":3}"#, r#"{"a":4}"#],
        ),
        (
            json!({"dataField": "l", "fields": ["zz"], "omitIfEmpty": true}),
            vec![],
        ),
        (json!({"fields": ["zz"]}), vec!["{}"]),
    ] {
        let mut properties = properties;
        properties["sendSingle"] = json!(true);
        let (texts, output) = run(properties.clone(), ALL, &payload);
        assert_eq!(texts, expected, "{properties}");
        assert!(output.failures.is_empty());
    }
    assert_eq!(
        run(json!({"dataField": "l"}), ALL, &payload).0,
        [r#"[{"a":3},{"a":4}]"#]
    );
    assert_eq!(
        run(json!({"dataField": "o"}), ALL, &payload).0,
        [r#"{"a":1,"c":2}"#]
    );
    let (texts, output) = run(json!({"dataField": "b"}), ALL, &payload);
    assert!(texts.is_empty());
    assert_eq!(
        output.failures[0].reason,
        "dataField \"b\" is neither an object nor a list of objects"
    );
}

#[test]
fn a_template_sees_the_row_or_the_list_and_later_steps_see_its_result() {
    let payload = [r#"{"t":31.5,"id":"a"}"#];
    let template = "{\"x\":{{.t}},\"y\":{{json .id}}}";
    let (texts, _) = run(
        json!({"sendSingle": true, "dataTemplate": template}),
        ALL,
        &payload,
    );
    assert_eq!(texts, [r#"{"x":31.5,"y":"a"}"#]);
    let (texts, _) = run(
        json!({"dataTemplate": "{{(index . 0).t}} degrees"}),
        ALL,
        &payload,
    );
    assert_eq!(texts, ["31.5 degrees"]);
    let later = json!({"sendSingle": true, "dataTemplate": template, "fields": ["y"]});
    assert_eq!(run(later, ALL, &payload).0, [r#"{"y":"a"}"#]);
    let line = json!({"sendSingle": true, "dataTemplate": template, "format": "delimited"});
    assert_eq!(run(line, ALL, &payload).0, ["31.5,a"]);
    let broken = json!({"dataTemplate": "x{{.t}}", "fields": ["y"]});
    assert!(
        run(broken, ALL, &payload).1.failures[0]
            .reason
            .contains("field t is asked of a list")
    );
}

#[test]
fn what_nobody_could_decode_is_a_dead_letter_once() {
    let payloads = ["{broken", r#"{"a":1}"#];
    let (texts, output) = run(json!({}), ALL, &payloads);
    assert_eq!(texts, [r#"[{"a":1}]"#]);
    assert_eq!(
        output.failures.iter().map(|f| f.index).collect::<Vec<_>>(),
        [0]
    );
    // Here the query has named it already.
    let (_, output) = run(json!({}), "SELECT * FROM s WHERE a > 0", &payloads);
    assert!(output.failures.is_empty());
}

#[test]
fn of_a_message_with_a_row_that_fails_nothing_is_sent() {
    let payloads = [r#"[{"o":{"a":1}},{"o":2}]"#, r#"{"o":{"a":3}}"#];
    let (texts, output) = run(json!({"dataField": "o"}), ALL, &payloads);
    assert_eq!(texts, [r#"{"a":3}"#]);
    assert_eq!(output.failures[0].index, 0);
    assert_eq!(output.sources, Some(vec![1]));
}

#[test]
fn a_property_that_cannot_be_rendered_is_a_dead_letter_of_that_message_alone() {
    let rows = rows(
        &[r#"{"line":"A"}"#, r#"{"b":1}"#, r#"{"line":"C"}"#],
        Format::Json,
    );
    let selection = Query::parse(ALL).unwrap().run(&rows);
    let properties = json!({"topic": "plant/{{.line}}/x", "sendSingle": true, "qos": 1});
    let properties = properties.as_object().unwrap();
    let planned = OutputPlan::from_properties(properties, &[]).unwrap();
    let dynamic = dynamic_properties(properties, &planned.consumed).unwrap();
    let at_subject = |(_, rendered)| Addressed {
        rendered,
        place: Place::Subject,
    };
    assert_eq!(dynamic[0].0, "topic");
    let plan = planned
        .plan
        .with_dynamic(dynamic.into_iter().map(at_subject).collect());
    let output = plan.apply(&rows, &selection);
    assert_eq!(output.rendered, [["plant/A/x"], ["plant/C/x"]]);
    assert_eq!(output.sources, Some(vec![0, 2]));
    assert_eq!(output.failures[0].index, 1);
}

#[test]
fn mistakes_are_refused_each_at_its_place() {
    for (properties, at, part) in [
        (
            json!({"batchSize": -1}),
            "/batchSize",
            "invalid batchSize -1",
        ),
        (
            json!({"lingerInterval": "soon"}),
            "/lingerInterval",
            "500ms",
        ),
        (
            json!({"lingerInterval": "2h"}),
            "/lingerInterval",
            "up to 1h",
        ),
        (
            json!({"fields": ["a"], "excludeFields": ["b"]}),
            "/excludeFields",
            "cannot both",
        ),
        (json!({"fields": "a"}), "/fields", "list of names"),
        (
            json!({"format": "jason"}),
            "/format",
            "did you mean \"json\"?",
        ),
        (
            json!({"format": "protobuf"}),
            "/format",
            "let the connector",
        ),
        (
            json!({"compression": "gzipp"}),
            "/compression",
            "did you mean \"gzip\"?",
        ),
        (
            json!({"compression": "gzip", "compressionProps": {"level": 99}}),
            "/compressionProps",
            "0 to 9",
        ),
        (
            json!({"encryption": "aes"}),
            "/encryption",
            "not encrypted here",
        ),
        (
            json!({"sendSingle": "maybe"}),
            "/sendSingle",
            "true or false",
        ),
        (
            json!({"dataTemplate": "{{with .a}}{{end}}"}),
            "/dataTemplate",
            "line 1, column 1: with is not supported",
        ),
        (
            json!({"format": "binary", "batchSize": 2}),
            "/batchSize",
            "binary payloads",
        ),
        (
            json!({"dataField": "a", "tableDataField": "b"}),
            "/tableDataField",
            "give one",
        ),
    ] {
        let errors = OutputPlan::from_properties(properties.as_object().unwrap(), &[]).unwrap_err();
        assert_eq!(errors.len(), 1, "{properties}: {errors:?}");
        assert_eq!(errors[0].at, at, "{properties}");
        assert!(
            errors[0].message.contains(part),
            "{properties}: {}",
            errors[0].message
        );
    }
    let two = json!({"batchSize": -1, "format": "x"});
    assert_eq!(
        OutputPlan::from_properties(two.as_object().unwrap(), &[])
            .unwrap_err()
            .len(),
        2
    );
}

#[test]
fn what_changes_nothing_warns_and_what_the_connector_keeps_is_left_alone() {
    let properties = json!({"concurrency": 4, "SENDSINGLE": true, "topic": "t", "compression": "own", "batchSize": 5});
    let planned =
        OutputPlan::from_properties(properties.as_object().unwrap(), &["compression"]).unwrap();
    let warned: Vec<_> = planned
        .warnings
        .iter()
        .map(|warning| warning.at.as_str())
        .collect();
    assert_eq!(warned, ["/concurrency", "/sendSingle"]);
    assert!(planned.consumed.contains(&"SENDSINGLE".to_owned()));
    assert!(
        !planned
            .consumed
            .iter()
            .any(|name| name == "compression" || name == "topic")
    );
    assert!(!planned.plan.is_batching());
}

/// The payloads with their tokens, tokens of failures, tokens of what was omitted.
type Seen = (Vec<(String, Vec<u32>)>, Vec<u32>, Vec<u32>);

fn seen(batched: Batched<u32>) -> Seen {
    let text = |m: &Message| String::from_utf8(m.payload.to_vec()).unwrap();
    (
        batched
            .messages
            .iter()
            .map(|(m, _, tokens)| (text(m), tokens.clone()))
            .collect(),
        batched.failures.iter().map(|(.., token)| *token).collect(),
        batched.omitted,
    )
}

fn push(batcher: &mut Batcher<u32>, sql: &str, payloads: &[&str]) -> Seen {
    let rows = rows(payloads, Format::Json);
    let selection = Query::parse(sql).unwrap().run(&rows);
    seen(batcher.push(&rows, &selection, Instant::now(), |index| index))
}

#[tokio::test(start_paused = true)]
async fn a_batcher_gives_out_full_payloads_with_the_tokens_of_all_that_is_in_them() {
    let plan = Arc::new(planned(json!({"batchSize": 3})).plan);
    let mut batcher = plan.batcher::<u32>().unwrap();
    assert_eq!(batcher.due(), None);
    let (given, ..) = push(
        &mut batcher,
        "SELECT a FROM s WHERE a > 0",
        &[r#"{"a":1}"#, r#"{"a":0}"#, r#"{"a":2}"#],
    );
    assert!(given.is_empty());
    assert_eq!(batcher.due(), Some(Instant::now() + Duration::from_secs(1)));
    tokio::time::advance(Duration::from_millis(400)).await;
    let (given, ..) = push(&mut batcher, ALL, &[r#"[{"a":3},{"a":4}]"#, r#"{"a":5}"#]);
    // The rows of one message stay together.
    assert_eq!(
        given,
        [(
            r#"[{"a":1},{"a":2},{"a":3},{"a":4}]"#.to_owned(),
            vec![0, 2, 0]
        )]
    );
    assert_eq!(
        (batcher.len(), batcher.due()),
        (1, Some(Instant::now() + Duration::from_secs(1)))
    );
    assert_eq!(
        seen(batcher.flush()).0,
        [(r#"[{"a":5}]"#.to_owned(), vec![1])]
    );
    assert!(batcher.is_empty() && batcher.due().is_none() && batcher.flush().messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_linger_interval_sets_when_the_first_row_is_due() {
    let plan = Arc::new(planned(json!({"lingerInterval": "1m30s"})).plan);
    let mut batcher = plan.batcher::<u32>().unwrap();
    push(&mut batcher, ALL, &[r#"{"a":1}"#]);
    let due = batcher.due();
    assert_eq!(due, Some(Instant::now() + Duration::from_secs(90)));
    tokio::time::advance(Duration::from_secs(5)).await;
    push(&mut batcher, ALL, &[r#"{"a":2}"#]);
    assert_eq!(batcher.due(), due);
}

#[tokio::test(start_paused = true)]
async fn in_a_batch_only_the_message_that_fails_is_a_dead_letter() {
    let template = "{{range $i, $r := .}}{{if $i}},{{end}}{{$r.o.v}}{{end}}";
    let plan = Arc::new(planned(json!({"batchSize": 3, "dataTemplate": template})).plan);
    let mut batcher = plan.batcher::<u32>().unwrap();
    let (given, failed, _) = push(
        &mut batcher,
        ALL,
        &[
            r#"{"o":{"v":1}}"#,
            r#"{"o":5}"#,
            "{broken",
            r#"{"o":{"v":3}}"#,
        ],
    );
    assert_eq!(given, [("1,3".to_owned(), vec![0, 3])]);
    assert_eq!(failed, [1, 2]);
    let plan =
        Arc::new(planned(json!({"batchSize": 2, "fields": ["x"], "omitIfEmpty": true})).plan);
    let mut batcher = plan.batcher::<u32>().unwrap();
    let (given, _, omitted) = push(&mut batcher, ALL, &[r#"{"a":1}"#, r#"{"a":2}"#]);
    assert!(given.is_empty());
    assert_eq!(omitted, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_payload_goes_to_one_topic_only() {
    let dynamic = vec![subject("t/{{.line}}")];
    let plan = Arc::new(planned(json!({"batchSize": 10})).plan.with_dynamic(dynamic));
    let mut batcher = plan.batcher::<u32>().unwrap();
    let rows = rows(
        &[r#"{"line":1}"#, r#"{"line":1}"#, r#"{"line":2}"#, "{}"],
        Format::Json,
    );
    let selection = Query::parse(ALL).unwrap().run(&rows);
    let batched = batcher.push(&rows, &selection, Instant::now(), |index| index);
    assert_eq!(batched.messages[0].1, ["t/1"]);
    assert_eq!(batched.messages[0].2, [0, 1]);
    assert_eq!(batched.failures[0].2, 3);
    assert_eq!(batcher.flush().messages[0].1, ["t/2"]);
}
