use super::*;
use crate::message::{Arrival, Batch, Headers, Message};

fn rows(payloads: &[&str]) -> RowBatch {
    let messages: Vec<_> = payloads
        .iter()
        .map(|p| Message::new((*p).to_owned()))
        .collect();
    RowBatch::new(Batch::from(messages), Format::Json)
}

/// The rows of one message that pass `sql`, and how many type errors there were.
fn select(sql: &str, payload: &str) -> (Vec<String>, u64) {
    let rows = rows(&[payload]);
    let selection = Query::parse(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
        .run(&rows);
    let passing = match &selection.passing {
        Passing::All => vec![payload.to_owned()],
        Passing::Messages(places) => places.iter().map(|_| payload.to_owned()).collect(),
        Passing::Rows(built) => built
            .rows()
            .map(|(_, row)| String::from_utf8(row.to_vec()).unwrap())
            .collect(),
    };
    (passing, selection.type_errors)
}

fn passes(condition: &str, payload: &str) -> (bool, u64) {
    let (rows, errors) = select(&format!("SELECT * FROM s WHERE {condition}"), payload);
    (!rows.is_empty(), errors)
}

fn value(expression: &str, payload: &str) -> String {
    let (rows, _) = select(&format!("SELECT {expression} AS x FROM s"), payload);
    rows.concat()
}

#[test]
fn a_comparison_with_null_is_false_and_no_error() {
    for operator in ["=", "!=", "<>", "<", "<=", ">", ">="] {
        for payload in ["{}", r#"{"a":null}"#] {
            assert_eq!(
                passes(&format!("a {operator} 5"), payload),
                (false, 0),
                "{operator}"
            );
            assert_eq!(
                passes(&format!("5 {operator} a"), payload),
                (false, 0),
                "{operator}"
            );
            assert_eq!(
                passes(&format!("NOT (a {operator} 5)"), payload),
                (true, 0),
                "{operator}"
            );
        }
    }
    for condition in [
        "a IN (1, 2)",
        "a NOT IN (1, 2)",
        "a LIKE \"x%\"",
        "a NOT LIKE \"x%\"",
        "a BETWEEN 1 AND 2",
        "a NOT BETWEEN 1 AND 2",
        "a",
        "NOT a",
        "a AND true",
        "a->b = 1",
        "a[0] = 1",
        "a + 1 > 0",
    ] {
        assert_eq!(passes(condition, "{}"), (false, 0), "{condition}");
    }
    for condition in ["a IS NULL", "isNull(a)", "a OR true", "NOT (a IS NOT NULL)"] {
        assert_eq!(passes(condition, "{}"), (true, 0), "{condition}");
    }
}

#[test]
fn a_type_error_is_false_and_counted_and_never_passes_through_not() {
    let payload = r#"{"a":"text","n":7,"t":true}"#;
    for (condition, expected) in [
        ("a > 5", (false, 1)),
        ("NOT (a > 5)", (false, 1)),
        ("a > 5 OR n > 5", (true, 1)),
        ("a > 5 AND n > 5", (false, 1)),
        ("n < 5 AND a > 5", (false, 0)),
        ("n", (false, 1)),
        ("NOT n", (false, 1)),
        ("t", (true, 0)),
        ("t = 1", (false, 1)),
        ("a + 1 = 2", (false, 1)),
        ("n / 0 = 1", (false, 1)),
        ("n LIKE \"7\"", (false, 1)),
        ("upper(n) = \"7\"", (false, 1)),
        ("n->x = 1", (false, 1)),
        ("n[0] = 1", (false, 1)),
        ("a IN (1, \"text\")", (true, 0)),
    ] {
        assert_eq!(passes(condition, payload), expected, "{condition}");
    }
    assert_eq!(
        select("SELECT a*2 AS x, n FROM s", payload),
        (vec![r#"{"n":7}"#.to_owned()], 1)
    );
}

#[test]
fn double_quotes_are_texts_and_never_names() {
    let payload = r#"{"status":"hot","hot":"status"}"#;
    assert_eq!(passes(r#"status = "hot""#, payload), (true, 0));
    assert_eq!(passes(r#"status = 'hot'"#, payload), (true, 0));
    assert_eq!(passes(r#"status = "status""#, payload), (false, 0));
    assert_eq!(passes(r#"`hot` = "status""#, payload), (true, 0));
    assert_eq!(value(r#""status""#, payload), r#"{"x":"status"}"#);
}

#[test]
fn integers_of_64_bits_and_longer_numbers_come_through_unharmed() {
    let payload = r#"{"a":9223372036854775807,"b":18446744073709551615,"c":123456789012345678901234567890,"d":1.10,"e":9007199254740993}"#;
    assert_eq!(
        select("SELECT a, b, c, d, e AS f FROM s", payload).0,
        [payload.replace("\"e\"", "\"f\"")]
    );
    assert_eq!(value("a + 1", payload), r#"{"x":9223372036854775808}"#);
    assert_eq!(value("b - 1", payload), r#"{"x":18446744073709551614}"#);
    assert_eq!(passes("e = 9007199254740993", payload), (true, 0));
    assert_eq!(passes("e = 9007199254740992", payload), (false, 0));
    assert_eq!(
        passes("b > a AND d > 1 AND d < 2 AND a > 1.5", payload),
        (true, 0)
    );
    assert_eq!(
        value("coalesce(z, b)", payload),
        r#"{"x":18446744073709551615}"#
    );
}

#[test]
fn nested_values_are_reached_by_arrow_point_and_brackets() {
    let payload = r#"{"a":{"b":[1,{"c":"x"},3,4],"d e":5},"i":1}"#;
    for (expression, expected) in [
        ("a->b[1]->c", "\"x\""),
        ("a.b[1].c", "\"x\""),
        ("s.a.b[i]->c", "\"x\""),
        ("a->`d e`", "5"),
        ("a->b[-1]", "4"),
        ("a->b[1:3]", r#"[{"c":"x"},3]"#),
        ("a->b[2:]", "[3,4]"),
        ("a->b[:1]", "[1]"),
        ("a->b[i+1]", "3"),
        ("cardinality(a->b)", "4"),
        ("parse_json(\"{\\\"k\\\":[7]}\")->k[0]", "7"),
    ] {
        assert_eq!(
            value(expression, payload),
            format!("{{\"x\":{expected}}}"),
            "{expression}"
        );
    }
    assert_eq!(value("a->b[9]", payload), "{}");
    assert_eq!(value("a->none->deeper", payload), "{}");
}

#[test]
fn columns_are_named_as_in_ekuiper_and_aliases_can_be_used() {
    let payload = r#"{"t":20.5,"p":1,"n":{"m":3}}"#;
    assert_eq!(
        select("SELECT t, n->m, p+1, abs(p), 5 FROM s", payload).0,
        [r#"{"t":20.5,"m":3,"kuiper_field_0":2,"abs":1,"kuiper_field_1":5}"#]
    );
    assert_eq!(
        select("SELECT t*2 AS d, d+1 AS e FROM s WHERE d > 40", payload).0,
        [r#"{"d":41,"e":42}"#]
    );
    assert_eq!(
        select("SELECT *, p*10 AS t FROM s", payload).0,
        [r#"{"p":1,"n":{"m":3},"t":10}"#]
    );
    assert_eq!(
        select("SELECT * EXCEPT(n, p) FROM s", payload).0,
        [r#"{"t":20.5}"#]
    );
    assert_eq!(
        select("SELECT * REPLACE(p+1 AS p) FROM s", payload).0,
        [r#"{"t":20.5,"n":{"m":3},"p":2}"#]
    );
    assert_eq!(
        select("SELECT d.* FROM s AS d WHERE d.p = 1", payload).0,
        [payload]
    );
    assert_eq!(select("SELECT p, p AS p FROM s", payload).0, [r#"{"p":1}"#]);
}

#[test]
fn case_in_between_like_and_precedence() {
    let payload = r#"{"a":5,"s":"abc","l":[1,5]}"#;
    assert_eq!(
        value(
            "CASE WHEN a > 9 THEN \"hi\" WHEN a > 4 THEN \"mid\" ELSE \"lo\" END",
            payload
        ),
        r#"{"x":"mid"}"#
    );
    assert_eq!(
        value("CASE a WHEN 5 THEN \"five\" END", payload),
        r#"{"x":"five"}"#
    );
    assert_eq!(value("2 + 3 * a - -1", payload), r#"{"x":18}"#);
    assert_eq!(value("(2 + 3) * a % 7", payload), r#"{"x":4}"#);
    assert_eq!(value("10 - 3 - 2", payload), r#"{"x":5}"#);
    for condition in [
        "a BETWEEN 1 AND 5 AND s LIKE \"a%\"",
        "a NOT IN (1,2)",
        "a IN l",
        "NOT a = 4 AND true",
        "false AND true OR true",
        "a = 5 OR unknown = 3",
        "s NOT LIKE \"b%\"",
        "a NOT BETWEEN 6 AND 7",
    ] {
        assert_eq!(passes(condition, payload), (true, 0), "{condition}");
    }
}

#[test]
fn words_of_sql_that_are_no_key_words_here_are_fields() {
    let payload =
        r#"{"date":1,"interval":2,"value":3,"timestamp":4,"position":5,"key":6,"left":7}"#;
    assert_eq!(
        select("SELECT date, interval, value, timestamp, position, key, left FROM s WHERE interval > 1 AND date = 1", payload).0,
        [payload]
    );
}

#[test]
fn meta_is_read_without_looking_inside() {
    let message = Message {
        payload: "not json".into(),
        subject: "plant/a".into(),
        headers: Headers::from(vec![("trace-id".to_owned(), "7".to_owned())]),
        arrival: Arrival {
            qos: 1,
            retained: false,
            message_id: 9,
            at_ms: 5,
            delivery: 0,
        },
    };
    let batch = Batch::from(vec![message, Message::new("x")]);
    let query = Query::parse("SELECT * FROM s WHERE meta(topic) LIKE \"plant/%\" AND meta(qos) = 1 AND meta(trace-id) = \"7\"").unwrap();
    assert!(!query.looks_inside() && query.passes_whole());
    let selection = query.run(&RowBatch::new(batch, Format::Json));
    assert!(matches!(&selection.passing, Passing::Messages(places) if places == &[0]));
    assert!(selection.failures.is_empty());
    assert!(
        Query::parse("SELECT meta(*) AS m FROM s")
            .unwrap()
            .looks_inside()
    );
}

#[test]
fn steps_go_into_what_stands_beside_the_payload() {
    let message = Message {
        payload: r#"{"a":1}"#.into(),
        headers: Headers::from(vec![
            (
                "temperature".to_owned(),
                r#" {"deviceName":"d1","origin":9007199254740993,"tags":{"site":["a","b"]}}"#
                    .to_owned(),
            ),
            ("unit".to_owned(), "C".to_owned()),
            ("broken".to_owned(), r#"{"a":"#.to_owned()),
            ("x-y".to_owned(), "[1,2]".to_owned()),
        ]),
        ..Message::default()
    };
    let rows = RowBatch::new(Batch::from(vec![message]), Format::Json);
    let select = |columns: &str| {
        let selection = Query::parse(&format!("SELECT {columns} FROM s"))
            .unwrap_or_else(|error| panic!("{columns}: {error}"))
            .run(&rows);
        let Passing::Rows(built) = selection.passing else {
            panic!("{columns}")
        };
        let row = built.rows().next().map(|(_, row)| row.to_vec());
        String::from_utf8(row.unwrap_or_default()).unwrap()
    };
    for (columns, expected) in [
        ("meta(temperature -> deviceName)", r#"{"meta":"d1"}"#),
        (
            "meta(temperature->tags->site[1]) AS site",
            r#"{"site":"b"}"#,
        ),
        (
            "meta(s.temperature.origin) AS o",
            r#"{"o":9007199254740993}"#,
        ),
        ("meta(temperature -> nothing) AS n, a", r#"{"a":1}"#),
        ("meta(nothing -> at) AS n, a", r#"{"a":1}"#),
        ("meta(x-y[0]) AS n", r#"{"n":1}"#),
        ("meta(properties -> unit) AS u", r#"{"u":"C"}"#),
        ("meta(*) -> unit AS u", r#"{"u":"C"}"#),
    ] {
        assert_eq!(select(columns), expected, "{columns}");
    }
    // No JSON, so nothing is in it: a mistake in the data, as with a member of a number.
    assert_eq!(select("meta(broken -> a) AS b, a"), r#"{"a":1}"#);
    let error = Query::parse("SELECT meta(a -> ) FROM s").unwrap_err();
    assert!(error.to_string().contains("name of a member"), "{error}");
}

#[test]
fn what_cannot_be_parsed_is_a_failure_and_the_rest_passes() {
    let rows = rows(&[r#"{"a":1}"#, "{broken", r#"{"a":7}"#, "[1]"]);
    let selection = Query::parse("SELECT * FROM s WHERE a > 5")
        .unwrap()
        .run(&rows);
    assert!(matches!(&selection.passing, Passing::Messages(places) if places == &[2]));
    let failed: Vec<_> = selection
        .failures
        .iter()
        .map(|failure| failure.index)
        .collect();
    assert_eq!(failed, [1, 3]);
    let all = Query::parse("SELECT * FROM s").unwrap().run(&rows);
    assert!(matches!(all.passing, Passing::All) && all.failures.is_empty());
}

#[test]
fn of_a_list_only_the_rows_that_hold_pass() {
    let rows = rows(&[
        r#"[{"a":1},{"a":7}]"#,
        r#"{"a":8}"#,
        r#"[{"a":9},{"a":9}]"#,
        "[]",
    ]);
    let query = Query::parse("SELECT * FROM s WHERE a > 5").unwrap();
    let Passing::Rows(built) = query.run(&rows).passing else {
        panic!("rows are expected")
    };
    let texts: Vec<_> = built
        .rows()
        .map(|(i, row)| (i, String::from_utf8(row.to_vec()).unwrap()))
        .collect();
    let expected = [
        (0, "{\"a\":7}"),
        (1, "{\"a\":8}"),
        (2, "{\"a\":9}"),
        (2, "{\"a\":9}"),
    ];
    assert_eq!(texts, expected.map(|(i, t)| (i, t.to_owned())));
}

#[test]
fn columns_without_a_value_are_left_out_unless_asked_for() {
    let rows = rows(&[r#"{"a":null}"#]);
    let row = |query: Query| match query.run(&rows).passing {
        Passing::Rows(built) => built.rows().next().unwrap().1,
        other => panic!("{other:?}"),
    };
    let query = || Query::parse("SELECT a, b, c+1 AS c, 1 AS d FROM s").unwrap();
    assert_eq!(row(query()), r#"{"d":1}"#);
    assert_eq!(
        row(query().with_nil_fields(true)),
        r#"{"a":null,"b":null,"c":null,"d":1}"#
    );
}

#[test]
fn what_needs_several_messages_is_refused_with_what_to_use_instead() {
    for (sql, column, part) in [
        ("SELECT * FROM s GROUP BY a", 17, "downstream"),
        (
            "SELECT count(*) FROM s",
            8,
            "computed over several messages",
        ),
        (
            "SELECT avg(a) FROM s GROUP BY TUMBLINGWINDOW(ss, 10)",
            8,
            "batchSize",
        ),
        (
            "SELECT a FROM s WHERE tumblingwindow(ss, 1)",
            23,
            "windows gather",
        ),
        (
            "SELECT * FROM s JOIN t ON s.a = t.a",
            17,
            "one rule for each stream",
        ),
        ("SELECT * FROM s, t", 16, "one rule for each stream"),
        (
            "SELECT * FROM s LEFT JOIN t",
            17,
            "one rule for each stream",
        ),
        ("SELECT * FROM s ORDER BY a", 17, "order of their arrival"),
        ("SELECT * FROM s LIMIT 5", 17, "WHERE"),
        ("SELECT * FROM s WHERE a > 1 HAVING b", 29, "HAVING"),
        (
            "SELECT * FROM s UNION SELECT * FROM t",
            17,
            "one rule for each stream",
        ),
        ("SELECT * FROM (SELECT * FROM s)", 15, "memory topic"),
        (
            "SELECT * FROM s WHERE a IN (SELECT a FROM t)",
            29,
            "memory topic",
        ),
        (
            "SELECT * FROM s WHERE a = (SELECT a FROM t)",
            28,
            "memory topic",
        ),
        ("SELECT DISTINCT a FROM s", 8, "DISTINCT"),
        ("SELECT lag(a) FROM s", 8, "earlier messages"),
        (
            "SELECT abs(a) OVER (PARTITION BY b) FROM s",
            15,
            "several messages",
        ),
    ] {
        let error = Query::parse(sql).unwrap_err();
        assert_eq!((error.line, error.column), (1, column), "{sql}: {error}");
        assert!(error.message.contains(part), "{sql}: {error}");
    }
}

#[test]
fn mistakes_name_their_place_and_the_nearest_name() {
    for (sql, line, column, part) in [
        (
            "SELECT a\nFROM s WHERE uper(a) = \"x\"",
            2,
            14,
            "did you mean \"upper\"?",
        ),
        ("SELECT * FROM s WHERE", 1, 22, "found the end"),
        ("SELECT * FROM \"s\"", 1, 15, "back quotes"),
        ("SELECT a b FROM s", 1, 10, "expected FROM"),
        ("SELECT a AS \"b\" FROM s", 1, 13, "back quotes"),
        ("SELECT upper(a, b) FROM s", 1, 8, "takes 1 argument"),
        (
            "SELECT cast(a, \"bigin\") FROM s",
            1,
            8,
            "did you mean \"bigint\"?",
        ),
        ("SELECT a || b FROM s", 1, 10, "expected FROM"),
        (
            "SELECT * FROM s WHERE a = 1 x",
            1,
            29,
            "end of the statement",
        ),
        ("DELETE FROM s", 1, 1, "expected SELECT"),
        ("SELECT from FROM s", 1, 8, "back quotes"),
        ("SELECT a[1 FROM s", 1, 12, "\"]\""),
        ("SELECT *, * FROM s", 1, 11, "twice"),
        ("", 1, 1, "expected SELECT"),
    ] {
        let error = Query::parse(sql).unwrap_err();
        assert_eq!((error.line, error.column), (line, column), "{sql}: {error}");
        assert!(error.message.contains(part), "{sql}: {error}");
    }
}

#[test]
fn a_field_that_the_stream_does_not_declare_is_reported_with_the_nearest() {
    let stream =
        StreamStatement::parse("CREATE STREAM s (temperature FLOAT, id BIGINT) WITH ()").unwrap();
    let query = Query::parse("SELECT id FROM s WHERE temperatur > 5").unwrap();
    let unknown = query.unknown_fields(&stream.fields);
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].column, 24);
    assert!(unknown[0].message.contains("did you mean \"temperature\"?"));
    assert!(query.unknown_fields(&[]).is_empty());
}

#[test]
fn hostile_statements_end_with_a_sentence_and_not_with_the_stack() {
    for sql in [
        format!("SELECT {}a{} FROM s", "(".repeat(5000), ")".repeat(5000)),
        format!("SELECT {} a FROM s", "- ".repeat(5000)),
        format!("SELECT {} a FROM s", "NOT ".repeat(5000)),
        format!("SELECT a{} FROM s", "+1".repeat(5000)),
        format!("SELECT a{} FROM s", "->b".repeat(5000)),
        format!(
            "SELECT a+a AS b0, {} FROM s",
            (0..60)
                .map(|n| format!("b{n}+b{n} AS b{}", n + 1))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    ] {
        assert!(Query::parse(&sql).is_err());
    }
    // The deepest that is allowed can be evaluated.
    let deepest = format!("SELECT {}a{} AS x FROM s", "(1+".repeat(95), ")".repeat(95));
    assert_eq!(select(&deepest, r#"{"a":1}"#).0, [r#"{"x":96}"#]);
    let longest = format!("SELECT a{} AS x FROM s", "+1".repeat(190));
    assert_eq!(select(&longest, r#"{"a":1}"#).0, [r#"{"x":191}"#]);
}

#[test]
fn decoding_and_filtering_takes_well_under_a_microsecond_on_a_release_build() {
    let payload = r#"{"id":"sensor-0042","ts":1732390000123,"temperature":51.25,"humidity":40,"tags":["a","b"],"ok":true}"#;
    let batch = Batch::from(vec![Message::new(payload); 1000]);
    let query = Query::parse("SELECT * FROM s WHERE temperature > 50").unwrap();
    let columns =
        Query::parse("SELECT id, temperature * 2 AS t FROM s WHERE temperature > 50").unwrap();
    for (name, query) in [("filter", &query), ("columns", &columns)] {
        let start = tokio::time::Instant::now();
        let mut passed = 0;
        for _ in 0..20 {
            passed += match query
                .run(&RowBatch::new(batch.clone(), Format::Json))
                .passing
            {
                Passing::All => batch.len(),
                Passing::Rows(rows) => rows.len(),
                Passing::Messages(_) => 0,
            };
        }
        let each = start.elapsed().as_nanos() / 20_000;
        println!("{name}: {each} ns per message of {} bytes", payload.len());
        assert_eq!(passed, 20_000);
        assert!(each < 100_000, "{each} ns");
    }
}
