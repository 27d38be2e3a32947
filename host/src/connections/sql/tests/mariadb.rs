//! A real MariaDB.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use windlass_tests::mariadb::{MariaDb, PASSWORD};

use super::support::{Client, int, text};
use crate::connections::SqlValue;
use crate::error::{ErrorKind, Pace};

fn client(server: &MariaDb) -> Client {
    Client::start(&server.url(), json!({}), Path::new("/"))
}

/// Type, and values in the database's own notation.
fn types() -> Vec<(&'static str, Vec<SqlValue>)> {
    let texts = |values: &[&str]| values.iter().map(|v| text(v)).collect();
    vec![
        ("tinyint(1)", vec![int(1), int(-128)]),
        ("tinyint(1) unsigned", vec![int(255)]),
        ("tinyint", vec![int(-128)]),
        ("tinyint unsigned", vec![int(255)]),
        ("smallint", vec![int(-32768)]),
        ("mediumint", vec![int(-8_388_608)]),
        ("mediumint unsigned", vec![int(16_777_215)]),
        ("int", vec![int(i32::MIN.into())]),
        ("int unsigned", vec![int(u32::MAX.into())]),
        ("bigint", vec![int(i64::MIN), int(i64::MAX)]),
        (
            "bigint unsigned",
            vec![int(i64::MAX), text("18446744073709551615")],
        ),
        ("float", vec![SqlValue::Real(0.1)]),
        ("double", vec![SqlValue::Real(f64::MAX)]),
        (
            "decimal(40,10)",
            texts(&["123456789012345678901234567890.0000000001"]),
        ),
        ("bit(1)", vec![int(1)]),
        ("bit(64)", vec![int(i64::MAX)]),
        ("year", vec![int(2024)]),
        ("date", texts(&["2024-02-29", "0000-00-00"])),
        (
            "datetime",
            texts(&["2024-02-29 23:59:59", "0000-00-00 00:00:00"]),
        ),
        ("datetime(6)", texts(&["2024-02-29 23:59:59.123456"])),
        ("timestamp(3) null", texts(&["2024-02-29 23:59:59.125"])),
        ("time", texts(&["838:59:59", "-838:59:59", "00:00:00"])),
        ("time(6)", texts(&["-00:00:01.500001"])),
        ("char(3)", texts(&["abc"])),
        ("varchar(20)", texts(&["", "it's \\ ? \u{1F600}"])),
        ("varchar(20) collate utf8mb4_bin", texts(&["bin"])),
        ("text", texts(&["t"])),
        ("longtext", texts(&["t"])),
        ("json", texts(&["{\"b\":1, \"a\": [1.10]}"])),
        ("enum('a','b c')", texts(&["b c"])),
        ("set('a','b')", texts(&["a,b"])),
        ("uuid", texts(&["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"])),
        ("inet6", texts(&["::1"])),
        ("binary(2)", vec![SqlValue::Blob(vec![0, 255])]),
        ("varbinary(9)", vec![SqlValue::Blob(vec![0, 255, 39])]),
        ("blob", vec![SqlValue::Blob(vec![])]),
        ("longblob", vec![SqlValue::Blob(vec![7; 70_000])]),
    ]
}

#[tokio::test]
async fn every_type_goes_in_and_comes_out_in_the_databases_own_notation() {
    let server = MariaDb::start();
    assert_eq!(server.sql("SET GLOBAL sql_mode = ''"), "");
    let client = client(&server);
    for (place, (kind, values)) in types().into_iter().enumerate() {
        client
            .run(&format!("CREATE TABLE t{place} (n int, v {kind})"))
            .await;
        let mut given: Vec<_> = values.into_iter().map(|v| vec![v]).collect();
        given.push(vec![SqlValue::Null]);
        let rows = (0..)
            .zip(&given)
            .map(|(n, v)| vec![int(n), v[0].clone()])
            .collect();
        client
            .many(&format!("INSERT INTO t{place} VALUES (?, ?)"), rows)
            .await;
        let found = client
            .query(&format!("SELECT v FROM t{place} ORDER BY n"), vec![])
            .await;
        assert_eq!(found.rows, given, "{kind}");
    }
    let point = client
        .one("SELECT ST_GeomFromText('POINT(1 2)')", vec![])
        .await;
    assert!(matches!(point, SqlValue::Blob(bytes) if bytes.len() == 25));
    assert_eq!(
        client.one("SELECT ?", vec![SqlValue::Boolean(true)]).await,
        int(1)
    );
}

