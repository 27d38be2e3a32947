//! What the tests of this folder share: connections with a memory of their own, takers, and a
//! mosquitto of one's own.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::connections::mqtt::Mqtt;
use crate::connections::{
    Connection, ConnectionType, Context, Inbox, Limits, Memory, PublishOptions, Qos, Refused,
    SubscribeOptions, SubscriptionGuard, Traffic,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Delivery, Message, Rejection, Take};

/// Nothing in these tests takes longer, unless it hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Kept {
    values: Mutex<HashMap<String, String>>,
    /// These fail to be read, once each.
    pub(super) unreadable: Mutex<Vec<&'static str>>,
    /// These fail to be written, once each.
    pub(super) unwritable: Mutex<Vec<&'static str>>,
}

impl Kept {
    pub(super) fn value(&self, name: &str) -> Option<String> {
        self.values.lock().get(name).cloned()
    }
}

fn fails(names: &Mutex<Vec<&'static str>>, name: &str) -> Result<(), ConnectionError> {
    let mut names = names.lock();
    let Some(place) = names.iter().position(|failing| *failing == name) else {
        return Ok(());
    };
    names.remove(place);
    Err(ConnectionError::transient("store", "the disk refuses"))
}

#[async_trait]
impl Memory for Kept {
    async fn get(&self, name: &str) -> Result<Option<String>, ConnectionError> {
        fails(&self.unreadable, name)?;
        Ok(self.value(name))
    }

    async fn put(&self, name: &str, value: &str) -> Result<(), ConnectionError> {
        tokio::task::yield_now().await;
        fails(&self.unwritable, name)?;
        self.values.lock().insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Letters(
    pub(super) Mutex<Vec<(String, String)>>,
    /// What waits to be kept.
    pub(super) Mutex<Vec<Take>>,
);

impl Refused for Letters {
    fn refused_until_kept(&self, subject: &str, head: Bytes, reason: &ConnectionError, take: Take) {
        self.refused(subject, head, reason);
        self.1.lock().push(take);
    }

    fn refused(&self, subject: &str, _head: Bytes, reason: &ConnectionError) {
        self.0
            .lock()
            .push((subject.to_owned(), reason.message.clone()));
    }
}

/// What survives a connection in these tests, as it does in the host.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) memory: Arc<Kept>,
    pub(super) letters: Arc<Letters>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) booting: Arc<AtomicBool>,
    pub(super) limits: Limits,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            memory: Arc::default(),
            letters: Arc::default(),
            traffic: Arc::default(),
            stopping: Arc::default(),
            booting: Arc::default(),
            limits: Limits::default(),
        }
    }

    pub(super) fn context(&self) -> Context {
        Context {
            tenant: "default".into(),
            id: "plant".into(),
            base: PathBuf::from("/"),
            memory: self.memory.clone(),
            stopping: self.stopping.clone(),
            booting: self.booting.clone(),
            traffic: self.traffic.clone(),
            refused: self.letters.clone(),
            limits: self.limits,
            port: crate::connections::dataport::DataPort::default(),
        }
    }

    pub(super) fn build(&self, port: u16, more: &Value) -> Arc<dyn Connection> {
        let mut properties = json!({"server": format!("tcp://127.0.0.1:{port}")});
        for (name, value) in more.as_object().into_iter().flatten() {
            properties[name] = value.clone();
        }
        Mqtt::build(properties.as_object().unwrap(), self.context()).unwrap()
    }

    pub(super) fn client(&self, port: u16, more: &Value) -> Client {
        Client::new(self.build(port, more))
    }
}

/// A connection with the simplest of supervisors: it dials again, after a moment, for ever.
pub(super) struct Client {
    pub(super) connection: Arc<dyn Connection>,
    supervisor: Mutex<JoinSet<()>>,
    pub(super) reasons: Arc<Mutex<Vec<ConnectionError>>>,
}

impl Client {
    pub(super) fn new(connection: Arc<dyn Connection>) -> Self {
        Self {
            connection,
            supervisor: Mutex::default(),
            reasons: Arc::default(),
        }
    }

