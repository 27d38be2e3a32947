//! A real PostgreSQL.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use windlass_tests::postgres::{PASSWORD, Postgres};

use super::support::{Client, int, text};
use crate::connections::SqlValue;
use crate::error::{ErrorKind, Pace};

fn client(server: &Postgres) -> Client {
    Client::start(&server.url(), json!({}), Path::new("/"))
}

/// Type, and values in the database's own notation.
const TYPES: &[(&str, &[&str])] = &[
    (
        "numeric",
        &["123456789012345678901234567890.000000001", "NaN", "-0.10"],
    ),
    ("money", &["$1,234.50"]),
    ("text", &["", "it's \\ $1 ? \u{1F600}"]),
    ("varchar(5)", &["a'b"]),
    ("name", &["n"]),
    ("\"char\"", &["c"]),
    ("date", &["2024-02-29", "infinity"]),
    ("time", &["23:59:59.123456"]),
    ("timetz", &["23:59:59.5+02"]),
    ("timestamp", &["2024-02-29 23:59:59.123456", "-infinity"]),
    ("timestamptz", &["2024-02-29 22:59:59.123456+00"]),
    ("interval", &["1 year 2 mons 3 days 04:05:06.7"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", &["{\"b\":1, \"a\": [1.10]}"]),
    ("jsonb", &["{\"a\": [1.10], \"b\": 1}"]),
    ("xml", &["<a>b</a>"]),
    ("inet", &["10.0.0.1/8"]),
    ("cidr", &["10.0.0.0/8"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("bit(3)", &["101"]),
    ("varbit", &["10110"]),
    ("int4[]", &["{1,NULL,-3}", "{{1,2},{3,4}}"]),
    ("text[]", &["{a,\"b,c\",\"d\\\"e\"}"]),
    ("timestamptz[]", &["{\"2024-02-29 22:59:59+00\"}"]),
    ("int4range", &["[1,10)"]),
    ("tstzrange", &["[\"2024-02-29 00:00:00+00\",)"]),
    ("int4multirange", &["{[1,3),[5,7)}"]),
    ("tsvector", &["'a':1 'b':2"]),
    ("tsquery", &["'a' & 'b'"]),
    ("point", &["(1.5,-2)"]),
    ("line", &["{1,2,3}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(1,1),(0,0)"]),
    ("path", &["((0,0),(1,1))"]),
    ("polygon", &["((0,0),(1,1),(1,0))"]),
    ("circle", &["<(0,0),2>"]),
    ("pg_lsn", &["16/B374D848"]),
    ("mood", &["very happy"]),
    ("pair", &["(1,\"x y\")"]),
    ("mood[]", &["{sad,\"very happy\"}"]),
    ("even", &["4"]),
];

#[tokio::test]
async fn every_type_goes_in_and_comes_out_in_the_databases_own_notation() {
    let server = Postgres::start();
    let client = client(&server);
    client
        .run("CREATE TYPE mood AS ENUM ('sad', 'very happy')")
        .await;
    client.run("CREATE TYPE pair AS (a int, b text)").await;
    client
        .run("CREATE DOMAIN even AS numeric CHECK (VALUE % 2 = 0)")
        .await;
    for (place, (kind, values)) in TYPES.iter().enumerate() {
        client
            .run(&format!("CREATE TABLE t{place} (v {kind})"))
            .await;
        let insert = format!("INSERT INTO t{place} VALUES ($1)");
        let mut given: Vec<_> = values.iter().map(|v| vec![text(v)]).collect();
        given.push(vec![SqlValue::Null]);
        assert_eq!(
            client.many(&insert, given.clone()).await as usize,
            given.len(),
            "{kind}"
        );
        let found = client
            .query(&format!("SELECT v FROM t{place}"), vec![])
            .await;
        assert_eq!(found.rows, given, "{kind}");
        // As a parameter that is compared, and out of RETURNING, one at a time.
        for value in *values {
            let back = client
                .one(&format!("{insert} RETURNING v"), vec![text(value)])
                .await;
            assert_eq!(back, text(value), "{kind} RETURNING");
        }
    }
    let value = client
        .one(
            "SELECT v FROM t10 WHERE v >= $1 AND v < $2 LIMIT $3",
            vec![text("2024-02-29T23:59:59+01:00"), text("infinity"), int(1)],
        )
        .await;
    assert_eq!(value, text("2024-02-29 22:59:59.123456+00"));
}

#[tokio::test]
async fn numbers_booleans_and_bytes_have_values_of_their_own() {
    let server = Postgres::start();
    let client = client(&server);
    client
        .run(
            "CREATE TABLE n (a int2, b int4, c int8, d real, e float8, f bool, g bytea, h numeric)",
        )
        .await;
    let row = vec![
        int(-32768),
        int(i32::MAX.into()),
        int(i64::MIN),
        SqlValue::Real(0.1),
        SqlValue::Real(f64::MAX),
        SqlValue::Boolean(true),
        SqlValue::Blob(vec![0, 255, b'\'']),
        text("9223372036854775808"),
    ];
    let insert = "INSERT INTO n VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    assert_eq!(client.many(insert, vec![row.clone()]).await, 1);
    assert_eq!(
        client.query("SELECT * FROM n", vec![]).await.rows,
        vec![row.clone()]
    );
    let back = client
        .query(&format!("{insert} RETURNING *"), row.clone())
        .await;
    assert_eq!(back.rows, vec![row]);
    assert_eq!(back.columns, ["a", "b", "c", "d", "e", "f", "g", "h"]);
    assert_eq!(
        client
            .one("SELECT ($1::int[])[2]", vec![text("{1,2}")])
            .await,
        int(2)
    );
    assert_eq!(
        client.one("SHOW server_encoding", vec![]).await,
        text("UTF8")
    );
    let odd = client
        .fails("INSERT INTO n (a) VALUES ($1)", vec![text("x")])
        .await;
    assert_eq!(
        (odd.kind, odd.code.as_str()),
        (ErrorKind::Permanent, "sqlstate:22P02")
    );
    let large = client
        .fails("INSERT INTO n (a) VALUES ($1)", vec![int(32768)])
        .await;
    assert_eq!(large.code, "sqlstate:22003");
}

#[tokio::test]
async fn a_batch_is_whole_or_nothing_and_a_key_twice_in_it_is_updated_twice() {
    let server = Postgres::start();
    let client = client(&server);
    client
        .run("CREATE TABLE k (a int PRIMARY KEY, b timestamptz)")
        .await;
    let row = |n: i64| vec![int(n), text("2024-01-01 00:00:00+00")];
    let mut rows: Vec<_> = (0..3000).map(row).collect();
    rows.push(row(7));
    let error = client
        .sql()
        .execute_many("INSERT INTO k VALUES ($1, $2)", rows.clone())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Permanent, "sqlstate:23505")
    );
    assert_eq!(client.one("SELECT count(*) FROM k", vec![]).await, int(0));
    let upsert = "INSERT INTO k VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = EXCLUDED.b";
    assert_eq!(client.many(upsert, rows).await, 3001);
    assert_eq!(
        client.one("SELECT count(*) FROM k", vec![]).await,
        int(3000)
    );
    let evil = "x'); DROP TABLE k; --";
    assert_eq!(
        client.one("SELECT $1 || ''", vec![text(evil)]).await,
        text(evil)
    );
    let with = "WITH d AS (DELETE FROM k WHERE a < 10 RETURNING a) SELECT count(*) FROM d";
    assert_eq!(client.one(with, vec![]).await, int(10));
    let changed = client
        .many(
            "DELETE FROM k WHERE a = $1",
            vec![vec![int(10)], vec![int(11)]],
        )
        .await;
    assert_eq!(changed, 2);
}

#[tokio::test]
async fn columns_may_change_while_statements_on_them_are_in_use() {
    let server = Postgres::start();
    let client = client(&server);
    client.run("CREATE TABLE c (a int, b int)").await;
    let insert = "INSERT INTO c (a, b) VALUES ($1, $2)";
    client.many(insert, vec![vec![int(1), int(2)]]).await;
    let all = "SELECT * FROM c WHERE a = $1";
    assert_eq!(client.query(all, vec![int(1)]).await.columns.len(), 2);
    let change =
        "ALTER TABLE c ADD COLUMN d jsonb DEFAULT '{}', ALTER COLUMN b TYPE text USING b::text";
    assert_eq!(server.sql(change), "");
    client
        .many(insert, vec![vec![int(1), text("now text")]])
        .await;
    let rows = client.query(all, vec![int(1)]).await;
    assert_eq!(rows.columns, ["a", "b", "d"]);
    assert_eq!(rows.rows[1], [int(1), text("now text"), text("{}")]);
    assert_eq!(server.sql("ALTER TABLE c RENAME TO gone"), "");
    let error = client.fails(all, vec![int(1)]).await;
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Permanent, "sqlstate:42P01")
    );
    assert!(
        error.message.contains("\"c\" does not exist"),
        "{}",
        error.message
    );
}

