//! Small values of connections that survive restarts.

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::writer::Write;
use super::{Store, StoreError};
use crate::connections::Memory;
use crate::error::ConnectionError;

/// The memory of one connection.
#[derive(Debug)]
pub(super) struct ConnectionMemory {
    store: Store,
    tenant: String,
    connection: String,
}

impl ConnectionMemory {
    pub(super) fn new(store: Store, tenant: &str, connection: &str) -> Self {
        Self {
            store,
            tenant: tenant.to_owned(),
            connection: connection.to_owned(),
        }
    }

    async fn read(&self, name: &str) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar(
            "SELECT content FROM memory WHERE tenant = $1 AND connection = $2 AND name = $3",
        )
        .bind(&self.tenant)
        .bind(&self.connection)
        .bind(name)
        .fetch_optional(&self.store.pool().await?)
        .await
        .map_err(|error| self.store.failed(error))
    }
}

#[async_trait]
impl Memory for ConnectionMemory {
    async fn get(&self, name: &str) -> Result<Option<String>, ConnectionError> {
        self.read(name).await.map_err(refuses)
    }

    async fn put(&self, name: &str, value: &str) -> Result<(), ConnectionError> {
        let write = Write::Remember {
            tenant: self.tenant.clone(),
            connection: self.connection.clone(),
            name: name.to_owned(),
            content: value.to_owned(),
        };
        self.store.write(write).await.map(drop).map_err(refuses)
    }
}

fn refuses(error: StoreError) -> ConnectionError {
    ConnectionError::transient("store", "the host's disk refuses at present").caused_by(error)
}

impl Store {
    /// Forgets everything that was kept for a connection.
    ///
    /// # Errors
    /// [`StoreError`]; it is still there.
    pub async fn forget(&self, tenant: &str, connection: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM memory WHERE tenant = $1 AND connection = $2")
            .bind(tenant)
            .bind(connection)
            .execute(&self.pool().await?)
            .await
            .map(drop)
            .map_err(|error| self.failed(error))
    }
}

pub(super) async fn remember(
    to: &mut SqliteConnection,
    tenant: &str,
    connection: &str,
    name: &str,
    content: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO memory (tenant, connection, name, content) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (tenant, connection, name) DO UPDATE SET content = excluded.content",
    )
    .bind(tenant)
    .bind(connection)
    .bind(name)
    .bind(content)
    .execute(to)
    .await
    .map(drop)
}
