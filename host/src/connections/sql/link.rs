//! The link to one database: a pool that is there while the database answers. Dials once, notices
//! that it is lost, lends connections with a bound on every wait. Knows no statement; what a
//! database does in its own way is behind [`Driver`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::{Connection as _, Database, Pool};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::config::Config;
use super::dburl::Target;
use super::error::{self, Failure};
use super::text::{Dialect, Statement};
use crate::connections::{Connection, Context, Rows, Sql, SqlValue};
use crate::error::{ConnectionError, ErrorKind};

/// How long a call waits for the link, and for a connection of the pool.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often an idle link is asked whether it is there, and how long it has for the answer.
const PING: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(2);
/// How long connections have to say goodbye.
const FAREWELL: Duration = Duration::from_millis(700);

/// A connection of a driver's database.
pub(super) type Conn<D> = <<D as Driver>::Db as Database>::Connection;
/// How it is opened.
pub(super) type Options<D> = <Conn<D> as sqlx::Connection>::Options;

/// Bounds of one answer, so that it has a place in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// An answer being gathered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) rows: Rows,
    bounds: Bounds,
    bytes: usize,
    /// There was more, and it was left unread: the connection is not used again.
    pub(super) cut: bool,
}

impl Answer {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            rows: Rows::default(),
            bounds,
            bytes: 0,
            cut: false,
        }
    }

    pub(super) fn most_rows(&self) -> usize {
        self.bounds.rows
    }

    /// No further row may be added: one that came is why the answer is truncated.
    pub(super) fn is_full(&mut self) -> bool {
        let full = self.rows.rows.len() >= self.bounds.rows || self.bytes >= self.bounds.bytes;
        self.rows.truncated |= full;
        self.cut |= full;
        full
    }

    pub(super) fn push(&mut self, row: Vec<SqlValue>) {
        self.bytes += row.iter().map(size).sum::<usize>();
        self.rows.rows.push(row);
    }
}

/// Bytes of a value, roughly.
pub(super) fn size(value: &SqlValue) -> usize {
    match value {
        SqlValue::Text(text) => text.len() + 16,
        SqlValue::Blob(bytes) => bytes.len() + 16,
        SqlValue::Null | SqlValue::Boolean(_) | SqlValue::Integer(_) | SqlValue::Real(_) => 16,
    }
}

/// What a database does in its own way.
#[async_trait]
pub(super) trait Driver: fmt::Debug + Default + Send + Sync + 'static {
    type Db: Database;
    const DIALECT: Dialect;

    /// How to open a connection, from the files as they are now.
    fn options(target: &Target, config: &Config) -> Result<Options<Self>, ConnectionError>;

    /// How the pool is set up, beyond what all have.
    fn pool(pool: PoolOptions<Self::Db>, target: &Target, config: &Config)
    -> PoolOptions<Self::Db>;

    /// One statement and its rows.
    async fn query(
        &self,
        conn: &mut Conn<Self>,
        statement: &Statement<'_>,
        params: Vec<SqlValue>,
        answer: &mut Answer,
    ) -> Result<(), Failure>;

    /// Once per row, in one transaction: how many rows changed.
    async fn execute_many(
        &self,
        conn: &mut Conn<Self>,
        statement: &Statement<'_>,
        rows: &[Vec<SqlValue>],
    ) -> Result<u64, Failure>;
}

/// A connection that is out of the pool. It goes back only if it was used to its end: one that was
/// left in the middle of an answer is closed.
struct Lent<DB: Database> {
    conn: Option<PoolConnection<DB>>,
    pool: Pool<DB>,
}

impl<DB: Database> Lent<DB> {
    fn give_back(mut self) {
        drop(self.conn.take());
    }
}

impl<DB: Database> Drop for Lent<DB> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}

/// See the module.
pub(super) struct Link<D: Driver> {
    driver: D,
    config: Config,
    context: Context,
    /// None: down.
    pool: watch::Sender<Option<Pool<D::Db>>>,
    /// Why a call found the link lost; `lost` takes it.
    broken: Mutex<Option<ConnectionError>>,
    told: Notify,
    useful: AtomicBool,
    peer: Mutex<Option<String>>,
}

impl<D: Driver> fmt::Debug for Link<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.context.id)
            .field("dialect", &D::DIALECT)
            .field("up", &self.pool.borrow().is_some())
            .finish_non_exhaustive()
    }
}

/// Ends the link when its driving ends, however it does.
struct Driven<'a, D: Driver>(&'a Link<D>);

impl<D: Driver> Drop for Driven<'_, D> {
    fn drop(&mut self) {
        self.0.down();
    }
}

impl<D: Driver> Link<D> {
    pub(super) fn new(config: Config, context: Context) -> Self {
        Self {
            driver: D::default(),
            config,
            context,
            pool: watch::Sender::new(None),
            broken: Mutex::default(),
            told: Notify::new(),
            useful: AtomicBool::new(false),
            peer: Mutex::default(),
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            rows: self.config.max_rows,
            bytes: self.context.limits.max_message_bytes,
        }
    }