#[tokio::test]
async fn a_batch_is_whole_or_nothing_and_values_are_never_code() {
    let server = MariaDb::start();
    let client = client(&server);
    client
        .run("CREATE TABLE k (a int PRIMARY KEY, b varchar(40))")
        .await;
    let evil = "x'); DROP TABLE k; -- \\";
    let mut rows: Vec<_> = (0..3000).map(|n| vec![int(n), text(evil)]).collect();
    rows.push(vec![int(7), text("twice")]);
    let error = client
        .sql()
        .execute_many("INSERT INTO k VALUES (?, ?)", rows.clone())
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Permanent, "sqlstate:23000")
    );
    assert_eq!(client.one("SELECT count(*) FROM k", vec![]).await, int(0));
    let upsert = "INSERT INTO k VALUES (?, ?) ON DUPLICATE KEY UPDATE b = VALUES(b)";
    assert!(client.many(upsert, rows).await >= 3001);
    assert_eq!(
        client.one("SELECT count(*) FROM k", vec![]).await,
        int(3000)
    );
    assert_eq!(
        client
            .one("SELECT b FROM k WHERE a = ?", vec![int(7)])
            .await,
        text("twice")
    );
    assert_eq!(
        client
            .one("SELECT b FROM k WHERE b = ? LIMIT 1", vec![text(evil)])
            .await,
        text(evil)
    );
    let all = "SELECT * FROM k WHERE a = ?";
    assert_eq!(client.query(all, vec![int(1)]).await.columns.len(), 2);
    assert_eq!(
        server.sql("ALTER TABLE k ADD COLUMN c bigint unsigned DEFAULT 3"),
        ""
    );
    assert_eq!(client.query(all, vec![int(1)]).await.rows[0][2], int(3));
    let missing = client.fails("SELECT * FROM nothing", vec![]).await;
    assert_eq!(
        (missing.kind, missing.code.as_str()),
        (ErrorKind::Permanent, "sqlstate:42S02")
    );
}

#[tokio::test]
async fn a_server_that_is_down_at_first_comes_up_and_its_restart_is_noticed() {
    let mut server = MariaDb::start();
    server.stop();
    let client = client(&server);
    let before = Instant::now();
    let error = client.fails("SELECT 1", vec![]).await;
    assert_eq!(error.kind, ErrorKind::Disconnected);
    assert!(before.elapsed() < Duration::from_millis(5_500));
    server.up();
    client.up(Duration::from_secs(10)).await;
    server.stop();
    server.up();
    client.up(Duration::from_secs(10)).await;
    let wrong = server.url().replace(PASSWORD, "not-it");
    let other = Client::start(&wrong, json!({}), Path::new("/"));
    let refused = other.connection.probe().await.unwrap_err();
    assert_eq!(
        (refused.kind, refused.pace),
        (ErrorKind::Disconnected, Pace::Slow)
    );
    assert!(!refused.message.contains("127.0.0.1") && !refused.report().contains("not-it"));
    let limited = Client::start(&server.url(), json!({"maxRows": 10}), Path::new("/"));
    let rows = limited
        .query("SELECT seq FROM seq_1_to_100000", vec![])
        .await;
    assert!(rows.truncated && rows.rows.len() == 10);
    assert_eq!(limited.one("SELECT 1", vec![]).await, int(1));
}
