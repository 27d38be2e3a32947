//! TLS to databases: the server's certificate is checked as it is asked for, and what is wrong with it
//! is a sentence. Both servers here refuse whoever speaks no TLS.

use std::path::Path;

use serde_json::{Value, json};
use windlass_tests::certificates::Certificates;
use windlass_tests::machine::shared;
use windlass_tests::mariadb::MariaDb;
use windlass_tests::postgres::Postgres;
use windlass_tests::windlass::command;

/// Tries a connection once; answers why it does not work, nothing where it does.
fn dial(folder: &Path, props: &Value) -> String {
    let file = folder.join("m.yaml");
    let manifest = json!({ "connections": [{ "id": "db", "typ": "sql", "props": props }] });
    std::fs::write(&file, manifest.to_string()).expect("written");
    let said = command(&["check", "--dial", "--json", &file.display().to_string()]);
    let json = said.json();
    let dialled = json
        .iter()
        .find_map(|value| value["dialled"].as_array()?.first().cloned());
    let dialled = dialled.unwrap_or_else(|| panic!("nothing was dialled: {}", said.all()));
    assert!(!said.all().contains("geheim"), "{}", said.all());
    dialled["err"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_certificate_of_a_database_is_checked_as_it_is_asked_for() {
    let _machine = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, others) = (Certificates::new(), Certificates::new());
    let file = |name: &str, text: String| {
        std::fs::write(folder.path().join(name), text).expect("written");
        name.to_owned()
    };
    let (right, wrong) = (
        file("ours.pem", ours.authority()),
        file("others.pem", others.authority()),
    );
    for under_its_name in [true, false] {
        let names: &[&str] = if under_its_name {
            &["127.0.0.1"]
        } else {
            &["db.plant"]
        };
        let identity = ours.identity(names);
        let (postgres, mariadb) = (Postgres::with_tls(&identity), MariaDb::with_tls(&identity));
        for (url, mode) in [(postgres.url(), "sslmode"), (mariadb.url(), "ssl-mode")] {
            let with = |word: &str| format!("{url}?{mode}={word}");
            let name = "the server's certificate is for another name";
            let authority = "the server's certificate is signed by an unknown authority";
            let named = if under_its_name { "" } else { name };
            for (props, expected) in [
                // A root to check against asks for a check of the name too.
                (json!({ "dburl": url, "rootCaPath": right }), named),
                (
                    json!({ "dburl": with("verify-full"), "rootCaPath": right }),
                    named,
                ),
                (
                    json!({ "dburl": with("verify-ca"), "rootCaPath": right }),
                    "",
                ),
                (json!({ "dburl": url, "rootCaPath": wrong }), authority),
                (
                    json!({ "dburl": with("verify-ca"), "rootCaPath": wrong }),
                    authority,
                ),
                // The machine's own roots know neither.
                (json!({ "dburl": with("verify-full") }), authority),
                (json!({ "dburl": with("require") }), ""),
                (json!({ "dburl": url, "insecureSkipVerify": true }), ""),
                (json!({ "dburl": with("disable") }), "the database refuses"),
            ] {
                let err = dial(folder.path(), &props);
                let fits = if expected.is_empty() {
                    err.is_empty()
                } else {
                    err.contains(expected)
                };
                assert!(
                    fits,
                    "{names:?} {props}: wanted \"{expected}\", got \"{err}\""
                );
            }
        }
    }
}
