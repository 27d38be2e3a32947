//! SQL: rows out of one database and into another, by the connector `sql`; exactly these, whatever is
//! killed meanwhile, and whatever stands in names and values.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use windlass_tests::load::{Subscribe, Subscriber};
use windlass_tests::machine::{alone, holds_within, shared, short_or_long, wait_until};
use windlass_tests::manifest::Manifest;
use windlass_tests::mariadb::MariaDb;
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::oracle::Judge;
use windlass_tests::postgres::Postgres;
use windlass_tests::windlass::{Windlass, command};

use crate::guests::built;
use crate::settings::{START, letters};

/// For what takes no longer than a second on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

const STREAM: &str =
    r#"CREATE STREAM rows () WITH (TYPE="sql", DATASOURCE="rows", FORMAT="json", CONF_KEY="rows")"#;

/// The stream `rows`, of a table on the connection `from`.
pub(crate) fn reading(manifest: Manifest, url: &str, query: Value) -> Manifest {
    let props = json!({
        "connectionSelector": "from", "interval": "100ms", "internalSqlQueryCfg": query,
    });
    manifest
        .connection("from", "sql", json!({ "dburl": url }))
        .conf_key("sql", "rows", props)
        .stream(STREAM)
}

/// An action on the connection `to`.
fn writing(sink: Value) -> Value {
    let mut sink = sink;
    sink["connectionSelector"] = json!("to");
    sink["sendSingle"] = json!(true);
    json!([{ "sql": sink }])
}

/// From `url` to `to` by one rule.
pub(crate) fn copy(from: &str, query: Value, to: &str, sink: Value) -> Manifest {
    reading(Manifest::new(), from, query)
        .connection("to", "sql", json!({ "dburl": to }))
        .rule("copy", "SELECT * FROM rows", writing(sink))
}

/// An SQLite file, after these statements.
#[derive(Debug)]
pub(crate) struct Lite {
    _folder: TempDir,
    file: PathBuf,
}

impl Lite {
    pub(crate) fn new(statements: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lite = Self {
            file: folder.path().join("plant.db"),
            _folder: folder,
        };
        drop(lite.run(&format!("PRAGMA journal_mode=WAL;{statements}")));
        lite
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.file.display())
    }

    pub(crate) fn run(&self, statements: &str) -> String {
        let mut client = Command::new("sqlite3");
        client.args([
            "-batch",
            "-bail",
            "-separator",
            "\t",
            "-cmd",
            ".timeout 10000",
        ]);
        let output = client
            .arg(&self.file)
            .arg(statements)
            .output()
            .expect("sqlite3 is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }
}

/// What psql prints, as the other clients do.
fn tabs(printed: &str) -> String {
    printed.trim_end().replace('|', "\t")
}

/// Waits until a question has this answer.
pub(crate) fn answers(limit: Duration, wanted: &str, ask: impl Fn() -> String) {
    let mut got = String::new();
    let done = holds_within(limit, || {
        got = ask();
        got == wanted || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    });
    assert!(done, "wanted:\n{wanted:.2000}\ngot:\n{got:.2000}");
}

#[test]
fn rows_of_one_sqlite_file_arrive_in_another_as_they_are_and_later_ones_after_a_restart() {
    let _machine = shared();
    let from = Lite::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, big INTEGER, real REAL, text TEXT, void TEXT);
         INSERT INTO t VALUES (1, 9223372036854775807, 0.1, 'it''s \"ö\" €', NULL),
                              (2, -9223372036854775808, -2.5e300, '', 'x'), (3, 0, 1.0, char(9731), NULL);",
    );
    let to = Lite::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, big INTEGER, real REAL, text TEXT, void TEXT);",
    );
    let manifest = copy(
        &from.url(),
        json!({ "table": "t", "indexField": "id", "limit": 2 }),
        &to.url(),
        json!({ "table": "main.t" }),
    );
    let all = "SELECT id, big, real, quote(text), quote(void), typeof(real) FROM t ORDER BY id";
    let mut windlass = Windlass::start(&manifest);
    answers(START, &from.run(all), || to.run(all));
    // A plain insert: a row read twice would fail on its key, and stand in the dead letters.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(windlass.terminate(Duration::from_secs(20)), Some(0));
    from.run("INSERT INTO t VALUES (4, 4, 4, '4', '4'), (5, 5, 5, '5', NULL)");
    windlass.up();
    answers(START, &from.run(all), || to.run(all));
    assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
}

