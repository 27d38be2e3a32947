//! From an empty folder to messages through a rule, in each language, by the tutorials of
//! `docs/connectors.md` as they stand: `connector new`, `build`, the unit tests in the language's own
//! runner, `inspect`, `test`, `check`, `run`, then both connectors in one rule. And what `connector` says
//! where something is wrong.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_tests::machine::shared;
use windlass_tests::manifest::Manifest;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::toolchain::{Plain, component, connector, expect_connector, root, run};
use windlass_tests::tutorial::{follow, steps};
use windlass_tests::windlass::Windlass;

use crate::settings::wait_ready;

/// Source and sink of one language: first the tutorial, then a message through both over MQTT.
fn from_an_empty_folder_to_a_rule(language: &str) {
    let _machine = shared();
    let document = root().join("docs/connectors.md");
    let document = std::fs::read_to_string(document).expect("the document is there");
    let place = tempfile::tempdir().expect("a folder");
    let commands = follow(&steps(&document, language), place.path());
    for needed in [
        &format!("connector new thermo --lang {language} --kind source"),
        &format!("connector new stamp --lang {language} --kind sink"),
        "connector build thermo",
        "connector inspect ",
        "connector test thermo stamp",
        "connector check thermo",
        "connector check stamp",
        "connector run thermo",
        "connector run stamp",
        "windlass run ",
    ] {
        assert!(commands.contains(needed), "the tutorial has no {needed}");
    }
    passes(&place.path().join("thermo"), &place.path().join("stamp"));
}

/// A number as text on `in/1` comes out on `out` as JSON beside its site.
fn passes(source: &Path, sink: &Path) {
    let broker = Mosquitto::start();
    let mut far = Plain::connect(broker.port(), "far", Some("out"));
    let manifest = Manifest::new()
        .connector("thermo", &component(source))
        .connector("stamp", &component(sink))
        .mqtt("plant", &broker.url())
        .conf_key("thermo", "demo", json!({ "connectionSelector": "plant", "field": "temperature" }))
        .stream(r#"CREATE STREAM demo () WITH (TYPE="thermo", DATASOURCE="in/#", FORMAT="json", CONF_KEY="demo")"#)
        .rule(
            "through",
            "SELECT * FROM demo WHERE temperature > 20",
            json!([{ "stamp": { "connectionSelector": "plant", "topic": "out", "site": "north", "sendSingle": true } }]),
        );
    let windlass = Windlass::start(&manifest);
    wait_ready(&windlass, &["plant"], &["through"]);
    let mut near = Plain::connect(broker.port(), "near", None);
    for payload in ["no number", "19", "21.5"] {
        near.publish("in/1", payload.as_bytes());
    }
    let (_, payload) = far
        .receive(Duration::from_secs(30))
        .unwrap_or_else(|| panic!("nothing came through; {}", windlass.log()));
    let said: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_eq!(
        said,
        json!({ "site": "north", "data": { "temperature": 21.5 } })
    );
}

#[test]
fn rust_from_an_empty_folder_to_a_rule() {
    from_an_empty_folder_to_a_rule("rust");
}

#[test]
fn python_from_an_empty_folder_to_a_rule() {
    from_an_empty_folder_to_a_rule("python");
}

#[test]
fn javascript_from_an_empty_folder_to_a_rule() {
    from_an_empty_folder_to_a_rule("js");
}

#[test]
fn c_from_an_empty_folder_to_a_rule() {
    from_an_empty_folder_to_a_rule("c");
}

#[test]
fn what_cannot_be_made_or_built_is_said_in_a_sentence() {
    let _machine = shared();
    let place = tempfile::tempdir().expect("a folder");
    let here = place.path();
    std::fs::create_dir(here.join("full")).expect("made");
    std::fs::write(here.join("full/notes"), "x").expect("written");
    std::fs::create_dir(here.join("empty")).expect("made");
    for (arguments, code, words) in [
        (
            vec!["new", "full", "--lang", "c", "--kind", "sink"],
            78,
            "not empty",
        ),
        (
            vec!["new", "a b", "--lang", "c", "--kind", "sink"],
            78,
            "a b",
        ),
        (
            vec!["new", "x", "--lang", "cobol", "--kind", "sink"],
            2,
            "cobol",
        ),
        (vec!["build", "empty"], 78, "connector new"),
        (vec!["build", "nowhere"], 78, "no such folder"),
    ] {
        let said = connector(here, &arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.all());
        assert!(said.err.contains(words), "{arguments:?}: {}", said.all());
    }
    assert_eq!(
        std::fs::read_dir(here.join("full")).expect("there").count(),
        1
    );
}

#[test]
fn a_compilers_complaint_is_shown_whole_and_leaves_no_component() {
    let _machine = shared();
    let place = tempfile::tempdir().expect("a folder");
    expect_connector(
        place.path(),
        &["new", "broken", "--lang", "c", "--kind", "sink"],
    );
    let folder = place.path().join("broken");
    std::fs::write(
        folder.join("extra.c"),
        "int f(void) { return undeclared_thing; }",
    )
    .expect("written");
    let said = connector(&folder, &["build"]);
    assert_eq!(said.code, Some(1), "{}", said.all());
    assert!(
        said.err.contains("extra.c:1:") && said.err.contains("undeclared_thing"),
        "{}",
        said.all()
    );
    assert!(!component(&folder).exists());
}

#[test]
fn a_schema_that_its_own_defaults_do_not_satisfy_is_found_with_the_property() {
    let _machine = shared();
    let place = tempfile::tempdir().expect("a folder");
    expect_connector(
        place.path(),
        &["new", "mine", "--lang", "c", "--kind", "sink"],
    );
    let folder = place.path().join("mine");
    let schema = std::fs::read_to_string(folder.join("schema.json")).expect("there");
    let pattern = r#""pattern": "^[A-Za-z0-9 _-]+$""#;
    assert!(schema.contains(pattern), "{schema}");
    let wrong = format!(r#"{pattern}, "default": "no/name""#);
    std::fs::write(folder.join("schema.json"), schema.replace(pattern, &wrong)).expect("written");
    expect_connector(&folder, &["build"]);
    let file = component(&folder).display().to_string();
    let said = connector(&folder, &["check", &file, "--only", "defaults"]);
    assert_eq!(said.code, Some(1), "{}", said.all());
    for words in ["defaults", "site", "no/name"] {
        assert!(said.all().contains(words), "{words}: {}", said.all());
    }
}

#[test]
fn a_missing_tool_names_the_command_that_installs_it() {
    let _machine = shared();
    let place = tempfile::tempdir().expect("a folder");
    let program = windlass_tests::windlass::binary();
    for (name, text, words) in [
        (
            "pyproject.toml",
            "[tool.windlass]\nkind = \"source\"\n",
            "pip install componentize-py==0.25.1",
        ),
        (
            "package.json",
            r#"{ "windlass": { "kind": "sink" } }"#,
            "npm install --prefix",
        ),
        (
            "sink.c",
            "bool sink_write(void);",
            "apt-get install clang lld",
        ),
        ("Cargo.toml", "", "rustup"),
    ] {
        let folder = place.path().join(name);
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join(name), text).expect("written");
        let said = run(
            &folder,
            Path::new("env"),
            &[
                "PATH=/nowhere",
                "HOME=/nowhere",
                "WINDLASS_TOOLS=/nowhere",
                &program.display().to_string(),
                "connector",
                "build",
            ],
        );
        assert_eq!(said.code, Some(1), "{name}: {}", said.all());
        assert!(said.err.contains(words), "{name}: {}", said.all());
    }
}
