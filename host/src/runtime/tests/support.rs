//! A broker in memory, the component under test, and a runtime whose compiler is a real child.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::connections::{
    Connection, Granted, Http, HttpRequest, HttpResponse, Inbox, Messaging, PublishOptions, Rows,
    Sql, SqlValue, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Acknowledge, Batch, Delivery, Message, Rejection, Take};
use crate::runtime::{
    Connector, Grant, GuestConfig, GuestLimits, Runtime, RuntimeConfig, SinkGuest, SourceGuest,
};

/// A connection in memory: what is published is kept, what is pushed reaches every taker.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    pub(super) published: Mutex<Vec<Batch>>,
    pub(super) inboxes: Arc<Mutex<Vec<Arc<Inbox>>>>,
    pub(super) settled: Arc<Settled>,
    pub(super) subscribed: AtomicUsize,
    pub(super) ended: Arc<AtomicUsize>,
    pub(super) hangs: AtomicBool,
    pub(super) keeps_nothing: AtomicBool,
    /// What stands behind the other slots.
    pub(super) other: Arc<Other>,
}

#[derive(Debug, Default)]
pub(super) struct Settled(pub(super) Mutex<Vec<u64>>);

impl Acknowledge for Settled {
    fn settled(&self, key: u64) {
        self.0.lock().push(key);
    }
}

#[derive(Debug)]
struct Guard(Arc<AtomicUsize>);
impl SubscriptionGuard for Guard {}
impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Broker {
    /// A message with a key for its acknowledgement.
    pub(super) fn push(&self, key: u64, text: &str) {
        for inbox in self.inboxes.lock().iter() {
            let take = Take::new(self.settled.clone(), key);
            inbox
                .push(Delivery {
                    message: Message::new(text.to_owned()),
                    take: Some(take),
                })
                .unwrap();
        }
    }

    pub(super) fn settled(&self) -> Vec<u64> {
        self.settled.0.lock().clone()
    }
}

#[async_trait]
impl Connection for Broker {
    async fn connect(&self) -> Result<(), ConnectionError> {
        Ok(())
    }
    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }
    async fn close(&self) {}
    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[async_trait]
impl Messaging for Broker {
    fn subscribe(
        &self,
        _filters: &[String],
        _options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        self.subscribed.fetch_add(1, Ordering::SeqCst);
        self.inboxes.lock().push(inbox);
        Ok(Box::new(Guard(self.ended.clone())))
    }

    async fn publish(
        &self,
        batch: &Batch,
        _options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if !self.keeps_nothing.load(Ordering::Relaxed) {
            self.published.lock().push(batch.clone());
        }
        Ok(Vec::new())
    }
}

/// A connection that has requests and statements, but no messages.
#[derive(Debug, Default)]
pub(super) struct Other {
    running: AtomicUsize,
    pub(super) most_at_once: AtomicUsize,
}

#[async_trait]
impl Connection for Other {
    async fn connect(&self) -> Result<(), ConnectionError> {
        Ok(())
    }
    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }
    async fn close(&self) {}
    fn http(&self) -> Option<&dyn Http> {
        Some(self)
    }
    fn sql(&self) -> Option<&dyn Sql> {
        Some(self)
    }
}

#[async_trait]
impl Http for Other {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectionError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        if request.body == "fail" {
            return Err(
                ConnectionError::disconnected("refused", "no answer").caused_by("10.0.0.1:80")
            );
        }
        let headers = vec![("method".to_owned(), request.method.clone())];
        Ok(HttpResponse {
            status: 200,
            headers,
            body: request.body,
            truncated: false,
        })
    }

    fn concurrency(&self) -> usize {
        4
    }
}

#[async_trait]
impl Sql for Other {
    fn dialect(&self) -> &'static str {
        "sqlite"
    }
    async fn query(
        &self,
        _statement: &str,
        params: Vec<SqlValue>,
    ) -> Result<Rows, ConnectionError> {
        Ok(Rows {
            columns: vec!["c".to_owned()],
            rows: vec![params],
            truncated: true,
        })
    }

    async fn execute_many(
        &self,
        _statement: &str,
        params: Vec<Vec<SqlValue>>,
    ) -> Result<u32, ConnectionError> {
        Ok(u32::try_from(params.len()).unwrap())
    }
}

#[derive(Debug)]
struct Target(&'static str, Arc<dyn Connection>);

impl Granted for Target {
    fn id(&self) -> &str {
        self.0
    }
    fn connection(&self) -> Arc<dyn Connection> {
        self.1.clone()
    }
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        self.1
            .messaging()
            .unwrap()
            .subscribe(filters, options, inbox)
    }
}

