//! What becomes of messages: kinds, groups, order, rejections.

use windlass_connector::{Kind as ErrorKind, from_json};

use super::*;

fn shape(config: &str) -> Shape {
    Shape::new(from_json(config).unwrap(), Dialect::Sqlite).unwrap()
}

/// The statements of these messages, with their rows of integers.
fn planned(config: &str, payloads: &[&str]) -> Vec<(String, Vec<Vec<i64>>)> {
    let shape = shape(config);
    let mut plan = Plan::new(&shape);
    for (number, payload) in (0..).zip(payloads) {
        plan.add(number, payload.as_bytes(), "").unwrap();
    }
    let steps = plan.steps().unwrap();
    let number = |value: &Value| match value {
        Value::Integer(value) => *value,
        Value::Null => -1,
        other => panic!("{other:?}"),
    };
    steps
        .into_iter()
        .map(|step| {
            let rows = step
                .params
                .iter()
                .map(|row| row.iter().map(number).collect());
            (step.statement, rows.collect())
        })
        .collect()
}

fn refused(config: &str, payload: &str, subject: &str) -> String {
    let shape = shape(config);
    let mut plan = Plan::new(&shape);
    let refused = plan.add(0, payload.as_bytes(), subject).unwrap_err();
    assert!(plan.steps().unwrap().is_empty(), "nothing of it is written");
    refused
}

