//! What a rule may rely on when it reads a folder, and when its files go away after they were read.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::*;
use crate::connections::file::attach;
use crate::connections::pool::tests::context;
use crate::connections::{Connection, Memory, Properties, SubscribeOptions, SubscriptionGuard};

/// What outlives a host.
#[derive(Debug, Default)]
struct Kept(Mutex<HashMap<String, String>>);

#[async_trait]
impl Memory for Kept {
    async fn get(&self, name: &str) -> Result<Option<String>, ConnectionError> {
        Ok(self.0.lock().get(name).cloned())
    }
    async fn put(&self, name: &str, value: &str) -> Result<(), ConnectionError> {
        self.0.lock().insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

/// A folder that is read, over several hosts.
struct Bench {
    root: tempfile::TempDir,
    memory: Arc<Kept>,
    props: Properties,
}

/// One host of them, with one subscription.
struct Host {
    connection: Arc<dyn Connection>,
    inbox: Arc<Inbox>,
    _guard: Box<dyn SubscriptionGuard>,
}

impl Bench {
    fn new(props: &Value) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("in")).unwrap();
        Self {
            root,
            memory: Arc::default(),
            props: props.as_object().unwrap().clone(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A file that nobody writes to any more.
    fn put(&self, name: &str, text: impl AsRef<[u8]>, age: u64) {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        let file = std::fs::File::options().append(true).open(path).unwrap();
        let changed = SystemTime::now() - Duration::from_secs(age);
        file.set_modified(changed).unwrap();
    }

    fn host(&self, filter: &str, resume: Option<&str>) -> Host {
        let mut context = context("a", "f");
        context.memory = Arc::clone(&self.memory) as _;
        let root = Some(self.root.path());
        let connection = attach(&self.props, context, root, Handle::current()).unwrap();
        Host::on(connection, filter, resume)
    }
}

impl Host {
    fn on(connection: Arc<dyn Connection>, filter: &str, resume: Option<&str>) -> Self {
        let inbox = Arc::<Inbox>::default();
        let options = SubscribeOptions {
            qos: None,
            extra: resume
                .map(|resume| ("resume".to_owned(), resume.to_owned()))
                .into_iter()
                .collect(),
        };
        let guard = connection
            .messaging()
            .unwrap()
            .subscribe(&[filter.to_owned()], &options, Arc::clone(&inbox))
            .unwrap();
        Self {
            connection,
            inbox,
            _guard: guard,
        }
    }

    async fn receive(&self, count: usize) -> Vec<Delivery> {
        let mut all = Vec::new();
        let gather = async {
            while all.len() < count {
                all.extend(self.inbox.receive(count - all.len()).await.unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gather)
            .await
            .unwrap();
        all
    }

    async fn nothing_more(&self) {
        tokio::time::sleep(Duration::from_millis(1300)).await;
        assert!(self.inbox.is_empty());
    }
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries
        .iter()
        .map(|it| String::from_utf8(it.message.payload.to_vec()).unwrap())
        .collect()
}

fn offset(delivery: &Delivery) -> String {
    delivery.message.headers.get("offset").unwrap().to_owned()
}

fn settle(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        delivery.take.unwrap().settle();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let soon = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(10), soon).await;
    assert!(end.is_ok(), "{what}");
}

#[tokio::test]
async fn the_files_of_a_folder_are_read_once_oldest_first_and_new_ones_as_they_come() {
    let bench = Bench::new(&json!({"fileType": "lines"}));
    bench.put("in/b", "1\n2\n", 20);
    bench.put("in/a", "3\n", 10);
    bench.put("in/.hidden", "x\n", 10);
    bench.put("in/empty", "", 10);
    std::fs::create_dir(bench.path("in/deeper")).unwrap();
    let host = bench.host("in", None);
    let read = host.receive(3).await;
    assert_eq!(texts(&read), ["1", "2", "3"]);
    assert_eq!(&*read[0].message.subject, "in/b");
    assert_eq!(read[2].message.headers.get("file"), Some("a"));
    settle(read);
    // One that is still being written waits, one with an old time that is moved here does not.
    std::fs::write(bench.path("in/fresh"), "5\n").unwrap();
    bench.put("late", "4\n", 100);
    std::fs::rename(bench.path("late"), bench.path("in/late")).unwrap();
    let read = host.receive(2).await;
    assert_eq!(texts(&read), ["4", "5"]);
    settle(read);
    host.nothing_more().await;
    drop(host);
    // Over a restart, and when one was changed.
    bench.put("in/a", "6\n", 2);
    let host = bench.host("in", None);
    let read = host.receive(1).await;
    assert_eq!(texts(&read), ["6"]);
    settle(read);
    host.nothing_more().await;
}

#[tokio::test]
async fn a_file_goes_when_its_last_record_is_final_and_not_before() {
    for action in [1, 2] {
        let bench = Bench::new(&json!({
            "fileType": "lines", "actionAfterRead": action, "moveTo": "done/deep",
        }));
        bench.put("in/a", "1\n2\n", 20);
        let host = bench.host("in", None);
        let mut read = host.receive(2).await;
        let last = read.pop();
        settle(read);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(bench.path("in/a").exists());
        settle(last.into_iter().collect());
        until("the file is gone", || !bench.path("in/a").exists()).await;
        assert_eq!(bench.path("done/deep/a").exists(), action == 2);
        // Another of the same name.
        bench.put("in/a", "3\n", 20);
        settle(host.receive(1).await);
        until("the file is gone", || !bench.path("in/a").exists()).await;
        assert_eq!(bench.path("done/deep/a-1").exists(), action == 2);
    }
}

#[tokio::test]
async fn a_single_file_that_goes_is_read_once_and_that_is_the_end() {
    let bench = Bench::new(&json!({"fileType": "lines", "actionAfterRead": 1}));
    bench.put("in/a", "1\n", 20);
    let context = context("a", "f");
    let root = Some(bench.root.path());
    let connection = attach(&bench.props, context, root, Handle::current()).unwrap();
    let inbox = Arc::<Inbox>::default();
    let options = SubscribeOptions {
        qos: None,
        extra: vec![("end".to_owned(), "true".to_owned())],
    };
    let messaging = connection.messaging().unwrap();
    let _guard = messaging
        .subscribe(&["in/a".to_owned()], &options, Arc::clone(&inbox))
        .unwrap();
    settle(inbox.receive(1).await.unwrap());
    let end = tokio::time::timeout(Duration::from_secs(10), inbox.receive(1)).await;
    assert_eq!(end.unwrap().unwrap_err().code, "end");
    assert!(!bench.path("in/a").exists());
}

#[tokio::test]
async fn what_was_not_final_when_the_host_was_killed_comes_again_and_the_rest_does_not() {
    let bench = Bench::new(&json!({"fileType": "lines", "actionAfterRead": 1}));
    bench.put("in/a", "1\n2\n", 20);
    bench.put("in/b", "3\n4\n", 10);
    let host = bench.host("in", None);
    let mut read = host.receive(4).await;
    let last = read.pop().unwrap();
    let resume = offset(&read[2]);
    settle(read);
    until("the first is gone", || !bench.path("in/a").exists()).await;
    drop((last, host));
    assert!(bench.path("in/b").exists());
    let host = bench.host("in", Some(&resume));
    let read = host.receive(1).await;
    assert_eq!(texts(&read), ["4"]);
    let resume = offset(&read[0]);
    // Killed when all is final, before the file goes: nothing comes again, and it goes.
    drop(host);
    settle(read);
    assert!(bench.path("in/b").exists());
    let host = bench.host("in", Some(&resume));
    until("the second is gone", || !bench.path("in/b").exists()).await;
    host.nothing_more().await;
}

#[tokio::test]
async fn a_subscription_that_takes_over_reads_nothing_twice_and_waits_for_the_one_before() {
    let bench = Bench::new(&json!({"fileType": "lines", "actionAfterRead": 1}));
    bench.put("in/a", "1\n", 30);
    bench.put("in/b", "2\n3\n4\n", 20);
    let first = bench.host("in", None);
    let read = first.receive(2).await;
    let resume = offset(&read[1]);
    let connection = Arc::clone(&first.connection);
    until("all wait", || first.inbox.len() == 2).await;
    // As the runtime does: what nobody has read is settled when the subscription has ended.
    let inbox = Arc::clone(&first.inbox);
    drop(first);
    assert!(inbox.is_empty());
    let second = Host::on(connection, "in", Some(&resume));
    let rest = second.receive(2).await;
    assert_eq!(texts(&rest), ["3", "4"]);
    settle(rest);
    second.nothing_more().await;
    assert!(bench.path("in/a").exists() && bench.path("in/b").exists());
    settle(read);
    until("both are gone", || {
        !bench.path("in/a").exists() && !bench.path("in/b").exists()
    })
    .await;
}

#[tokio::test]
async fn a_record_that_is_dropped_brings_its_file_again() {
    let bench = Bench::new(&json!({"fileType": "lines", "actionAfterRead": 1}));
    bench.put("in/a", "1\n2\n", 20);
    let host = bench.host("in", None);
    let mut read = host.receive(2).await;
    drop(read.pop());
    settle(read);
    let read = host.receive(2).await;
    assert_eq!(texts(&read), ["1", "2"]);
    settle(read);
    until("it is gone", || !bench.path("in/a").exists()).await;
}

#[tokio::test]
async fn a_file_that_was_changed_or_could_not_be_read_whole_is_not_deleted() {
    let bench = Bench::new(&json!({
        "fileType": "lines", "actionAfterRead": 1, "decompression": "gzip",
    }));
    let packed = |text: &str| {
        crate::connections::file::unpack::Packing::Gzip
            .pack(text.as_bytes())
            .unwrap()
    };
    bench.put("in/good", packed("1\n2\n"), 20);
    let mut cut = packed("3\n4\n");
    cut.truncate(cut.len() - 4);
    bench.put("in/cut", &cut, 10);
    bench.put("in/other", "no gzip", 5);
    let host = bench.host("in", None);
    let read = host.receive(4).await;
    assert_eq!(texts(&read), ["1", "2", "3", "4"]);
    bench.put("in/good", packed("5\n"), 2);
    settle(read);
    let read = host.receive(1).await;
    assert_eq!(texts(&read), ["5"]);
    settle(read);
    until("the good one is gone", || !bench.path("in/good").exists()).await;
    assert!(bench.path("in/cut").exists() && bench.path("in/other").exists());
    drop(host);
    let host = bench.host("in", None);
    host.nothing_more().await;
    assert!(bench.path("in/cut").exists() && bench.path("in/other").exists());
}

#[tokio::test]
async fn a_folder_cannot_be_moved_into_itself() {
    let bench = Bench::new(&json!({"actionAfterRead": 2, "moveTo": "in"}));
    let context = context("a", "f");
    let root = Some(bench.root.path());
    let connection = attach(&bench.props, context, root, Handle::current()).unwrap();
    let refused = connection.messaging().unwrap().subscribe(
        &["in".to_owned()],
        &SubscribeOptions::default(),
        Arc::default(),
    );
    let error = refused.unwrap_err();
    assert!(
        error.message.contains("moveTo: found \"in\""),
        "{}",
        error.message
    );
    for (moved, words) in [("../x", "without \"..\""), ("", "is missing")] {
        let props = json!({"actionAfterRead": 2, "moveTo": moved});
        let context = crate::connections::pool::tests::context("a", "f");
        let refused = attach(props.as_object().unwrap(), context, root, Handle::current());
        let error = refused.unwrap_err()[0].to_string();
        assert!(
            error.starts_with("/props/moveTo: ") && error.contains(words),
            "{error}"
        );
    }
}

#[test]
fn a_place_in_a_file_is_read_as_it_is_written() {
    let found = Found {
        name: "a file with spaces".to_owned(),
        path: PathBuf::new(),
        stamp: (17, 4),
    };
    let text = format!("12{}", Offset::suffix(&found, true));
    let expected = Offset {
        at: 12,
        stamp: (17, 4),
        refused: true,
        name: found.name,
    };
    assert_eq!(Offset::parse(&text), Some(expected));
    assert_eq!(Offset::parse("12"), None);
}