    pub(super) fn start(self) -> Self {
        let connection = Arc::clone(&self.connection);
        let reasons = Arc::clone(&self.reasons);
        self.supervisor.lock().spawn(async move {
            loop {
                let reason = match connection.connect().await {
                    Ok(()) => connection.lost().await,
                    Err(error) => error,
                };
                reasons.lock().push(reason);
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        });
        self
    }

    /// A process that dies: nothing is said to the broker.
    pub(super) fn kill(&self) {
        self.supervisor.lock().abort_all();
    }

    pub(super) async fn close(&self) {
        self.connection.close().await;
        self.kill();
    }

    pub(super) fn take(&self, filter: &str, qos: Qos) -> Taker {
        let inbox = Arc::new(Inbox::default());
        let options = SubscribeOptions {
            qos: Some(qos),
            ..SubscribeOptions::default()
        };
        let messaging = self.connection.messaging().unwrap();
        let guard = messaging
            .subscribe(&[filter.to_owned()], &options, Arc::clone(&inbox))
            .unwrap();
        Taker {
            inbox,
            _guard: guard,
        }
    }

    pub(super) async fn publish_all(
        &self,
        messages: Vec<Message>,
        qos: Qos,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let options = PublishOptions {
            qos: Some(qos),
            ..PublishOptions::default()
        };
        self.publish_batch(&Batch::from(messages), &options).await
    }

    pub(super) async fn publish_batch(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let messaging = self.connection.messaging().unwrap();
        timeout(PATIENCE * 2, messaging.publish(batch, options))
            .await
            .expect("the publish hangs")
    }

    pub(super) async fn publish(&self, topic: &str, payload: &str, qos: Qos) {
        let rejections = self
            .publish_all(vec![message(topic, payload)], qos)
            .await
            .unwrap();
        assert!(rejections.is_empty(), "{rejections:?}");
    }

    pub(super) fn attempts(&self) -> usize {
        self.reasons.lock().len()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) struct Taker {
    pub(super) inbox: Arc<Inbox>,
    _guard: Box<dyn SubscriptionGuard>,
}

impl Taker {
    /// The next delivery, unsettled.
    pub(super) async fn next(&self) -> Delivery {
        let mut taken = timeout(PATIENCE, self.inbox.receive(1))
            .await
            .expect("no message came")
            .unwrap();
        taken.pop().expect("the inbox is closed")
    }

    /// The next payload, settled.
    pub(super) async fn text(&self) -> String {
        let delivery = self.next().await;
        let text = String::from_utf8(delivery.message.payload.to_vec()).unwrap();
        if let Some(take) = delivery.take {
            take.settle();
        }
        text
    }

    pub(super) async fn texts(&self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.text().await);
        }
        texts
    }

    /// Nothing comes for a moment.
    pub(super) async fn nothing(&self) {
        let came = timeout(Duration::from_millis(300), self.inbox.receive(1)).await;
        assert!(came.is_err(), "{came:?}");
    }
}

pub(super) fn message(topic: &str, payload: &str) -> Message {
    Message {
        subject: topic.into(),
        ..Message::new(payload.to_owned())
    }
}

/// Waits until something holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// A mosquitto of this test's own, ended by its own process id.
pub(super) struct Mosquitto {
    pub(super) port: u16,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    pub(super) async fn start(more: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = tempfile::tempdir().unwrap();
        let user = if is_root() { "user root\n" } else { "" };
        let text = format!(
            "{user}listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\n\
             persistence_location {}/\n{more}\n",
            folder.path().display()
        );
        std::fs::write(folder.path().join("conf"), text).unwrap();
        let mut broker = Self {
            port,
            folder,
            child: None,
        };
        broker.run().await;
        broker
    }

    pub(super) async fn run(&mut self) {
        let program = [
            "/usr/sbin/mosquitto",
            "/usr/local/sbin/mosquitto",
            "/opt/homebrew/sbin/mosquitto",
        ]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("these tests need mosquitto: install the package `mosquitto`");
        let child = Command::new(program)
            .arg("-c")
            .arg(self.folder.path().join("conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("mosquitto does not listen");
    }

    /// As `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As `kill -TERM`: mosquitto writes its persistence file.
    pub(super) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let ended = Command::new("kill")
                .arg(child.id().to_string())
                .status()
                .unwrap();
            assert!(ended.success());
            child.wait().unwrap();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}