fn grant(slot: &str, id: &'static str, connection: Arc<dyn Connection>) -> Grant {
    Grant {
        slot: slot.to_owned(),
        target: Arc::new(Target(id, connection)),
    }
}

fn target_dir() -> PathBuf {
    // target/<profile>/deps/<this test>: a folder of its own beside the profiles.
    let here = std::env::current_exe().unwrap();
    here.ancestors().nth(3).unwrap().join("guests")
}

/// The component under test, built once.
pub(super) fn wasm() -> Bytes {
    static WASM: LazyLock<Bytes> = LazyLock::new(|| {
        let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/rust");
        let target = target_dir();
        let status = Command::new(env!("CARGO"))
            .current_dir(guests)
            .args([
                "build",
                "--release",
                "--target",
                "wasm32-wasip2",
                "-p",
                "misbehaving",
                "--quiet",
                "--target-dir",
            ])
            .arg(&target)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status()
            .unwrap();
        assert!(status.success(), "the guest under test must build");
        std::fs::read(target.join("wasm32-wasip2/release/misbehaving.wasm"))
            .unwrap()
            .into()
    });
    WASM.clone()
}

/// The child that compiles is this very test binary, told so by its arguments.
pub(crate) fn compile_command() -> Vec<std::ffi::OsString> {
    let test = "runtime::tests::the_child_that_compiles";
    let shell = format!(
        r#"IN="$1" OUT="$2" exec '{}' '{test}' --exact --ignored --quiet"#,
        std::env::current_exe().unwrap().display()
    );
    ["/bin/sh", "-c", &shell, "sh"].map(Into::into).into()
}

pub(super) struct Lab {
    pub(super) runtime: Runtime,
    pub(super) connector: Arc<Connector>,
}

/// One runtime for all tests of this file's process, with the component loaded.
pub(super) fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = target_dir().join(format!("code-{}", std::process::id()));
        let runtime = runtime(&dir, 2);
        let loading = runtime.clone();
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let load = async move { loading.load("misbehaving", wasm(), &()).await };
        // A thread of its own, because the test that comes first is inside a runtime.
        let loaded = std::thread::spawn(move || tokio.block_on(load))
            .join()
            .unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        Lab {
            runtime,
            connector: loaded.unwrap(),
        }
    })
}

pub(super) fn runtime(dir: &Path, worker_threads: usize) -> Runtime {
    Runtime::new(RuntimeConfig {
        cache_dir: dir.to_owned(),
        compile_command: compile_command(),
        worker_threads,
        code_cache_key: Some([7; 32]),
    })
    .unwrap()
}

pub(crate) fn limits() -> GuestLimits {
    GuestLimits {
        cpu_per_call: Duration::from_millis(200),
        call_deadline: Duration::from_secs(2),
        batch_bytes: 16 << 20,
        ..GuestLimits::default()
    }
}

pub(super) fn config(
    broker: &Arc<Broker>,
    place: &str,
    deed: &str,
    limits: GuestLimits,
) -> GuestConfig {
    GuestConfig {
        tenant: "default".into(),
        rule: "rule-1".into(),
        label: "demo".into(),
        config: format!(r#"{{"in": "{place}", "do": "{deed}"}}"#),
        grants: Arc::new([
            grant("broker", "site-broker", broker.clone()),
            grant("web", "site-web", broker.other.clone()),
            grant("db", "site-web", broker.other.clone()),
        ]),
        limits,
    }
}

pub(super) fn sink(place: &str, deed: &str, limits: GuestLimits) -> (SinkGuest, Arc<Broker>) {
    let (lab, broker) = (lab(), Arc::new(Broker::default()));
    let config = config(&broker, place, deed, limits);
    (
        SinkGuest::new(&lab.runtime, lab.connector.clone(), config),
        broker,
    )
}

pub(crate) fn source(place: &str, deed: &str, limits: GuestLimits) -> (SourceGuest, Arc<Broker>) {
    let (lab, broker) = (lab(), Arc::new(Broker::default()));
    let config = config(&broker, place, deed, limits);
    (
        SourceGuest::new(&lab.runtime, lab.connector.clone(), config),
        broker,
    )
}

pub(super) fn batch(texts: &[&str]) -> Batch {
    texts
        .iter()
        .map(|text| Message::new((*text).to_owned()))
        .collect::<Vec<_>>()
        .into()
}

/// Runs a test's body where guests run. Not longer than half a minute.
pub(crate) fn on_guests<T: Send + 'static>(body: impl Future<Output = T> + Send + 'static) -> T {
    let handle = lab().runtime.handle();
    let bounded = async {
        tokio::time::timeout(Duration::from_secs(30), body)
            .await
            .expect("a test must end")
    };
    let task = handle.spawn(bounded);
    match handle.block_on(task) {
        Ok(value) => value,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}
