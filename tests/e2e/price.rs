//! `windlass connector bench` on the connector that stands in every language: its figures can be
//! believed, and memory stays flat over many calls because instances are replaced.

use std::path::{Path, PathBuf};

use serde_json::Value;
use windlass_tests::machine::shared;
use windlass_tests::toolchain::{connector, expect_connector, root};

/// The component of `guests/<language>/price`, if the tests' own build has left it.
fn left(language: &str) -> Option<PathBuf> {
    let file = root().join(format!("target/connectors/price-{language}.wasm"));
    file.is_file().then_some(file)
}

/// The same, built now if it must.
fn component(language: &str) -> PathBuf {
    left(language).unwrap_or_else(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let file = place.join(format!("price-{language}-{}.wasm", std::process::id()));
        let folder = root().join("guests").join(language).join("price");
        let (from, to) = (folder.display().to_string(), file.display().to_string());
        expect_connector(place, &["build", &from, "-o", &to]);
        file
    })
}

fn bench(file: &Path, more: &[&str]) -> Value {
    let file = file.display().to_string();
    let words: Vec<&str> = ["bench", &file, "--json"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    let said = expect_connector(&root(), &words);
    said.json().into_iter().next().expect("one JSON object")
}

fn more_than(value: &Value, least: f64) -> bool {
    value.as_f64().is_some_and(|value| value > least)
}

#[test]
fn the_price_of_a_message_is_measured_in_each_way_and_role() {
    let _machine = shared();
    for language in ["rust", "c"] {
        let file = component(language);
        for way in ["handles", "records", "columns", "texts"] {
            let config = format!(r#"{{"as":"{way}"}}"#);
            let said = bench(&file, &["--messages", "2000", "--config", &config]);
            let what = format!("{language} {way}: {said}");
            assert_eq!(said["connector"], "price", "{what}");
            assert_eq!(said["payloadBytes"], 100, "{what}");
            for figure in ["wasmBytes", "compiledBytes", "compileMs", "loadMs"] {
                assert!(more_than(&said[figure], 0.0), "{figure}: {what}");
            }
            let roles = said["roles"].as_array().expect("roles");
            assert_eq!(roles.len(), 2, "{what}");
            for role in roles {
                assert!(more_than(&role["linearBytes"], 65_535.0), "{what}");
                assert!(more_than(&role["openMs"], 0.0), "{what}");
                let runs = role["runs"].as_array().expect("runs");
                let sizes: Vec<&Value> = runs.iter().map(|run| &run["batch"]).collect();
                assert_eq!(sizes, [1, 100, 1000], "{what}");
                for run in runs {
                    assert!(more_than(&run["messages"], 1_999.0), "{what}");
                    assert!(more_than(&run["usPerMessage"], 0.0), "{what}");
                    assert_eq!(run["rejected"], 0, "{what}");
                    assert_eq!(
                        run["messages"].as_u64(),
                        run["calls"]
                            .as_u64()
                            .zip(run["batch"].as_u64())
                            .map(|(calls, batch)| calls * batch),
                        "each call has its batch: {what}"
                    );
                }
            }
        }
    }
}

#[test]
fn memory_stays_flat_over_many_calls_because_instances_are_replaced() {
    let _machine = shared();
    let rust = component("rust");
    let mut tried = vec![("rust", rust, "100000")];
    for language in ["python", "js"] {
        tried.extend(left(language).map(|file| (language, file, "20000")));
    }
    for (language, file, calls) in tried {
        // Records leave the most behind in a guest.
        let said = bench(
            &file,
            &["--calls", calls, "--config", r#"{"as":"records"}"#],
        );
        let roles = said["roles"].as_array().expect("roles");
        assert_eq!(roles.len(), 2, "{language}: {said}");
        for role in roles {
            assert_eq!(role["flat"], true, "{language}: {role}");
            assert_eq!(
                role["calls"].as_u64(),
                calls.parse().ok(),
                "{language}: {role}"
            );
            assert_eq!(role["messages"], role["calls"], "{language}: {role}");
            assert_eq!(role["samples"].as_array().map(Vec::len), Some(20));
        }
    }
}

#[test]
fn what_cannot_be_measured_is_a_sentence() {
    let _machine = shared();
    let file = component("rust").display().to_string();
    for (arguments, code, words) in [
        (&["bench", "no-such-thing"][..], 78, "there is no such file"),
        (
            &["bench", &file, "--config", r#"{"as":"rows"}"#],
            78,
            "\"rows\" is not one of",
        ),
        (
            &["bench", &file, "--config", r#"{"ass":"records"}"#],
            78,
            "did you mean \"as\"?",
        ),
        (&["bench", "nop", "--role", "source"], 78, "it is no source"),
    ] {
        let said = connector(&root(), arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.all());
        assert!(said.err.contains(words), "{arguments:?}: {}", said.err);
    }
}
