//! `wit/sql.wit`: statements over a connection that was granted.

use wasmtime::component::Resource;

use super::bindings::windlass::connector::sql as wit;
use super::host::Host;
use super::types::to_guest;
use crate::connections::{Interface, Sql, SqlValue};
use crate::error::ConnectionError;

/// A client: the place of its grant.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated code re-exports it")]
pub struct ClientHandle;

fn value_in(value: wit::Value) -> SqlValue {
    match value {
        wit::Value::Null => SqlValue::Null,
        wit::Value::Boolean(value) => SqlValue::Boolean(value),
        wit::Value::Integer(value) => SqlValue::Integer(value),
        wit::Value::Real(value) => SqlValue::Real(value),
        wit::Value::Text(value) => SqlValue::Text(value),
        wit::Value::Blob(value) => SqlValue::Blob(value),
    }
}

fn value_out(value: SqlValue) -> wit::Value {
    match value {
        SqlValue::Null => wit::Value::Null,
        SqlValue::Boolean(value) => wit::Value::Boolean(value),
        SqlValue::Integer(value) => wit::Value::Integer(value),
        SqlValue::Real(value) => wit::Value::Real(value),
        SqlValue::Text(value) => wit::Value::Text(value),
        SqlValue::Blob(value) => wit::Value::Blob(value),
    }
}

fn row_in(row: Vec<wit::Value>) -> Vec<SqlValue> {
    row.into_iter().map(value_in).collect()
}

impl wit::Host for Host {}

impl wit::HostClient for Host {
    async fn open(
        &mut self,
        id: String,
    ) -> wasmtime::Result<Result<Resource<ClientHandle>, wit::Error>> {
        self.count_call()?;
        Ok(self
            .grant(&id, Interface::Sql)
            .map(Resource::new_own)
            .map_err(|error| to_guest(&error)))
    }

    async fn dialect(&mut self, client: Resource<ClientHandle>) -> wasmtime::Result<String> {
        self.count_call()?;
        let connection = self.granted(client.rep())?.target.connection();
        Ok(connection
            .sql()
            .map(Sql::dialect)
            .unwrap_or_default()
            .to_owned())
    }

    async fn query(
        &mut self,
        client: Resource<ClientHandle>,
        statement: String,
        params: Vec<wit::Value>,
    ) -> wasmtime::Result<Result<wit::Rows, wit::Error>> {
        self.count_call()?;
        let connection = self.granted(client.rep())?.target.connection();
        let answer = Self::bounded(self.parts.deadline, &self.parts.clock, async {
            let sql = connection.sql().ok_or_else(ConnectionError::denied)?;
            sql.query(&statement, row_in(params)).await
        });
        Ok(match answer.await {
            Ok(rows) => Ok(wit::Rows {
                columns: rows.columns,
                rows: rows
                    .rows
                    .into_iter()
                    .map(|row| row.into_iter().map(value_out).collect())
                    .collect(),
                truncated: rows.truncated,
            }),
            Err(error) => Err(to_guest(&error)),
        })
    }

    async fn execute_many(
        &mut self,
        client: Resource<ClientHandle>,
        statement: String,
        params: Vec<Vec<wit::Value>>,
    ) -> wasmtime::Result<Result<u32, wit::Error>> {
        self.count_call()?;
        let connection = self.granted(client.rep())?.target.connection();
        let answer = Self::bounded(self.parts.deadline, &self.parts.clock, async {
            let sql = connection.sql().ok_or_else(ConnectionError::denied)?;
            sql.execute_many(&statement, params.into_iter().map(row_in).collect())
                .await
        });
        Ok(answer.await.map_err(|error| to_guest(&error)))
    }

    async fn drop(&mut self, _client: Resource<ClientHandle>) -> wasmtime::Result<()> {
        Ok(())
    }
}
