//! REST as it describes itself: each example of `/openapi.json` works as it stands there.

use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::described::Description;
use windlass_tests::machine::shared;
use windlass_tests::rest::Rest;
use windlass_tests::windlass::Windlass;

/// The operations whose bodies are examples, in an order in which each finds what it needs.
const ORDER: &[(&str, &str)] = &[
    ("post", "/connections"),
    ("put", "/connections/{id}"),
    ("put", "/metadata/{kind}/{type}/confKeys/{key}"),
    ("post", "/metadata/{kind}/connection/{type}"),
    ("post", "/streams"),
    ("put", "/streams/{name}"),
    ("post", "/rules/validate"),
    ("post", "/rules"),
    ("put", "/rules/{id}"),
    ("put", "/rules/{id}/tags"),
    ("patch", "/rules/{id}/tags"),
    ("post", "/rules/bulkstop"),
    ("post", "/rules/bulkstart"),
    ("put", "/rules/{id}/reset_state"),
    ("delete", "/rules/{id}/tags"),
    ("post", "/data/export"),
];

/// Operations with a body for which no example can stand: a component, definitions as text, and what
/// is always refused.
const WITHOUT: &[&str] = &[
    "put /connectors/{name}",
    "post /connectors/{name}",
    "post /ruleset/import",
    "post /data/import",
    "post /async/data/import",
    "post /v2/data/import",
    "post /tables",
];

/// The value of a schema's example, or one put together from its properties.
fn example_of(document: &Value, schema: &Value) -> Value {
    if let Some(pointer) = schema["$ref"].as_str() {
        let target = document.pointer(&pointer[1..]).expect("it is there");
        return example_of(document, target);
    }
    if let Some(example) = schema.get("example") {
        return example.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().into_iter().flatten();
            properties
                .map(|(name, inner)| (name.clone(), example_of(document, inner)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        Some("array") => json!([]),
        _ => Value::Null,
    }
}

/// The path with the examples of its parameters in it.
fn filled(path: &str, operation: &Value) -> String {
    let mut filled = path.to_owned();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["in"] == "path" {
            let name = parameter["name"].as_str().expect("a name");
            let example = parameter["example"].as_str().unwrap_or_default();
            assert!(!example.is_empty(), "{path}: {name} has no example");
            filled = filled.replace(&format!("{{{name}}}"), example);
        }
    }
    filled
}

#[test]
fn every_example_of_the_description_works() {
    let _machine = shared();
    let windlass = Windlass::serve(&[]);
    let mut rest: Rest = windlass.rest();
    let description = Description::of_server(windlass.rest_port()).expect("it is described");
    let document = description.document();
    for (method, path) in ORDER {
        let operation = &document["paths"][path][method];
        let content = &operation["requestBody"]["content"]["application/json"];
        assert!(content.is_object(), "{method} {path} takes JSON");
        let body = match content.get("example") {
            Some(example) => example.clone(),
            None => example_of(document, &content["schema"]),
        };
        let path = filled(path, operation);
        let method = method.to_uppercase();
        let answered = rest.send(&method, &path, body.to_string().as_bytes());
        assert!(
            matches!(answered.status, 200 | 201),
            "{method} {path} {body}: {} {}",
            answered.status,
            answered.body
        );
        if path == "/rules" {
            rest.wait(
                "/rules/hot/status",
                Duration::from_secs(60),
                "it has read",
                |status| status["source_demo_0_records_in_total"].as_u64() > Some(0),
            );
        }
    }
    // Nothing with a body is left out.
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let known =
                ORDER.contains(&(method, path)) || WITHOUT.contains(&&*format!("{method} {path}"));
            assert!(
                known || operation["requestBody"].is_null(),
                "{method} {path} has a body and is tried nowhere"
            );
        }
    }
}

#[test]
fn an_import_that_is_not_waited_for_says_how_it_goes() {
    let _machine = shared();
    let windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let definitions = |rule: Value| {
        let content = json!({
            "streams": { "demo": r#"CREATE STREAM demo () WITH (TYPE="simulator", FORMAT="json")"# },
            "rules": { "r": rule.to_string() },
        });
        json!({ "content": content.to_string() })
    };
    let good = json!({ "id": "r", "sql": "SELECT * FROM demo", "actions": [{ "nop": {} }] });
    let bad = json!({ "id": "r", "sql": "SELECT * FROM nothing", "actions": [{ "nop": {} }] });
    for (rule, wanted) in [(good, "finish"), (bad, "error")] {
        let (code, text) = rest.post("/async/data/import?partial=1", &definitions(rule));
        assert_eq!(code, 200, "{text}");
        let begun: Value = serde_json::from_str(&text).expect("JSON");
        let id = begun["id"].as_str().expect("an id").to_owned();
        let task = rest.wait(
            &format!("/async/task/{id}"),
            Duration::from_secs(60),
            "it is over",
            |task| task["status"] != "register" && task["status"] != "running",
        );
        assert_eq!(task["status"], wanted, "{task}");
        let message = task["message"].as_str().expect("words");
        assert_eq!(
            message.contains("there is no stream"),
            wanted == "error",
            "{message}"
        );
        // What is over stays as it is.
        assert_eq!(
            rest.post(&format!("/async/task/{id}/cancel"), &json!({})),
            (200, "cancel success".to_owned())
        );
        assert_eq!(rest.get(&format!("/async/task/{id}")).1, task);
    }
    assert_eq!(rest.get("/rules/r").0, 200);
    assert_eq!(rest.get("/async/task/dataImport-1").0, 404);
    let (code, text) = rest.post("/async/data/import", &json!({ "content": "{" }));
    assert_eq!(code, 400, "{text}");
}

#[test]
fn an_import_with_stop_ends_the_process_with_ekuipers_exit_code() {
    let _machine = shared();
    let mut windlass = Windlass::serve(&[]);
    let mut rest = windlass.rest();
    let streams =
        json!({ "streams": { "demo": r#"CREATE STREAM demo () WITH (TYPE="simulator")"# } });
    let given = json!({ "content": streams.to_string() });
    let (code, text) = rest.post("/data/import?partial=1&stop=1", &given);
    assert_eq!(code, 200, "{text}");
    let (code, text) = rest.post("/data/import?stop=1", &given);
    assert_eq!(code, 200, "with partial it stays: {text}");
    let code = windlass.exit_within(Duration::from_secs(20));
    assert_eq!(code, Some(100), "{}", windlass.log());
    windlass.up();
    windlass.wait_listening(Duration::from_secs(20));
    assert_eq!(windlass.rest().get("/streams").1, json!(["demo"]));
}