    fn down(&self) -> Option<Pool<D::Db>> {
        let pool = self.pool.send_replace(None)?;
        // Marks it closed at once: connections that are out are closed when they come back.
        drop(pool.close());
        Some(pool)
    }

    async fn end(&self) {
        if let Some(pool) = self.down()
            && timeout(FAREWELL, pool.close()).await.is_err()
        {
            tracing::debug!(connection = %self.context.id, "connections were in use when the link ended");
        }
    }

    /// One connection, opened and asked, and closed again where it is not kept.
    async fn dial(&self) -> Result<(Target, Options<D>), ConnectionError> {
        let target = self.config.target()?;
        *self.peer.lock() = Some(target.to_string());
        let options = D::options(&target, &self.config)?;
        let attempt = async {
            let mut conn = <Conn<D> as sqlx::Connection>::connect_with(&options).await?;
            conn.ping().await?;
            conn.close().await
        };
        match timeout(self.config.connect_timeout, attempt).await {
            Ok(Ok(())) => Ok((target, options)),
            Ok(Err(failed)) => Err(error::of_dial(failed)),
            Err(_) => Err(ConnectionError::disconnected(
                "timeout",
                "the database does not answer",
            )),
        }
    }

    /// Tells `lost` what a call over this pool has met; nothing, if the link has another one by now:
    /// the old one is closed then.
    fn report(&self, pool: &Pool<D::Db>, error: &ConnectionError) {
        if error.kind == ErrorKind::Disconnected && !pool.is_closed() {
            self.broken.lock().get_or_insert_with(|| error.clone());
            self.told.notify_one();
        }
    }

    async fn lend(&self) -> Result<Lent<D::Db>, ConnectionError> {
        let end = Instant::now() + PATIENCE;
        let down =
            || ConnectionError::disconnected("disconnected", "the database is not reachable");
        let mut pools = self.pool.subscribe();
        let pool = match timeout_at(end, pools.wait_for(Option::is_some)).await {
            Ok(Ok(pool)) => pool.clone().ok_or_else(down)?,
            Ok(Err(_)) | Err(_) => return Err(down()),
        };
        let failed = match timeout_at(end, pool.acquire()).await {
            Ok(Ok(conn)) => {
                return Ok(Lent {
                    conn: Some(conn),
                    pool,
                });
            }
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) => None,
            Ok(Err(failed)) => Some(failed),
        };
        if failed.is_none() && pool.size() >= self.config.max_connections {
            return Err(ConnectionError::transient(
                "busy",
                "all connections to the database are in use",
            ));
        }
        let error = match failed {
            Some(failed) => error::of_dial(failed),
            None => down(),
        };
        self.report(&pool, &error);
        Err(error)
    }

    /// Asks the database whether it is there, over a connection that nobody uses. In-process SQLite
    /// always is.
    async fn ping(&self) -> Result<(), ConnectionError> {
        let Some(pool) = self.pool.borrow().clone() else {
            return Err(ConnectionError::disconnected("closed", "there is no link"));
        };
        if D::DIALECT == Dialect::Sqlite
            || (pool.num_idle() == 0 && pool.size() >= self.config.max_connections)
        {
            return Ok(());
        }
        let asked = async {
            let mut lent = Lent {
                conn: Some(pool.acquire().await?),
                pool: pool.clone(),
            };
            if let Some(conn) = &mut lent.conn {
                conn.ping().await?;
            }
            lent.give_back();
            Ok::<_, sqlx::Error>(())
        };
        match timeout(PONG, asked).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failed)) => Err(error::of_dial(failed)),
            Err(_) => Err(ConnectionError::disconnected(
                "timeout",
                "the database does not answer any more",
            )),
        }
    }

    /// What a call's failure means; the connection goes back where it can be used.
    fn failed(&self, lent: Lent<D::Db>, failure: Failure) -> ConnectionError {
        let pool = lent.pool.clone();
        if failure.leaves_it_usable() {
            lent.give_back();
        }
        let error = failure.into_error();
        self.report(&pool, &error);
        error
    }

    fn late(&self) -> ConnectionError {
        let seconds = self.config.timeout.as_secs_f32();
        ConnectionError::transient(
            "timeout",
            format!("the statement was not done within {seconds} s"),
        )
    }
}

