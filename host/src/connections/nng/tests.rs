//! A connection and others that listen, on real sockets.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::*;
use crate::connections::pool::tests::context;
use crate::error::{ErrorKind, Pace};
use crate::message::Message;

const HELLO: &[u8] = b"\x00SP\x00\x00\x10\x00\x00";

fn build(props: &Value) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
    Nng::build(props.as_object().unwrap(), context("default", "one"))
}

async fn listen() -> (TcpListener, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    (listener, json!({ "url": url, "connectTimeout": "1s" }))
}

/// Accepts, greets and takes the greeting.
async fn greet(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(HELLO).await.unwrap();
    let mut theirs = [0; 8];
    stream.read_exact(&mut theirs).await.unwrap();
    assert_eq!(theirs, HELLO);
    stream
}

fn mistake(props: &Value) -> String {
    let mistakes = build(props).unwrap_err();
    mistakes.iter().map(|one| format!("{one}; ")).collect()
}

#[test]
fn a_url_is_tcp_or_ipc_and_mistakes_are_named() {
    for (props, words) in [
        (
            json!({ "url": "ws://h:1" }),
            "only tcp and ipc scheme are supported",
        ),
        (json!({ "url": "tcp://h" }), "no port"),
        (json!({ "url": "127.0.0.1:7081" }), "tcp://127.0.0.1:7081"),
        (json!({ "url": "ipc://" }), "no path"),
        (
            json!({ "url": format!("ipc:///{}", "x".repeat(200)) }),
            "201 bytes",
        ),
        (json!({ "protocol": "req" }), "Allowed: pair, push"),
        (json!({ "protocol": "pari" }), "did you mean \"pair\""),
        (json!({ "ulr": "tcp://h:1" }), "did you mean \"url\""),
        (json!({ "maxMessageBytes": 0 }), "/props/maxMessageBytes"),
    ] {
        let found = mistake(&props);
        assert!(found.contains(words), "{props}: {found}");
    }
    let endpoint = |props: Value| Nng::exclusive_endpoint(props.as_object().unwrap());
    let neuron = Some("tcp://127.0.0.1:7081".to_owned());
    assert_eq!(endpoint(json!({})), neuron);
    assert_eq!(
        endpoint(json!({ "URL": "nng+TCP://127.0.0.1:7081" })),
        neuron
    );
    assert_eq!(
        endpoint(json!({ "url": "ipc:///tmp/neuron-ekuiper.ipc" })).as_deref(),
        Some("ipc:///tmp/neuron-ekuiper.ipc")
    );
}

#[tokio::test]
async fn messages_go_both_ways_to_every_taker() {
    let (listener, props) = listen().await;
    let connection = build(&props).unwrap();
    let (connected, mut peer) = tokio::join!(connection.connect(), greet(&listener));
    connected.unwrap();
    let messaging = connection.messaging().unwrap();
    let inboxes = [Arc::new(Inbox::default()), Arc::new(Inbox::default())];
    let _guards = inboxes.clone().map(|inbox| {
        messaging
            .subscribe(&[], &SubscribeOptions::default(), inbox)
            .unwrap()
    });
    let talk = async {
        peer.write_all(b"\0\0\0\0\0\0\0\x02{}").await.unwrap();
        for inbox in &inboxes {
            assert_eq!(
                &inbox.receive(1).await.unwrap()[0].message.payload[..],
                b"{}"
            );
        }
        let batch = Batch::from(vec![Message::new("a"), Message::new("bc")]);
        let options = PublishOptions::default();
        assert!(
            messaging
                .publish(&batch, &options)
                .await
                .unwrap()
                .is_empty()
        );
        let mut got = [0; 19];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"\0\0\0\0\0\0\0\x01a\0\0\0\0\0\0\0\x02bc");
        assert!(connection.was_useful());
        drop(peer);
    };
    let (lost, ()) = tokio::join!(connection.lost(), talk);
    assert_eq!((lost.code.as_str(), lost.pace), ("closed", Pace::Quick));
    let batch = Batch::from(vec![Message::new("x")]);
    let error = messaging
        .publish(&batch, &PublishOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Disconnected);
}

#[tokio::test]
async fn a_listener_with_another_partner_is_told_from_one_that_is_free() {
    let (listener, props) = listen().await;
    let connection = build(&props).unwrap();
    for attempt in 0..5 {
        let taken = async { drop(greet(&listener).await) };
        let (connected, ()) = tokio::join!(connection.connect(), taken);
        let error = connected.unwrap_err();
        assert_eq!(error.code, "nng:taken");
        let wanted = if attempt < EXCUSED {
            Pace::Quick
        } else {
            Pace::Slow
        };
        assert_eq!(error.pace, wanted, "{attempt}");
    }
}

#[tokio::test]
async fn a_listener_whose_message_comes_with_its_greeting_is_a_partner_however_soon_it_is_gone() {
    let (listener, props) = listen().await;
    let connection = build(&props).unwrap();
    for attempt in 0..5 {
        let soon_gone = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut both = HELLO.to_vec();
            both.extend_from_slice(b"\0\0\0\0\0\0\0\x01x");
            stream.write_all(&both).await.unwrap();
        };
        let (connected, ()) = tokio::join!(connection.connect(), soon_gone);
        assert_eq!(connected.map_err(|error| error.code), Ok(()), "{attempt}");
        assert!(connection.was_useful());
        assert_eq!(connection.lost().await.pace, Pace::Quick);
    }
}

#[tokio::test]
async fn what_is_no_partner_is_named() {
    for (bytes, code, words) in [
        (&b"\x00SP\x00\x00\x11\x00\x00"[..], "nng:protocol", "pair1"),
        (b"HTTP/1.1 400 Bad Request\r\n", "nng:greeting", "HTTP"),
        (b"", "timeout", "says nothing"),
    ] {
        let (listener, props) = listen().await;
        let connection = build(&props).unwrap();
        let peer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(bytes).await.unwrap();
            // Silent from here on, until it is left.
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        };
        let connect = async {
            let error = connection.connect().await.unwrap_err();
            assert_eq!(error.code, code);
            assert!(error.report().contains(words), "{}", error.report());
            assert_eq!(error.pace == Pace::Slow, code != "timeout");
        };
        tokio::join!(connect, peer);
    }
}

#[tokio::test]
async fn a_local_socket_that_is_missing_is_named_and_one_that_is_there_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n.ipc");
    let connection = build(&json!({ "url": format!("ipc://{}", path.display()) })).unwrap();
    let error = connection.connect().await.unwrap_err();
    assert_eq!(error.message, "there is no socket at that path");
    let listener = UnixListener::bind(&path).unwrap();
    let peer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(HELLO).await.unwrap();
        stream.write_all(b"\x01\0\0\0\0\0\0\0\x01x").await.unwrap();
        stream
    };
    let (connected, _stream) = tokio::join!(connection.connect(), peer);
    connected.unwrap();
}

#[tokio::test]
async fn a_push_only_sends() {
    let connection = build(&json!({ "protocol": "push" })).unwrap();
    let messaging = connection.messaging().unwrap();
    let options = SubscribeOptions::default();
    let refused = messaging.subscribe(&[], &options, Arc::new(Inbox::default()));
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Misconfigured);
    let topics = PublishOptions {
        subject: Some("a".to_owned()),
        ..PublishOptions::default()
    };
    let refused = messaging.publish(&Batch::default(), &topics).await;
    assert_eq!(refused.unwrap_err().code, "subject");
}
