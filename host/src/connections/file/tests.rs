//! What a rule may rely on when it reads and writes files.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::connections::pool::tests::context;
use crate::message::Delivery;

fn attached(root: &Path, props: Value) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
    let properties = props.as_object().unwrap();
    attach(properties, context("a", "f"), Some(root), Handle::current())
}

async fn read_all(
    connection: &dyn Connection,
    name: &str,
    extra: &[(&str, &str)],
    count: usize,
) -> Vec<(String, String)> {
    let extra = extra
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let inbox = Arc::<Inbox>::default();
    let options = SubscribeOptions { qos: None, extra };
    let messaging = connection.messaging().unwrap();
    let _guard = messaging
        .subscribe(&[name.to_owned()], &options, Arc::clone(&inbox))
        .unwrap();
    let mut records = Vec::new();
    let all = async {
        while records.len() < count {
            for Delivery { message, .. } in inbox.receive(1000).await.unwrap() {
                let offset = message.headers.get("offset").unwrap().to_owned();
                records.push((String::from_utf8(message.payload.to_vec()).unwrap(), offset));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(inbox.is_empty(), "more records than expected");
    records
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[tokio::test]
async fn who_asks_is_told_when_all_files_are_read_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "1\n2\n").unwrap();
    let connection = attached(folder.path(), json!({"fileType": "lines"})).unwrap();
    let messaging = connection.messaging().unwrap();
    let subscribe = |extra: &[(&str, &str)]| {
        let extra = extra.iter();
        let options = SubscribeOptions {
            qos: None,
            extra: extra
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let inbox = Arc::<Inbox>::default();
        let files = ["a".to_owned(), "late".to_owned()];
        let guard = messaging
            .subscribe(&files, &options, Arc::clone(&inbox))
            .unwrap();
        (guard, inbox)
    };
    let (_guard, inbox) = subscribe(&[("end", "true")]);
    let (_quiet, silent) = subscribe(&[]);
    let mut got = Vec::new();
    while got.len() < 2 {
        // The missing file is told in between, and awaited.
        got.extend(inbox.receive(10).await.unwrap_or_default());
    }
    let early = inbox.try_receive(10).err().map(|error| error.code);
    assert_ne!(early.as_deref(), Some("end"), "one file is still awaited");
    std::fs::write(folder.path().join("late"), "3\n").unwrap();
    let end = async {
        loop {
            match inbox.receive(10).await {
                Ok(taken) => got.extend(taken),
                Err(error) if error.code == "end" => return,
                Err(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), end)
        .await
        .unwrap();
    assert_eq!(got.len(), 3);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waits = |_| silent.try_receive(10).is_ok_and(|taken| taken.is_none());
    assert!((0..20).any(waits), "it did not ask");
}

#[tokio::test]
async fn records_come_with_the_offset_from_which_reading_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("l"), "skip\none\ntwo\r\nthree\nlast\n").unwrap();
    std::fs::write(folder.path().join("j"), r#"[{"a":1}, {"a": 2}]"#).unwrap();
    std::fs::write(folder.path().join("c"), "id,name\n1,\"a\nb\"\n2,c\n").unwrap();
    let connection = attached(folder.path(), json!({"ignoreStartLines": 0})).unwrap();
    let cut = [
        ("fileType", "lines"),
        ("ignoreStartLines", "1"),
        ("ignoreEndLines", "1"),
    ];
    let read = read_all(&*connection, "l", &cut, 3).await;
    assert_eq!(read, pairs(&[("one", "9"), ("two", "14"), ("three", "20")]));
    let resumed = [cut.as_slice(), &[("resume", "9")]].concat();
    assert_eq!(
        read_all(&*connection, "l", &resumed, 2).await,
        pairs(&[("two", "14"), ("three", "20")])
    );
    assert_eq!(
        read_all(&*connection, "j", &[], 2).await,
        pairs(&[(r#"{"a":1}"#, "1"), (r#"{"a": 2}"#, "2")])
    );
    assert_eq!(
        read_all(&*connection, "j", &[("resume", "1")], 1).await,
        pairs(&[(r#"{"a": 2}"#, "2")])
    );
    let csv = [("filetype", "csv"), ("hasHeader", "true")];
    let rows = pairs(&[
        (r#"{"id":"1","name":"a\nb"}"#, "16"),
        (r#"{"id":"2","name":"c"}"#, "20"),
    ]);
    assert_eq!(read_all(&*connection, "c", &csv, 2).await, rows);
    let resumed = [csv.as_slice(), &[("resume", "16")]].concat();
    assert_eq!(read_all(&*connection, "c", &resumed, 1).await, rows[1..]);
}

#[tokio::test]
async fn a_published_batch_is_appended_line_by_line_even_behind_a_torn_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("out"), "torn").unwrap();
    let connection = attached(folder.path(), json!({})).unwrap();
    let message = |subject: &str, text: &str| Message {
        subject: subject.into(),
        ..Message::new(text.to_owned())
    };
    let batch: Batch = vec![
        message("out", "a"),
        message("../x", "b"),
        message("new/deep", "c"),
        message("out", "d"),
    ]
    .into();
    let rejections = connection
        .messaging()
        .unwrap()
        .publish(&batch, &PublishOptions::default())
        .await
        .unwrap();
    assert_eq!(rejections.iter().map(|r| r.index).collect::<Vec<_>>(), [1]);
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(
        (text("out").as_str(), text("new/deep").as_str()),
        ("torn\na\nd\n", "c\n")
    );
}

#[tokio::test]
async fn a_missing_file_is_told_once_and_read_when_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let connection = attached(folder.path(), json!({"fileType": "lines"})).unwrap();
    let inbox = Arc::<Inbox>::default();
    let messaging = connection.messaging().unwrap();
    let _guard = messaging
        .subscribe(
            &["late".to_owned()],
            &SubscribeOptions::default(),
            Arc::clone(&inbox),
        )
        .unwrap();
    let told = inbox.receive(1).await.unwrap_err();
    assert_eq!(told.code, "not-found");
    assert!(!told.message.contains(folder.path().to_str().unwrap()));
    std::fs::write(folder.path().join("late"), "x\n").unwrap();
    let taken = tokio::time::timeout(Duration::from_secs(5), inbox.receive(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(taken[0].message.payload, "x");
}

#[tokio::test]
async fn a_large_file_waits_for_its_taker_and_a_file_is_read_again_each_interval() {
    let folder = tempfile::tempdir().unwrap();
    let count = crate::connections::inbox::LOSSY_MESSAGES + 5_000;
    std::fs::write(folder.path().join("big"), "x\n".repeat(count)).unwrap();
    std::fs::write(folder.path().join("small"), "x\n").unwrap();
    let connection = attached(folder.path(), json!({"fileType": "lines"})).unwrap();
    assert_eq!(read_all(&*connection, "big", &[], count).await.len(), count);
    let inbox = Arc::<Inbox>::default();
    let options = SubscribeOptions {
        qos: None,
        extra: vec![("interval".to_owned(), "10ms".to_owned())],
    };
    let guard = connection
        .messaging()
        .unwrap()
        .subscribe(&["small".to_owned()], &options, Arc::clone(&inbox))
        .unwrap();
    for _ in 0..3 {
        tokio::time::timeout(Duration::from_secs(5), inbox.receive(1))
            .await
            .unwrap()
            .unwrap();
    }
    drop(guard);
}

#[tokio::test]
async fn a_bad_record_is_refused_and_counted_and_the_rest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("l"), "good\nfar too long a line\ngood\n").unwrap();
    std::fs::write(folder.path().join("j"), "{").unwrap();
    let mut context = context("a", "f");
    context.limits.max_message_bytes = 8;
    let traffic = Arc::clone(&context.traffic);
    let properties = json!({"fileType": "lines"}).as_object().unwrap().clone();
    let connection = attach(&properties, context, Some(folder.path()), Handle::current()).unwrap();
    assert_eq!(read_all(&*connection, "l", &[], 2).await.len(), 2);
    assert_eq!(traffic.refused.load(Ordering::Relaxed), 1);
    read_all(&*connection, "j", &[("fileType", "json")], 0).await;
    assert_eq!(traffic.refused.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_is_not_granted_or_not_here_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let ungranted = attach(
        &Properties::new(),
        context("a", "f"),
        None,
        Handle::current(),
    );
    assert!(
        ungranted.unwrap_err()[0]
            .message
            .contains("granted no folder")
    );
    let errors = attached(
        folder.path(),
        json!({
            "rollingHook": "x", "path": "../x", "fileTyp": "csv", "actionAfterRead": 3,
            "decompression": "gzipp", "rollingNamePattern": "middle",
        }),
    )
    .unwrap_err();
    let texts = errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    for part in [
        "nothing is called when a file is finished",
        "without \"..\"",
        "did you mean \"fileType\"",
        "actionAfterRead: found the number 3; must be a whole number from 0 to 2",
        "\"gzipp\"; did you mean \"gzip\"? Allowed: gzip, zlib, flate, zstd",
        "\"middle\"; Allowed: prefix, suffix, none",
    ] {
        assert!(texts.contains(part), "{part} in {texts}");
    }
    let connection = attached(folder.path(), json!({})).unwrap();
    let messaging = connection.messaging().unwrap();
    let refused = messaging.subscribe(
        &["../x".to_owned()],
        &SubscribeOptions::default(),
        Arc::default(),
    );
    assert_eq!(
        refused.unwrap_err().kind,
        crate::error::ErrorKind::Misconfigured
    );
}
