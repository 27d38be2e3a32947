//! Values that JSON has no kind for, and values that a table does not take: each is written down in a
//! notation that the database reads back, or set aside with a sentence, and its neighbours pass.

use std::path::Path;

use serde_json::{Value, json};
use windlass_tests::machine::{shared, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::postgres::Postgres;
use windlass_tests::windlass::{Windlass, command};

use crate::settings::START;
use crate::settings::letters;
use crate::sql::{Lite, SOON, answers, copy, reading};

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

#[test]
fn what_json_has_no_kind_for_is_text_in_the_databases_notation() {
    let _machine = shared();
    let from = Postgres::start();
    drop(from.sql(
        r#"CREATE TYPE pair AS (a int, b text);
        CREATE TABLE odd (id int PRIMARY KEY, bytes bytea, nan float8, up float4, never timestamptz, many int[],
            made pair, exact numeric, wide int8, doc jsonb, span int4range, net inet, long interval, nothing text);
        INSERT INTO odd VALUES (1, '\x00ff27', 'NaN', 'Infinity', '-infinity', '{1,NULL}', '(7,"x y")',
            'NaN', -9223372036854775808, '{"b": [1.10, null]}', '[1,5)', '10.0.0.0/8', '1 mon -2 days', NULL)"#,
    ));
    let files = tempfile::tempdir().expect("a folder");
    let query = json!({ "table": "odd", "indexField": "id" });
    let manifest = reading(Manifest::new(), &from.url(), query)
        .section("files", json!({ "root": files.path() }))
        .rule(
            "copy",
            "SELECT * FROM rows",
            json!([{ "file": { "path": "out.jsonl", "sendSingle": true } }]),
        );
    let windlass = Windlass::start(&manifest);
    let file = files.path().join("out.jsonl");
    wait_until(START, "the row arrives", || !lines(&file).is_empty());
    assert_eq!(
        lines(&file),
        [json!({
            "id": 1, "bytes": "AP8n", "nan": "NaN", "up": "Infinity", "never": "-infinity", "many": "{1,NULL}",
            "made": "(7,\"x y\")", "exact": "NaN", "wide": i64::MIN, "doc": "{\"b\": [1.10, null]}",
            "span": "[1,5)", "net": "10.0.0.0/8", "long": "1 mon -2 days", "nothing": null,
        })]
    );
    assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
}

#[test]
fn a_value_that_its_column_does_not_take_is_set_aside_and_its_neighbours_are_written() {
    let _machine = shared();
    let from = Lite::new(
        "CREATE TABLE rows (id INTEGER PRIMARY KEY, n);
         INSERT INTO rows VALUES (1, 5), (2, 'five'), (3, 1e300), (4, x'00ff'), (5, '7'), (6, NULL);",
    );
    let to = Postgres::start();
    drop(to.sql("CREATE TABLE rows (id int PRIMARY KEY, n int)"));
    let manifest = copy(
        &from.url(),
        json!({ "table": "rows", "indexField": "id" }),
        &to.url(),
        json!({ "table": "rows", "keyField": "id" }),
    );
    let windlass = Windlass::start(&manifest);
    let all = "SELECT id, n FROM rows ORDER BY id";
    answers(START, "1|5\n5|7\n6|", || to.sql(all));
    let mut kept = Vec::new();
    wait_until(SOON, "three dead letters", || {
        kept = letters(&windlass);
        kept.len() >= 3
    });
    assert_eq!(kept.len(), 3, "{kept:?}");
    for letter in &kept {
        let said = letter.to_string();
        assert!(said.contains("integer") || said.contains("int"), "{said}");
    }
    assert_eq!(to.sql(all), "1|5\n5|7\n6|", "nothing half written");
}

#[test]
fn a_table_that_is_not_there_to_be_written_to_is_named_and_its_rows_are_kept() {
    let _machine = shared();
    let from = Lite::new(
        "CREATE TABLE rows (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO rows VALUES (1, 'x'), (2, 'y');",
    );
    let to = Lite::new("CREATE TABLE other (id INTEGER);");
    let manifest = copy(
        &from.url(),
        json!({ "table": "rows", "indexField": "id" }),
        &to.url(),
        json!({ "table": "late", "keyField": "id" }),
    );
    let windlass = Windlass::start(&manifest);
    windlass.wait_rule("copy", "running", START);
    let mut kept = Vec::new();
    wait_until(START, "two dead letters", || {
        kept = letters(&windlass);
        kept.len() >= 2
    });
    assert!(
        kept.iter()
            .all(|letter| letter.to_string().contains("no such table: late")),
        "{kept:?}"
    );
    drop(to.run("CREATE TABLE late (id INTEGER PRIMARY KEY, a TEXT)"));
    let data = windlass.data().display().to_string();
    for letter in &kept {
        let id = letter["id"].to_string();
        let said = command(&[
            "deadletters",
            "resend",
            id.trim_matches('"'),
            "--data",
            &data,
        ]);
        assert_eq!(said.code, Some(0), "{}", said.all());
    }
    answers(SOON, "1\tx\n2\ty", || {
        to.run("SELECT id, a FROM late ORDER BY id")
    });
}