#[test]
fn equal_index_values_at_the_edges_of_pages_lose_nothing() {
    let _machine = shared();
    let mut rows = String::from("CREATE TABLE t (at TEXT, n INTEGER); BEGIN;");
    for n in 0..500 {
        write!(
            rows,
            "INSERT INTO t VALUES ('2026-01-01 00:00:{:02}', {n});",
            n / 37
        )
        .expect("text");
    }
    let from = Lite::new(&(rows + "COMMIT;"));
    let to = Lite::new("CREATE TABLE t (at TEXT, n INTEGER UNIQUE);");
    let manifest = copy(
        &from.url(),
        json!({ "table": "t", "indexField": "at", "limit": 10 }),
        &to.url(),
        json!({ "table": "t" }),
    );
    let windlass = Windlass::start(&manifest);
    let all = "SELECT n, at FROM t ORDER BY n";
    answers(START, &from.run(all), || to.run(all));
    assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
}

#[test]
fn index_columns_with_more_digits_than_a_float_lose_nothing_and_repeat_nothing() {
    let _machine = shared();
    let from = MariaDb::start();
    let to = Lite::new(
        "CREATE TABLE exact (d TEXT UNIQUE); CREATE TABLE wide (u TEXT UNIQUE);
         CREATE TABLE single (f REAL UNIQUE);",
    );
    // As floats all values of a column are equal; those of the last are others than their digits say.
    drop(from.sql(
        "CREATE TABLE exact (d DECIMAL(40,10)); CREATE TABLE wide (u BIGINT UNSIGNED);
         CREATE TABLE single (f FLOAT);
         INSERT INTO exact SELECT 12345678901234567890.5 + seq * 0.0000000001 FROM seq_1_to_300;
         INSERT INTO wide SELECT 18446744073709551615 - seq FROM seq_1_to_300;
         INSERT INTO single SELECT seq * 0.1 FROM seq_1_to_300",
    ));
    let mut manifest = Manifest::new()
        .connection("from", "sql", json!({ "dburl": from.url() }))
        .connection("to", "sql", json!({ "dburl": to.url() }));
    for (table, column) in [("exact", "d"), ("wide", "u"), ("single", "f")] {
        let query = json!({ "table": table, "indexField": column, "limit": 7 });
        let props = json!({
            "connectionSelector": "from", "interval": "100ms", "internalSqlQueryCfg": query,
        });
        manifest = manifest
            .conf_key("sql", table, props)
            .stream(&STREAM.replace("rows", table))
            .rule(
                table,
                &format!("SELECT * FROM {table}"),
                writing(json!({ "table": table })),
            );
    }
    let windlass = Windlass::start(&manifest);
    let figures = "SELECT (SELECT count(*) FROM exact), (SELECT count(*) FROM wide), (SELECT count(*) FROM single)";
    answers(START, "300\t300\t300", || to.run(figures));
    answers(SOON, &from.sql("SELECT d FROM exact ORDER BY d"), || {
        to.run("SELECT d FROM exact ORDER BY d")
    });
    // Several times its interval: a row that came again would fail on its key.
    std::thread::sleep(Duration::from_millis(500));
    assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
    // What comes later is behind what was there.
    drop(from.sql("INSERT INTO exact VALUES (12345678901234567891.7); INSERT INTO wide VALUES (18446744073709551615)"));
    answers(SOON, "301\t301\t300", || to.run(figures));
}

/// What both servers print of a row in the same way.
const PLANT: &str =
    "CREATE TABLE machines (id BIGINT PRIMARY KEY, name VARCHAR(200), value DOUBLE PRECISION,
    big BIGINT, note VARCHAR(100), at TIMESTAMP(6))";