#[async_trait]
impl<D: Driver> Connection for Link<D> {
    async fn connect(&self) -> Result<(), ConnectionError> {
        self.end().await;
        let (target, options) = self.dial().await?;
        let pool = PoolOptions::new()
            .max_connections(self.config.max_connections)
            .acquire_timeout(PATIENCE)
            // Loss is noticed by the ping and by calls; a question before each would cost a round trip.
            .test_before_acquire(false);
        let pool = D::pool(pool, &target, &self.config).connect_lazy_with(options);
        let first = timeout(self.config.connect_timeout, pool.acquire()).await;
        match first {
            Ok(Ok(conn)) => drop(conn),
            Ok(Err(failed)) => return Err(error::of_dial(failed)),
            Err(_) => {
                return Err(ConnectionError::disconnected(
                    "timeout",
                    "the database does not answer",
                ));
            }
        }
        *self.broken.lock() = None;
        self.useful.store(false, Ordering::Release);
        self.pool.send_replace(Some(pool));
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        let _driven = Driven(self);
        loop {
            if let Some(error) = self.broken.lock().take() {
                return error;
            }
            tokio::select! {
                () = self.told.notified() => {}
                () = sleep(PING) => {
                    if let Err(error) = self.ping().await {
                        return error;
                    }
                }
            }
        }
    }

    async fn close(&self) {
        self.end().await;
    }

    async fn probe(&self) -> Result<(), ConnectionError> {
        self.dial().await.map(drop)
    }

    fn dial_timeout(&self) -> Duration {
        self.config.connect_timeout * 2 + Duration::from_secs(1)
    }

    fn was_useful(&self) -> bool {
        self.useful.load(Ordering::Acquire)
    }

    fn peer(&self) -> Option<String> {
        self.peer.lock().clone()
    }

    fn warnings(&self) -> Vec<String> {
        self.config.warnings.clone()
    }

    fn sql(&self) -> Option<&dyn Sql> {
        Some(self)
    }
}

#[async_trait]
impl<D: Driver> Sql for Link<D> {
    fn dialect(&self) -> &'static str {
        D::DIALECT.as_str()
    }

    async fn query(&self, statement: &str, params: Vec<SqlValue>) -> Result<Rows, ConnectionError> {
        let statement = Statement::parse(statement, D::DIALECT)?;
        counted(&statement, params.len())?;
        let mut lent = self.lend().await?;
        let mut answer = Answer::new(self.bounds());
        let done = match &mut lent.conn {
            Some(conn) => {
                let work = self.driver.query(conn, &statement, params, &mut answer);
                timeout(self.config.timeout, work).await
            }
            None => return Err(self.late()),
        };
        match done {
            Ok(Ok(())) => {
                if !answer.cut {
                    lent.give_back();
                }
                self.useful.store(true, Ordering::Release);
                add(&self.context.traffic.messages_in, answer.rows.rows.len());
                add(&self.context.traffic.bytes_in, answer.bytes);
                Ok(answer.rows)
            }
            Ok(Err(failure)) => Err(self.failed(lent, failure)),
            Err(_) => Err(self.late()),
        }
    }

    async fn execute_many(
        &self,
        statement: &str,
        params: Vec<Vec<SqlValue>>,
    ) -> Result<u32, ConnectionError> {
        let statement = Statement::parse(statement, D::DIALECT)?;
        for row in &params {
            counted(&statement, row.len())?;
        }
        if params.is_empty() {
            return Ok(0);
        }
        let mut lent = self.lend().await?;
        let done = match &mut lent.conn {
            Some(conn) => {
                let work = self.driver.execute_many(conn, &statement, &params);
                timeout(self.config.timeout, work).await
            }
            None => return Err(self.late()),
        };
        match done {
            Ok(Ok(changed)) => {
                lent.give_back();
                self.useful.store(true, Ordering::Release);
                add(&self.context.traffic.messages_out, params.len());
                let bytes = params.iter().flatten().map(size).sum();
                add(&self.context.traffic.bytes_out, bytes);
                Ok(u32::try_from(changed).unwrap_or(u32::MAX))
            }
            Ok(Err(failure)) => Err(self.failed(lent, failure)),
            Err(_) => Err(self.late()),
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

fn counted(statement: &Statement<'_>, given: usize) -> Result<(), ConnectionError> {
    match statement.parameters() {
        Some(wanted) if wanted != given => Err(ConnectionError::permanent(
            "parameters",
            format!(
                "the statement has {wanted} placeholders, and {given} values are given for them"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::sqlite;
    use super::*;
    use crate::connections::testing::context;

    #[tokio::test]
    async fn a_late_failure_of_the_link_before_does_not_end_the_present_one() {
        let folder = tempfile::tempdir().unwrap();
        let properties = json!({ "dburl": "sqlite:data.db" });
        let config = Config::read(properties.as_object().unwrap(), folder.path()).unwrap();
        let link = Link::<sqlite::Driver>::new(config, context("db", Path::new("/")));
        link.connect().await.unwrap();
        let gone = || Failure::Sql(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()));
        let old = link.lend().await.unwrap();
        link.connect().await.unwrap();
        let error = link.failed(old, gone());
        assert_eq!(error.kind, ErrorKind::Disconnected);
        assert_eq!(link.broken.lock().as_ref().map(|error| error.kind), None);
        let present = link.lend().await.unwrap();
        link.failed(present, gone());
        assert_eq!(link.lost().await.code, "io");
    }
}
