//! The same connector in four languages: what a message costs in each, by the way in which a batch is
//! taken apart and by its size, and what an instance and its code take. Measured by
//! `windlass connector bench` on the components of `guests/*/price`.

use std::path::PathBuf;

use serde_json::Value;
use windlass_tests::toolchain::{expect_connector, root};

use crate::progress;
use crate::table::Row;

const LANGUAGES: [&str; 4] = ["rust", "c", "js", "python"];
const WAYS: [&str; 4] = ["handles", "columns", "texts", "records"];
const BATCHES: [u64; 3] = [1, 100, 1_000];
const ROLES: [&str; 2] = ["source", "sink"];

/// The component: the one that `tests/run connectors` has left, else built now.
fn component(language: &str) -> PathBuf {
    let file = root().join(format!("target/connectors/price-{language}.wasm"));
    if !file.is_file() {
        progress(&format!("building guests/{language}/price"));
        let folder = root().join("guests").join(language).join("price");
        let (folder, file) = (folder.display().to_string(), file.display().to_string());
        expect_connector(&root(), &["build", &folder, "-o", &file]);
    }
    file
}

/// What `bench` says about one way.
fn measure(language: &str, way: &str) -> Value {
    let file = component(language).display().to_string();
    let config = format!(r#"{{"as":"{way}"}}"#);
    let said = expect_connector(&root(), &["bench", &file, "--config", &config, "--json"]);
    said.json().into_iter().next().unwrap_or_default()
}

fn role<'a>(bench: &'a Value, role: &str) -> &'a Value {
    let roles = bench["roles"].as_array().map_or(&[][..], Vec::as_slice);
    roles
        .iter()
        .find(|one| one["role"] == role)
        .unwrap_or(&Value::Null)
}

/// Microseconds per message.
fn price(bench: &Value, of: &str, batch: u64) -> f64 {
    let runs = role(bench, of)["runs"].as_array();
    runs.into_iter()
        .flatten()
        .find(|run| run["batch"] == batch)
        .and_then(|run| run["usPerMessage"].as_f64())
        .unwrap_or(f64::NAN)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Everything about one language on a few lines: each way and batch size, and what it takes.
fn lines(language: &str, benches: &[Value]) -> (Vec<String>, String) {
    let mut lines = Vec::new();
    for of in ROLES {
        let cells: Vec<String> = benches
            .iter()
            .flat_map(|bench| BATCHES.map(|batch| format!("{:>8.2}", price(bench, of, batch))))
            .collect();
        lines.push(format!("| {language:<6} {of:<6} | {} |", cells.join(" | ")));
    }
    let bench = &benches[0];
    let of = role(bench, "source");
    let takes = format!(
        "instance {:.2} MiB, own pages {:.2} MiB, opens in {:.2} ms; compiled in {:.0} ms, loaded in {:.1} ms; wasm {:.0} KiB, code {:.0} KiB",
        number(&of["linearBytes"]) / 1_048_576.0,
        number(&of["privateBytes"]) / 1_048_576.0,
        number(&of["openMs"]),
        number(&bench["compileMs"]),
        number(&bench["loadMs"]),
        number(&bench["wasmBytes"]) / 1024.0,
        number(&bench["compiledBytes"]) / 1024.0,
    );
    (lines, takes)
}

pub(crate) fn languages() -> Vec<Row> {
    let heads: Vec<String> = WAYS
        .iter()
        .flat_map(|way| BATCHES.map(|batch| format!("{:>8}", format!("{}.{batch}", &way[..3]))))
        .collect();
    let rule = "-".repeat(8);
    let mut table = vec![
        "us per message; way (han: handles, col: columns, tex: texts, rec: records) and batch size"
            .to_owned(),
        format!("| {:<13} | {} |", "", heads.join(" | ")),
        format!(
            "| {} | {} |",
            "-".repeat(13),
            vec![rule; heads.len()].join(" | ")
        ),
    ];
    let mut below = Vec::new();
    let mut rows = Vec::new();
    for language in LANGUAGES {
        let benches: Vec<Value> = WAYS
            .iter()
            .map(|way| {
                progress(&format!("{language}, {way}"));
                measure(language, way)
            })
            .collect();
        let (prices, takes) = lines(language, &benches);
        for of in ROLES {
            rows.push(Row::plain(
                &format!("{language} {of}, as columns, batch 100"),
                "us/message",
                price(&benches[1], of, 100),
                takes.clone(),
            ));
        }
        table.extend(prices);
        below.push(format!("{language}: {takes}"));
    }
    println!("{}\n\n{}\n", table.join("\n"), below.join("\n"));
    rows
}
