//! What the tests of this folder share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::connections::sql::SqlDatabase;
use crate::connections::testing::context;
use crate::connections::{Connection, ConnectionType, Rows, Sql, SqlValue};
use crate::error::ConnectionError;

/// A connection with the simplest of supervisors: it dials again, after a moment, for ever.
pub(super) struct Client {
    pub(super) connection: Arc<dyn Connection>,
    _supervisor: JoinSet<()>,
}

impl Client {
    pub(super) fn start(url: &str, more: Value, base: &Path) -> Self {
        let mut properties = json!({ "dburl": url });
        for (name, value) in more.as_object().unwrap() {
            properties[name] = value.clone();
        }
        let properties = properties.as_object().unwrap();
        let connection = SqlDatabase::build(properties, context("db", base)).unwrap();
        let mut supervisor = JoinSet::new();
        let driven = Arc::clone(&connection);
        supervisor.spawn(async move {
            loop {
                if driven.connect().await.is_ok() {
                    driven.lost().await;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        Self {
            connection,
            _supervisor: supervisor,
        }
    }

    pub(super) fn sql(&self) -> &dyn Sql {
        self.connection.sql().unwrap()
    }

    pub(super) async fn query(&self, text: &str, params: Vec<SqlValue>) -> Rows {
        match self.sql().query(text, params).await {
            Ok(rows) => rows,
            Err(error) => panic!("{text}: {} {}", error.code, error.report()),
        }
    }

    /// The one value of the one row.
    pub(super) async fn one(&self, text: &str, params: Vec<SqlValue>) -> SqlValue {
        let rows = self.query(text, params).await;
        assert_eq!(rows.rows.len(), 1, "{text}");
        rows.rows[0][0].clone()
    }

    pub(super) async fn run(&self, text: &str) {
        self.query(text, Vec::new()).await;
    }

    pub(super) async fn many(&self, text: &str, rows: Vec<Vec<SqlValue>>) -> u32 {
        match self.sql().execute_many(text, rows).await {
            Ok(changed) => changed,
            Err(error) => panic!("{text}: {} {}", error.code, error.report()),
        }
    }

    pub(super) async fn fails(&self, text: &str, params: Vec<SqlValue>) -> ConnectionError {
        self.sql().query(text, params).await.unwrap_err()
    }

    /// Until a query is answered.
    pub(super) async fn up(&self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            match self.sql().query("SELECT 1", Vec::new()).await {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < end, "{}", error.report()),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(super) fn text(text: &str) -> SqlValue {
    SqlValue::Text(text.to_owned())
}

pub(super) fn int(value: i64) -> SqlValue {
    SqlValue::Integer(value)
}
