//! SQLite.

use std::time::Duration;

use serde_json::json;

use super::support::{Client, int, text};
use crate::connections::SqlValue;
use crate::error::ErrorKind;

fn client(folder: &tempfile::TempDir, more: serde_json::Value) -> Client {
    Client::start("sqlite:data.db", more, folder.path())
}

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(&folder, json!({}));
    client
        .run("CREATE TABLE t (n INTEGER PRIMARY KEY, v)")
        .await;
    let values = vec![
        SqlValue::Null,
        int(i64::MIN),
        int(i64::MAX),
        SqlValue::Real(-0.1),
        text("x'); DROP TABLE t; --\u{1F600}"),
        SqlValue::Blob(vec![0, 255]),
    ];
    let rows = (0..).zip(&values).map(|(n, v)| vec![int(n), v.clone()]);
    assert_eq!(
        client
            .many("INSERT INTO t VALUES (?, ?)", rows.collect())
            .await,
        6
    );
    let found = client.query("SELECT v FROM t ORDER BY n", vec![]).await;
    assert_eq!(found.columns, ["v"]);
    assert_eq!(
        found.rows,
        values.into_iter().map(|v| vec![v]).collect::<Vec<_>>()
    );
    assert_eq!(
        client.one("SELECT ?", vec![SqlValue::Boolean(true)]).await,
        int(1)
    );
    assert!(folder.path().join("data.db").is_file());
    assert_eq!(client.sql().dialect(), "sqlite");
}

#[tokio::test]
async fn a_row_that_fails_takes_back_all_rows_and_the_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(&folder, json!({}));
    client.run("CREATE TABLE t (n INTEGER PRIMARY KEY)").await;
    let mut rows: Vec<_> = (0..3000).map(|n| vec![int(n)]).collect();
    rows.push(vec![int(5)]);
    let error = client
        .sql()
        .execute_many("INSERT INTO t VALUES (?)", rows.clone())
        .await;
    let error = error.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Permanent, "sqlite:1555")
    );
    assert_eq!(client.one("SELECT count(*) FROM t", vec![]).await, int(0));
    rows.pop();
    assert_eq!(client.many("INSERT INTO t VALUES (?)", rows).await, 3000);
    assert_eq!(
        client.one("SELECT count(*) FROM t", vec![]).await,
        int(3000)
    );
    let missing = client.fails("SELECT * FROM nothing", vec![]).await;
    assert_eq!(missing.kind, ErrorKind::Permanent);
    assert!(
        missing.message.contains("no such table: nothing"),
        "{}",
        missing.message
    );
    let count = client.fails("SELECT ?", vec![]).await;
    assert_eq!(count.code, "parameters");
}

#[tokio::test]
async fn rows_beyond_the_limit_are_left_out_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(&folder, json!({"maxRows": 10}));
    client.run("CREATE TABLE t (n)").await;
    client
        .many(
            "INSERT INTO t VALUES (?)",
            (0..11).map(|n| vec![int(n)]).collect(),
        )
        .await;
    let rows = client.query("SELECT n FROM t ORDER BY n", vec![]).await;
    assert!(rows.truncated && rows.rows.len() == 10);
    let rows = client.query("SELECT n FROM t LIMIT 10", vec![]).await;
    assert!(!rows.truncated && rows.rows.len() == 10);
}

#[tokio::test]
async fn a_lock_held_by_another_is_transient_and_columns_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let client = client(&folder, json!({"busyTimeout": "50ms"}));
    client.run("CREATE TABLE t (n)").await;
    client
        .many("INSERT INTO t VALUES (?)", vec![vec![int(1)]])
        .await;
    let all = "SELECT * FROM t";
    assert_eq!(client.query(all, vec![]).await.columns, ["n"]);
    client.run("ALTER TABLE t ADD COLUMN m DEFAULT 2").await;
    let rows = client.query(all, vec![]).await;
    assert_eq!(
        (rows.columns, rows.rows),
        (
            vec!["n".to_owned(), "m".to_owned()],
            vec![vec![int(1), int(2)]]
        )
    );
    let path = folder.path().join("data.db");
    let other = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut other = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&other)
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let locked = client
        .sql()
        .execute_many("INSERT INTO t VALUES (?, ?)", vec![vec![int(1), int(1)]])
        .await;
    assert_eq!(locked.unwrap_err().kind, ErrorKind::Transient);
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet_is_no_reason_to_give_up() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::start("sqlite:later/x.db", json!({}), folder.path());
    let before = tokio::time::Instant::now();
    let error = client.fails("SELECT 1", vec![]).await;
    assert_eq!(error.kind, ErrorKind::Disconnected);
    assert!(before.elapsed() < Duration::from_millis(5_500));
    assert!(!error.report().contains("later"));
    std::fs::create_dir(folder.path().join("later")).unwrap();
    client.up(Duration::from_secs(5)).await;
}