/// Rows `first` to `last` for PostgreSQL.
fn generate(first: u64, last: u64) -> String {
    format!(
        "INSERT INTO machines SELECT n, 'machine ' || n || ' \"ö''\\', n * 0.25, 9223372036854775807 - n,
         CASE WHEN n % 3 = 0 THEN NULL ELSE 'note' END, timestamp '2026-01-01' + n * interval '1.000001 s'
         FROM generate_series({first}, {last}) AS n"
    )
}

const FROM_POSTGRES: &str = "SELECT id, replace(name, '\\', '/'), value, big, coalesce(note, '-'),
    to_char(at, 'YYYY-MM-DD HH24:MI:SS.US') FROM machines ORDER BY id";
const FROM_MARIADB: &str =
    "SELECT id, replace(name, '\\\\', '/'), value, big, coalesce(note, '-'), at
    FROM machines ORDER BY id";

fn count(server: &MariaDb) -> u64 {
    server
        .sql("SELECT count(*) FROM machines")
        .parse()
        .expect("a number")
}

#[test]
fn rows_go_from_postgresql_into_mariadb_exactly_though_windlass_is_killed_5_times() {
    let _machine = alone();
    let rows: u64 = short_or_long(20_000, 100_000);
    let (from, to) = (Postgres::start(), MariaDb::start());
    drop(from.sql(PLANT));
    drop(to.sql(&PLANT.replace("at TIMESTAMP(6)", "at DATETIME(6)")));
    // What an upsert has to overwrite.
    drop(to.sql("INSERT INTO machines (id, name) SELECT seq, 'stale' FROM seq_1_to_100"));
    let manifest = copy(
        &from.url(),
        json!({ "table": "machines", "indexField": "id" }),
        &to.url(),
        json!({ "table": "machines", "keyField": "id" }),
    );
    let mut windlass = Windlass::start(&manifest);
    let slice = rows / 6;
    let mut amid = 0;
    for kill in 0..6 {
        let (first, last) = (
            kill * slice + 1,
            if kill == 5 { rows } else { (kill + 1) * slice },
        );
        drop(from.sql(&generate(first, last)));
        if kill == 5 {
            break;
        }
        wait_until(START, "rows of this slice arrive", || {
            count(&to) > first + 100
        });
        windlass.kill();
        let there = count(&to);
        amid += u64::from(there < last);
        println!("kill {kill}: {there} of {last} rows were there");
        windlass.up();
    }
    wait_until(Duration::from_secs(120), "all rows are there", || {
        std::thread::sleep(Duration::from_millis(50));
        count(&to) >= rows
    });
    println!("{amid} of 5 kills amid a slice");
    answers(SOON, &tabs(&from.sql(FROM_POSTGRES)), || {
        to.sql(FROM_MARIADB).trim_end().to_owned()
    });
    assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
    drop(windlass);

    // The rate: everything is there before it starts. The yardstick: MariaDB's own client.
    drop(to.sql("CREATE TABLE yardstick LIKE machines; DELETE FROM machines"));
    let mut windlass = Windlass::start(&manifest);
    let (mut begin, mut before) = (Instant::now(), 0);
    wait_until(START, "the first rows arrive", || {
        begin = Instant::now();
        before = count(&to);
        before > 0
    });
    wait_until(Duration::from_secs(120), "all rows are there", || {
        std::thread::sleep(Duration::from_millis(10));
        count(&to) >= rows
    });
    let windlass_rate = (rows - before) as f64 / begin.elapsed().as_secs_f64();
    windlass.kill();
    let mut inserts = String::new();
    for chunk in to
        .sql("SELECT id, quote(name), value, big, quote(note), quote(at) FROM machines")
        .lines()
        .collect::<Vec<_>>()
        .chunks(1000)
    {
        let values: Vec<String> = chunk
            .iter()
            // The client doubles backslashes where it prints rows.
            .map(|row| format!("({})", row.replace("\\\\", "\\").replace('\t', ",")))
            .collect();
        writeln!(
            inserts,
            "INSERT INTO yardstick VALUES {};",
            values.join(",")
        )
        .expect("text");
    }
    let begin = Instant::now();
    let mut client = to
        .client()
        .stdin(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let mut input = client.stdin.take().expect("piped");
    input
        .write_all(inserts.as_bytes())
        .expect("the client reads");
    drop(input);
    assert!(client.wait().expect("its end").success());
    let client_rate = rows as f64 / begin.elapsed().as_secs_f64();
    assert_eq!(
        to.sql("SELECT count(*) FROM yardstick").trim(),
        rows.to_string()
    );
    println!(
        "{rows} rows: windlass {windlass_rate:.0}/s, the mariadb client {client_rate:.0}/s, ratio {:.2}",
        windlass_rate / client_rate
    );
    assert!(windlass_rate > 1000.0, "{windlass_rate:.0} rows/s");
}

#[test]
fn statements_in_names_and_values_stay_names_and_values() {
    let _machine = shared();
    // In both databases a table and columns whose names try to be statements.
    let table = "t`\"; DROP TABLE keep; --";
    let columns = ["i`\"d", "x'); DROP TABLE keep; --", "{{.y}} $1 ? :a"];
    let values = [
        "1",
        "'); DROP TABLE keep; --",
        "\\'\"`; DELETE FROM keep; /* {{.x}} ?",
    ];
    let quoted = |name: &str, quote: &str| {
        format!("{quote}{}{quote}", name.replace(quote, &quote.repeat(2)))
    };
    let create = |quote: &str, text: &str| {
        let [a, b, c] = columns.map(|name| quoted(name, quote));
        format!(
            "CREATE TABLE {} ({a} INTEGER PRIMARY KEY, {b} {text}, {c} {text}); CREATE TABLE keep (a INTEGER);",
            quoted(table, quote)
        )
    };
    let from = Lite::new(&create("\"", "TEXT"));
    let [id, x, y] = values.map(|value| format!("'{}'", value.replace('\'', "''")));
    from.run(&format!(
        "INSERT INTO {} VALUES ({id}, {x}, {y})",
        quoted(table, "\"")
    ));
    let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
    drop(postgres.sql(&create("\"", "TEXT")));
    drop(mariadb.sql(&create("`", "VARCHAR(200)")));
    let query = json!({ "table": table, "indexField": columns[0], "indexValue": 0 });
    let sink = |connection: &str, extra: Value| {
        let mut sink = json!({
            "connectionSelector": connection, "table": table, "keyField": columns[0], "sendSingle": true,
        });
        for (name, value) in extra.as_object().expect("an object") {
            sink[name] = value.clone();
        }
        json!({ "sql": sink })
    };
    let manifest = reading(Manifest::new(), &from.url(), query)
        .connection("postgres", "sql", json!({ "dburl": postgres.url() }))
        .connection("mariadb", "sql", json!({ "dburl": mariadb.url() }))
        .rule(
            "copy",
            "SELECT * FROM rows",
            json!([
                sink("postgres", json!({})),
                sink("mariadb", json!({ "fields": columns }))
            ]),
        );
    let windlass = Windlass::start(&manifest);
    let read = |quote: &str| {
        let [a, b, c] = columns.map(|name| quoted(name, quote));
        format!("SELECT {a}, {b}, {c} FROM {}", quoted(table, quote))
    };
    let wanted = values.join("\t");
    assert_eq!(from.run(&read("\"")), wanted);
    answers(START, &wanted, || tabs(&postgres.sql(&read("\""))));
    // The client doubles backslashes where it prints rows.
    answers(SOON, &wanted.replace('\\', "\\\\"), || {
        mariadb.sql(&read("`")).trim_end().to_owned()
    });
    let kept = "SELECT count(*) FROM keep";
    assert_eq!(postgres.sql(kept).trim(), "0", "the table is still there");
    assert_eq!(mariadb.sql(kept).trim(), "0", "the table is still there");
    assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
}

#[test]
fn a_table_that_is_missing_or_changes_its_columns_is_said_and_loses_nothing() {
    let _machine = shared();
    let from = Postgres::start();
    let to = Lite::new("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);");
    let manifest = copy(
        &from.url(),
        json!({ "table": "late", "indexField": "id" }),
        &to.url(),
        json!({ "table": "t", "keyField": "id" }),
    );
    let windlass = Windlass::start(&manifest);
    wait_until(START, "the missing table is said", || {
        windlass.log().contains("\"late\" does not exist")
    });
    drop(from.sql(
        "CREATE TABLE late (id INTEGER PRIMARY KEY, a TEXT); INSERT INTO late VALUES (1, 'x')",
    ));
    answers(START, "1\tx", || to.run("SELECT id, a FROM t"));
    // A column more on one side: what it does not fit is kept with the reason, whole.
    drop(from.sql("ALTER TABLE late ADD COLUMN b TEXT; INSERT INTO late VALUES (2, 'y', 'new')"));
    let mut kept = Vec::new();
    wait_until(SOON, "a dead letter", || {
        kept = letters(&windlass);
        !kept.is_empty()
    });
    assert!(kept[0].to_string().contains('b'), "{kept:?}");
    assert_eq!(to.run("SELECT count(*) FROM t"), "1");
    // On both sides: what was kept can be sent again, and new rows pass.
    drop(to.run("ALTER TABLE t ADD COLUMN b TEXT"));
    drop(from.sql("INSERT INTO late VALUES (3, 'z', 'newer')"));
    answers(SOON, "1\tx\t\n3\tz\tnewer", || {
        to.run("SELECT id, a, b FROM t ORDER BY id")
    });
    let data = windlass.data().display().to_string();
    let id = kept[0]["id"]
        .as_str()
        .map_or_else(|| kept[0]["id"].to_string(), str::to_owned);
    assert_eq!(
        command(&["deadletters", "resend", &id, "--data", &data]).code,
        Some(0)
    );
    answers(SOON, "2\ty\tnew", || {
        to.run("SELECT id, a, b FROM t WHERE id = 2")
    });
    // A column less.
    drop(from.sql("ALTER TABLE late DROP COLUMN a; INSERT INTO late VALUES (4, 'last')"));
    answers(SOON, "4\t\tlast", || {
        to.run("SELECT id, a, b FROM t WHERE id = 4")
    });
}

#[test]
fn servers_that_are_down_at_creation_or_are_killed_come_up_later_and_no_row_is_missing() {
    let _machine = shared();
    let (mut from, mut to) = (Postgres::start(), MariaDb::start());
    drop(from.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)"));
    drop(to.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, a VARCHAR(20))"));
    drop(from.sql("INSERT INTO t SELECT n, n FROM generate_series(1, 100) AS n"));
    from.stop();
    to.stop();
    let manifest = copy(
        &from.url(),
        json!({ "table": "t", "indexField": "id" }),
        &to.url(),
        json!({ "table": "t", "keyField": "id" }),
    );
    let windlass = Windlass::start(&manifest);
    for id in ["from", "to"] {
        windlass.wait_connection(id, "disconnected", START);
    }
    from.up();
    windlass.wait_connection("from", "connected", SOON);
    to.up();
    answers(SOON, "100", || {
        to.sql("SELECT count(*) FROM t").trim_end().to_owned()
    });
    to.stop();
    drop(from.sql("INSERT INTO t SELECT n, n FROM generate_series(101, 200) AS n"));
    from.stop();
    from.up();
    drop(from.sql("INSERT INTO t SELECT n, n FROM generate_series(201, 300) AS n"));
    to.up();
    answers(SOON, "300\t45150", || {
        to.sql("SELECT count(*), sum(a) FROM t")
            .trim_end()
            .to_owned()
    });
    assert!(letters(&windlass).is_empty(), "{:?}", letters(&windlass));
}

#[test]
fn rows_say_what_is_done_with_them() {
    let _machine = shared();
    let from = Lite::new(
        "CREATE TABLE changes (n INTEGER PRIMARY KEY, kind TEXT, id INTEGER, v TEXT);
         INSERT INTO changes (kind, id, v) VALUES ('insert', 1, 'a'), ('insert', 2, 'b'), ('update', 1, 'c'),
             ('upsert', 3, 'd'), ('delete', 2, NULL), (NULL, 4, 'e'), ('upsert', 3, 'f'), ('rename', 4, 'g');",
    );
    let to = MariaDb::start();
    drop(to.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v VARCHAR(20))"));
    let manifest = copy(
        &from.url(),
        json!({ "table": "changes", "indexField": "n" }),
        &to.url(),
        json!({ "table": "t", "keyField": "id", "rowKindField": "kind", "fields": ["id", "v"] }),
    );
    let windlass = Windlass::start(&manifest);
    answers(START, "1\tc\n3\tf\n4\te", || {
        to.sql("SELECT * FROM t ORDER BY id").trim_end().to_owned()
    });
    let mut kept = Vec::new();
    wait_until(SOON, "a dead letter", || {
        kept = letters(&windlass);
        kept.len() == 1
    });
    assert!(kept[0].to_string().contains("rename"), "{kept:?}");
}

#[test]
fn a_configuration_that_cannot_work_stops_the_rule_with_a_sentence() {
    let _machine = shared();
    let lite = Lite::new("CREATE TABLE t (id INTEGER PRIMARY KEY);");
    let both = json!({
        "connectionSelector": "from", "interval": "1s", "internalSqlQueryCfg": { "table": "t" },
        "templateSqlQueryCfg": { "templateSql": "SELECT 1" },
    });
    for (source, sink, words) in [
        (
            Some(both),
            json!({ "table": "t" }),
            "either internalSqlQueryCfg or templateSqlQueryCfg",
        ),
        (
            None,
            json!({ "table": "t", "rowKindField": "kind" }),
            "keyField",
        ),
    ] {
        let mut manifest = copy(&lite.url(), json!({ "table": "t" }), &lite.url(), sink);
        if let Some(source) = source {
            manifest = manifest.conf_key("sql", "rows", source);
        }
        lite.run("INSERT INTO t DEFAULT VALUES");
        let windlass = Windlass::start(&manifest);
        let stopped = holds_within(START, || {
            windlass
                .rule("copy")
                .is_some_and(|(_, message)| message.contains(words))
        });
        assert!(stopped, "{words}: {:?}", windlass.rule("copy"));
    }
}

#[test]
fn a_sink_with_two_connections_looks_rows_up_and_publishes_them() {
    let _machine = shared();
    let broker = Mosquitto::start();
    let far = Subscriber::start(Subscribe {
        judge: Judge::Number,
        ..Subscribe::new(broker.port(), "far", "out", 1)
    });
    // The numbers that are looked for at the far end stand in the table that is looked up alone.
    let db = Lite::new(
        "CREATE TABLE readings (id INTEGER PRIMARY KEY, machine TEXT);
         CREATE TABLE machines (machine TEXT PRIMARY KEY, seq INTEGER);",
    );
    let mut rows = String::from("BEGIN;");
    for seq in 0..300 {
        write!(
            rows,
            "INSERT INTO readings VALUES ({}, 'm{seq}'); INSERT INTO machines VALUES ('m{seq}', {seq});",
            1000 + seq
        )
        .expect("text");
    }
    drop(db.run(&(rows + "COMMIT;")));
    let query = json!({ "table": "readings", "indexField": "id" });
    let manifest = reading(Manifest::new(), &db.url(), query)
        .connector("enrich", &built("enrich"))
        .mqtt("broker", &broker.url())
        .rule(
            "enrich",
            "SELECT * FROM rows",
            json!([{ "enrich": {
                "connections": { "db": "from", "broker": "broker" },
                "table": "machines", "keyField": "machine", "topic": "out", "sendSingle": true,
            } }]),
        );
    let _windlass = Windlass::start(&manifest);
    wait_until(START, "all are published", || far.arrived() >= 300);
    let ledger = far.ledger();
    let lost = ledger.lost(0..300);
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(ledger.corrupt(), 0, "{}", ledger.summary());
}