#[test]
fn rows_of_one_shape_are_one_transaction_whatever_the_order_of_their_fields() {
    let steps = planned(
        r#"{"table":"t"}"#,
        &[r#"{"a":1,"b":2}"#, r#"[{"b":4,"a":3},{"a":5,"b":6}]"#, "[]"],
    );
    assert_eq!(
        steps,
        [(
            "INSERT INTO `t` (`a`, `b`) VALUES (?, ?)".to_owned(),
            vec![vec![1, 2], vec![3, 4], vec![5, 6]]
        )]
    );
}

#[test]
fn a_missing_field_is_left_out_unless_fields_names_it() {
    let steps = planned(
        r#"{"table":"t"}"#,
        &[r#"{"a":1}"#, r#"{"a":2,"b":3}"#, r#"{"a":4}"#],
    );
    assert_eq!(
        steps,
        [
            (
                "INSERT INTO `t` (`a`) VALUES (?)".to_owned(),
                vec![vec![1], vec![4]]
            ),
            (
                "INSERT INTO `t` (`a`, `b`) VALUES (?, ?)".to_owned(),
                vec![vec![2, 3]]
            ),
        ]
    );
    let steps = planned(
        r#"{"table":"t","fields":["b","a"]}"#,
        &[r#"{"a":1}"#, r#"{"a":2,"b":3,"c":9}"#],
    );
    assert_eq!(
        steps,
        [(
            "INSERT INTO `t` (`b`, `a`) VALUES (?, ?)".to_owned(),
            vec![vec![-1, 1], vec![3, 2]]
        )]
    );
}

#[test]
fn a_key_without_row_kinds_makes_upserts_and_the_last_one_of_a_key_stays() {
    let steps = planned(
        r#"{"table":"t","keyField":"k"}"#,
        &[r#"{"k":1,"v":1}"#, r#"{"k":2,"v":2}"#, r#"{"k":1,"v":3}"#],
    );
    assert_eq!(
        steps,
        [(
            "INSERT INTO `t` (`k`, `v`) VALUES (?, ?) ON CONFLICT (`k`) DO UPDATE SET `v` = excluded.`v`".to_owned(),
            vec![vec![1, 3], vec![2, 2]]
        )]
    );
    let many = r#"{"table":"t","fields":["v"],"keyField":["j","k"]}"#;
    let (statement, _) = planned(many, &[r#"{"k":1,"v":1,"j":2}"#]).remove(0);
    assert_eq!(
        statement,
        "INSERT INTO `t` (`v`, `j`, `k`) VALUES (?, ?, ?) ON CONFLICT (`j`, `k`) DO UPDATE SET `v` = excluded.`v`"
    );
}

#[test]
fn row_kinds_are_grouped_and_rows_of_one_key_keep_their_order() {
    let config = r#"{"table":"t","keyField":"k","rowKindField":"do"}"#;
    let steps = planned(
        config,
        &[
            r#"{"k":1,"v":1,"do":"insert"}"#,
            r#"{"k":1,"v":2,"do":"update"}"#,
            r#"{"k":2,"v":3}"#,
            r#"{"k":2,"v":4,"do":"update"}"#,
            r#"{"k":1,"do":"delete"}"#,
            r#"{"k":3,"v":5,"do":null}"#,
            r#"{"k":1,"v":6,"do":"insert"}"#,
            r#"{"k":4,"v":7,"do":"UPSERT"}"#,
        ],
    );
    let insert = "INSERT INTO `t` (`k`, `v`) VALUES (?, ?)";
    assert_eq!(
        steps,
        [
            (insert.to_owned(), vec![vec![1, 1], vec![2, 3], vec![3, 5]]),
            (
                "UPDATE `t` SET `v` = ? WHERE `k` = ?".to_owned(),
                vec![vec![2, 1], vec![4, 2]]
            ),
            ("DELETE FROM `t` WHERE `k` = ?".to_owned(), vec![vec![1]]),
            (insert.to_owned(), vec![vec![1, 6]]),
            (
                format!("{insert} ON CONFLICT (`k`) DO UPDATE SET `v` = excluded.`v`"),
                vec![vec![4, 7]]
            ),
        ]
    );
}

/// Applies writes to a table in memory, as a database would.
fn apply(table: &mut HashMap<i64, i64>, kind: &str, key: i64, value: i64) {
    match kind {
        "delete" => drop(table.remove(&key)),
        "update" => drop(table.get_mut(&key).map(|kept| *kept = value)),
        _ => drop(table.insert(key, value)),
    }
}

#[test]
fn grouped_writes_end_as_the_same_writes_one_by_one() {
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((seed >> 33) % below).unwrap()
    };
    for _ in 0..200 {
        let mut wanted = HashMap::new();
        let mut payloads = Vec::new();
        for value in 0..30 {
            let kind = ["upsert", "update", "delete"][usize::try_from(random(3)).unwrap()];
            let key = random(5);
            apply(&mut wanted, kind, key, value);
            payloads.push(format!(r#"{{"k":{key},"v":{value},"do":"{kind}"}}"#));
        }
        let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
        let mut got = HashMap::new();
        for (statement, rows) in planned(
            r#"{"table":"t","keyField":"k","rowKindField":"do"}"#,
            &payloads,
        ) {
            for row in rows {
                match statement.split(' ').next() {
                    Some("INSERT") => apply(&mut got, "upsert", row[0], row[1]),
                    Some("UPDATE") => apply(&mut got, "update", row[1], row[0]),
                    _ => apply(&mut got, "delete", row[0], 0),
                }
            }
        }
        assert_eq!(got, wanted, "{payloads:?}");
    }
}

#[test]
fn what_can_never_be_written_is_refused_whole_with_its_reason() {
    let plain = r#"{"table":"t"}"#;
    let kinds = r#"{"table":"t","keyField":"k","rowKindField":"do"}"#;
    for (config, payload, word) in [
        (plain, "7", "a list of objects"),
        (plain, r#"[{"a":1},7]"#, "a list of objects"),
        (plain, "{}", "no field"),
        (plain, r#"{"":1}"#, "name of a column"),
        (plain, r#"{"a\u0000":1}"#, "name of a column"),
        (plain, r#"[{"a":1},{"a":"\ud800"}]"#, "half a character"),
        (
            kinds,
            r#"{"k":1,"do":"replace"}"#,
            "not insert, update, upsert or delete",
        ),
        (kinds, r#"{"k":1,"do":7}"#, "7 in the field \"do\""),
        (kinds, r#"{"v":1,"do":"update"}"#, "\"k\" is missing"),
        (kinds, r#"{"k":null,"do":"delete"}"#, "\"k\" is missing"),
        (kinds, r#"{"k":1,"do":"update"}"#, "no field"),
        (
            r#"{"table":"t","keyField":"k"}"#,
            r#"{"v":1}"#,
            "\"k\" is missing",
        ),
    ] {
        let refused = refused(config, payload, "");
        assert!(refused.contains(word), "{payload}: {refused}");
    }
}

#[test]
fn a_rendered_table_is_one_plain_name() {
    let shape = shape("{}");
    let mut plan = Plan::new(&shape);
    plan.add(0, br#"{"a":1}"#, "plant_1").unwrap();
    let steps = plan.steps().unwrap();
    assert!(steps[0].statement.starts_with("INSERT INTO `plant_1` "));
    for subject in ["", "a.b", "a`", "a; DROP TABLE t", "ä"] {
        assert!(
            refused("{}", r#"{"a":1}"#, subject).contains("table"),
            "{subject}"
        );
    }
}

#[test]
fn a_configuration_that_cannot_work_is_named() {
    for (config, word) in [
        (r#"{"table":"t","rowKindField":"do"}"#, "keyField"),
        (
            r#"{"table":"t","rowKindField":"do","keyField":[]}"#,
            "keyField",
        ),
        (r#"{"table":"a..b"}"#, "table"),
        (r#"{"table":"t","fields":["a","a"]}"#, "twice"),
        (r#"{"table":"t","keyField":["a\u0000"]}"#, "NUL"),
    ] {
        let error = Shape::new(from_json(config).unwrap(), Dialect::Mysql).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(error.message.contains(word), "{config}: {}", error.message);
    }
}

#[test]
fn after_a_failed_step_the_messages_not_wholly_written_are_known() {
    let shape = shape(r#"{"table":"t","keyField":"k","rowKindField":"do"}"#);
    let mut plan = Plan::new(&shape);
    for (number, payload) in (0..).zip([
        r#"{"k":1,"v":1}"#,
        r#"[{"k":2,"v":2},{"k":1,"do":"delete"}]"#,
        r#"{"k":3,"v":3}"#,
        r#"{"k":3,"do":"delete"}"#,
    ]) {
        plan.add(number, payload.as_bytes(), "").unwrap();
    }
    let made = plan.steps().unwrap();
    assert_eq!(made.len(), 2);
    assert_eq!(messages_of(&made), [0, 1, 2, 3]);
    assert_eq!(messages_of(&made[1..]), [1, 3]);
}

#[test]
fn a_hundred_thousand_rows_take_about_a_second_at_most() {
    let shape = shape(r#"{"table":"t","keyField":"id"}"#);
    let payloads: Vec<String> = (0..100_000)
        .map(|n| format!(r#"{{"id":{n},"name":"machine {n}","value":{n}.5,"at":"2026-01-01 00:00:00","ok":true}}"#))
        .collect();
    let begin = std::time::Instant::now();
    let mut plan = Plan::new(&shape);
    for (number, payload) in (0..).zip(&payloads) {
        plan.add(number, payload.as_bytes(), "").unwrap();
    }
    let steps = plan.steps().unwrap();
    let took = begin.elapsed();
    assert_eq!(
        steps.iter().map(|step| step.params.len()).sum::<usize>(),
        100_000
    );
    // Tests run on busy machines and without optimisation.
    assert!(took.as_secs() < 10, "{took:?}");
}