#[tokio::test]
async fn a_server_that_is_down_at_first_comes_up_and_its_restart_is_noticed() {
    let mut server = Postgres::start();
    server.stop();
    let client = client(&server);
    let before = Instant::now();
    let error = client.fails("SELECT 1", vec![]).await;
    assert_eq!(error.kind, ErrorKind::Disconnected);
    assert!(before.elapsed() < Duration::from_millis(5_500));
    assert!(!error.message.contains("127.0.0.1") && !error.report().contains(PASSWORD));
    server.up();
    client.up(Duration::from_secs(10)).await;
    server.stop();
    server.up();
    client.up(Duration::from_secs(10)).await;
    assert_eq!(
        client.connection.peer(),
        Some(format!("127.0.0.1:{}/postgres", server.port()))
    );
    let wrong = server.url().replace(PASSWORD, "not-it");
    let other = Client::start(&wrong, json!({}), Path::new("/"));
    let refused = other.connection.probe().await.unwrap_err();
    assert_eq!(
        (refused.pace, refused.code.as_str()),
        (Pace::Slow, "sqlstate:28P01")
    );
    assert!(!refused.report().contains("not-it") && !refused.message.contains("ann"));
}

#[tokio::test]
async fn rows_beyond_the_limit_are_left_out_and_long_statements_are_ended() {
    let server = Postgres::start();
    let more = json!({"maxRows": 10, "timeout": "500ms"});
    let client = Client::start(&server.url(), more, Path::new("/"));
    let rows = client
        .query("SELECT generate_series(1, 1000000) AS n", vec![])
        .await;
    assert!(rows.truncated && rows.rows.len() == 10);
    let rows = client
        .query("SELECT n FROM generate_series(1, $1) AS n", vec![int(10)])
        .await;
    assert!(!rows.truncated && rows.rows.len() == 10);
    let late = client.fails("SELECT pg_sleep(5)", vec![]).await;
    assert_eq!(late.kind, ErrorKind::Transient);
    assert_eq!(client.one("SELECT 1", vec![]).await, int(1));
}
