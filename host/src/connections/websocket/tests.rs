//! Both ways of a WebSocket connection, against each other and against what is none, on real sockets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::*;
use crate::connections::dataport::DataPort;
use crate::connections::dataport::tests::{any_port, ask};
use crate::connections::pool::tests::context;
use crate::error::{ErrorKind, Pace};
use crate::message::Batch;

const LIMIT: Duration = Duration::from_secs(10);

fn build(props: &Value, port: &DataPort) -> (Arc<dyn Connection>, Context) {
    let mut context = context("default", "one");
    context.port = port.clone();
    let built = WebSocket::build(props.as_object().unwrap(), context.clone());
    (built.unwrap(), context)
}

/// A connection that serves `/ws`.
async fn serve(props: Value) -> (Arc<dyn Connection>, Context, DataPort) {
    let port = any_port();
    port.takers_known();
    let mut given = json!({ "path": "/ws" });
    for (name, value) in props.as_object().unwrap() {
        given[name] = value.clone();
    }
    let (connection, context) = build(&given, &port);
    connection.connect().await.unwrap();
    (connection, context, port)
}

async fn client(
    port: &DataPort,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TcpStream>, u16> {
    let address = port.address().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            Err(response.status().as_u16())
        }
        Err(other) => panic!("{other}"),
    }
}

fn batch(payloads: &[&[u8]]) -> Batch {
    let messages: Vec<_> = payloads.iter().map(|p| Message::new(p.to_vec())).collect();
    Batch::from(messages)
}

async fn publish(
    connection: &dyn Connection,
    batch: &Batch,
) -> Result<Vec<crate::message::Rejection>, ConnectionError> {
    let options = PublishOptions::default();
    connection
        .messaging()
        .unwrap()
        .publish(batch, &options)
        .await
}

fn take(connection: &dyn Connection) -> (Arc<Inbox>, Box<dyn SubscriptionGuard>) {
    let inbox = Arc::new(Inbox::default());
    let guard = connection.messaging().unwrap().subscribe(
        &["/ws".to_owned()],
        &SubscribeOptions::default(),
        Arc::clone(&inbox),
    );
    (inbox, guard.unwrap())
}

async fn one(inbox: &Inbox) -> Vec<u8> {
    let read = tokio::time::timeout(LIMIT, inbox.receive(1)).await;
    read.unwrap().unwrap()[0].message.payload.to_vec()
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Frame> {
    let next = tokio::time::timeout(LIMIT, socket.next()).await;
    next.expect("in time").and_then(Result::ok)
}

#[tokio::test]
async fn two_hosts_talk_to_each_other_and_say_goodbye() {
    let (server, _, port) = serve(json!({ "token": "s3cret", "subProtocols": "plant.v2" })).await;
    let props = json!({
        "addr": port.address().unwrap().to_string(), "path": "/ws", "token": "s3cret",
        "subProtocols": ["plant.v1", "plant.v2"],
    });
    let (dialled, context) = build(&props, &port);
    dialled.connect().await.unwrap();
    let (at_server, _taking) = take(&*server);
    let (at_client, _taking_too) = take(&*dialled);
    let talk = async {
        let sent = batch(&[b"text", b"\xff\xfe"]);
        assert!(publish(&*dialled, &sent).await.unwrap().is_empty());
        assert_eq!(one(&at_server).await, b"text");
        assert_eq!(one(&at_server).await, b"\xff\xfe");
        assert!(publish(&*server, &sent).await.unwrap().is_empty());
        assert_eq!(one(&at_client).await, b"text");
        server.close().await;
    };
    let (lost, ()) = tokio::join!(dialled.lost(), talk);
    assert_eq!(lost.code, "websocket:1001");
    assert!(lost.message.contains("the host is closing"), "{lost}");
    assert_eq!(context.traffic.messages_out.load(Ordering::Relaxed), 2);
    assert!(dialled.was_useful());
}

#[tokio::test]
async fn who_may_connect_is_what_the_properties_say() {
    let (_open, _, port) = serve(json!({ "origins": ["https://hmi.plant"] })).await;
    // No upgrade at all, and a path that nobody serves.
    let address = port.address().unwrap();
    for (path, status) in [("/ws", 426), ("/no", 404)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (found, ..) = ask(address, request.as_bytes()).await.unwrap();
        assert_eq!(found, status, "{path}");
    }
    assert!(client(&port, &[]).await.is_ok());
    assert!(
        client(&port, &[("origin", "https://hmi.plant")])
            .await
            .is_ok()
    );
    let evil = client(&port, &[("origin", "https://evil.example")]).await;
    assert_eq!(evil.unwrap_err(), 403);
    let (_shut, _, port) = serve(json!({ "token": "s3cret", "maxClients": 1 })).await;
    for wrong in ["Bearer other", "Basic czNjcmV0", "s3cret"] {
        let refused = client(&port, &[("authorization", wrong)]).await;
        assert_eq!(refused.unwrap_err(), 401, "{wrong}");
    }
    let token = ("authorization", "Bearer s3cret");
    let _first = client(&port, &[token, ("origin", "https://any")])
        .await
        .unwrap();
    assert_eq!(client(&port, &[token]).await.unwrap_err(), 503);
    let (_picky, _, port) = serve(json!({ "subProtocols": ["v2"] })).await;
    let other = client(&port, &[("sec-websocket-protocol", "v1")]).await;
    assert_eq!(other.unwrap_err(), 400);
}

#[tokio::test]
async fn without_a_client_a_publish_waits_and_is_disconnected_in_the_end() {
    let (server, _, port) = serve(json!({})).await;
    let sent = batch(&[b"x"]);
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client(&port, &[]).await.unwrap()
    };
    let (published, mut socket) = tokio::join!(publish(&*server, &sent), late);
    assert!(published.unwrap().is_empty());
    assert_eq!(next(&mut socket).await, Some(Frame::text("x")));
    drop(socket);
    let gone = async {
        while !matches!(publish(&*server, &sent).await, Err(error) if error.code == "no-client") {}
    };
    tokio::time::timeout(2 * LIMIT, gone).await.unwrap();
    assert!(
        server
            .warnings()
            .iter()
            .any(|words| words.contains("no client"))
    );
    let (dropping, context, _port) = serve(json!({ "withoutClient": "drop" })).await;
    assert!(publish(&*dropping, &sent).await.unwrap().is_empty());
    assert_eq!(context.traffic.dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off_and_holds_nobody_for_long() {
    let (server, _, port) = serve(json!({})).await;
    let mut good = client(&port, &[]).await.unwrap();
    let stalled = client(&port, &[]).await.unwrap();
    let large = vec![b'x'; 100_000];
    let payloads: Vec<&[u8]> = (0..300).map(|_| &large[..]).collect();
    let reading = async {
        let mut count = 0;
        while count < 900 {
            if next(&mut good).await.unwrap().len() == large.len() {
                count += 1;
            }
        }
    };
    let writing = async {
        for _ in 0..3 {
            assert!(
                publish(&*server, &batch(&payloads))
                    .await
                    .unwrap()
                    .is_empty()
            );
        }
    };
    let began = tokio::time::Instant::now();
    tokio::join!(reading, writing);
    println!(
        "90 MB beside a client that stands still: {:?}",
        began.elapsed()
    );
    let cut = async {
        while !server
            .warnings()
            .iter()
            .any(|words| words.contains("too slow"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, cut)
        .await
        .expect("it is cut off");
    drop(stalled);
}

#[tokio::test]
async fn what_is_too_large_or_no_websocket_ends_that_client_and_no_other() {
    let (server, context, port) = serve(json!({ "maxMessageBytes": 1000 })).await;
    let (inbox, _taking) = take(&*server);
    let mut good = client(&port, &[]).await.unwrap();
    let mut large = client(&port, &[]).await.unwrap();
    large.send(Frame::text("x".repeat(2000))).await.unwrap();
    let Some(Frame::Close(Some(close))) = next(&mut large).await else {
        panic!("a close")
    };
    assert_eq!(u16::from(close.code), 1009);
    let broken = client(&port, &[]).await.unwrap();
    let mut raw = broken.into_inner();
    raw.write_all(&[0xff; 64]).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LIMIT, raw.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it is left");
    good.send(Frame::text("good")).await.unwrap();
    assert_eq!(one(&inbox).await, b"good");
    assert_eq!(context.traffic.refused.load(Ordering::Relaxed), 2);
    // What goes out is bounded too, and only that message is refused.
    let sent = batch(&[&[b'x'; 2000], b"fits"]);
    let rejections = publish(&*server, &sent).await.unwrap();
    assert_eq!((rejections.len(), rejections[0].index), (1, 0));
    assert_eq!(rejections[0].error.kind, ErrorKind::Permanent);
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_given_up() {
    let (server, _, port) = serve(json!({ "keepAlive": "500ms" })).await;
    let (inbox, _taking) = take(&*server);
    let alive = client(&port, &[]).await.unwrap();
    let silent = client(&port, &[]).await.unwrap().into_inner();
    let (mut silent, mut alive) = (silent, alive);
    let began = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let silence = async { tokio::time::timeout(LIMIT, silent.read_to_end(&mut rest)).await };
    let life = async {
        // Reading answers pings.
        drop(tokio::time::timeout(Duration::from_millis(1500), alive.next()).await);
        alive.send(Frame::text("still here")).await.unwrap();
    };
    let (ended, ()) = tokio::join!(silence, life);
    assert!(ended.is_ok());
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert_eq!(one(&inbox).await, b"still here");
}

#[tokio::test]
async fn a_server_that_says_nothing_or_no_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let port = any_port();
    let props = json!({ "addr": address, "path": "/x", "connectTimeout": "300ms" });
    for (answer, code, pace) in [
        (&b""[..], "timeout", Pace::Quick),
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "websocket",
            Pace::Slow,
        ),
        (
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            "websocket",
            Pace::Quick,
        ),
        (b"SSH-2.0-x\r\n\r\n", "websocket", Pace::Slow),
    ] {
        let (connection, _) = build(&props, &port);
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer).await.unwrap();
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        };
        let connect = async {
            let error = connection.connect().await.unwrap_err();
            assert_eq!(
                (error.code.as_str(), error.pace),
                (code, pace),
                "{}",
                error.report()
            );
        };
        tokio::join!(server, connect);
    }
}

#[test]
fn a_server_without_a_port_is_at_that_of_its_scheme() {
    let port = any_port();
    for (addr, scheme, peer) in [
        ("plant", "ws", "plant:80"),
        ("plant", "wss", "plant:443"),
        ("plant:80", "wss", "plant:80"),
        ("plant:8080", "wss", "plant:8080"),
        ("[::1]", "ws", "[::1]:80"),
        ("[::1]", "wss", "[::1]:443"),
    ] {
        let props = json!({ "addr": addr, "scheme": scheme, "path": "/a?b=c" });
        let (connection, _) = build(&props, &port);
        assert_eq!(connection.peer().as_deref(), Some(peer), "{props}");
    }
}

#[test]
fn mistakes_are_named_and_no_secret_is_shown() {
    let port = any_port();
    let mut context = context("default", "one");
    context.port = port;
    for (props, words) in [
        (json!({}), "path: is missing"),
        (
            json!({ "path": "ws" }),
            "websocket endpoint should start with /",
        ),
        (
            json!({ "path": "/a", "datasource": "/b" }),
            "give one of them",
        ),
        (json!({ "path": "/a?b" }), "no \"?\""),
        (json!({ "path": "/a", "addr": "ws://h:1" }), "host:port"),
        (json!({ "path": "/a", "scheme": "wsx" }), "Allowed: ws, wss"),
        (
            json!({ "path": "/a", "requestHeader": { "Host": "hunter2" } }),
            "handshake itself",
        ),
        (
            json!({ "path": "/a", "requestHeader": { "X": 7 } }),
            "a list of texts",
        ),
        (
            json!({ "path": "/a", "requestHeader": { "X": "hunter2\u{1}" } }),
            "no header may hold",
        ),
        (json!({ "path": "/a", "token": "" }), "is empty"),
        (json!({ "path": "/a", "subProtocols": "a b" }), "one word"),
        (
            json!({ "path": "/a", "withoutClient": "block" }),
            "Allowed: wait, drop",
        ),
        (
            json!({ "path": "/a", "adr": "h:1" }),
            "did you mean \"addr\"",
        ),
    ] {
        let mistakes = WebSocket::build(props.as_object().unwrap(), context.clone()).unwrap_err();
        let found: String = mistakes.iter().map(|one| format!("{one}; ")).collect();
        assert!(found.contains(words), "{props}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
    let endpoint = |props: Value| WebSocket::exclusive_endpoint(props.as_object().unwrap());
    assert_eq!(
        endpoint(json!({ "datasource": "/a" })).as_deref(),
        Some("/a")
    );
    assert_eq!(endpoint(json!({ "path": "/a", "addr": "h:1" })), None);
    let props = json!({ "path": "/a", "addr": "h:1", "requestHeader": { "X": "hunter2" } });
    let built = WebSocket::build(props.as_object().unwrap(), context).unwrap();
    assert!(!format!("{built:?}").contains("hunter2"));
}

/// What came of these bytes, at a side that reads, and writes what it is given.
#[derive(Default)]
struct Heard(usize, Option<Frame>);

impl wire::Side for Heard {
    fn next(&mut self, _cx: &std::task::Context<'_>) -> wire::Next {
        self.1.take().map_or(wire::Next::Nothing, wire::Next::Frame)
    }
    fn written(&mut self) {}
    fn arrived(&mut self, payload: bytes::Bytes) {
        self.0 += payload.len();
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_on_which_a_large_message_moves_is_not_silent() {
    use tokio_tungstenite::tungstenite::protocol::Role;
    const LARGE: u16 = 5000;
    const KEEP: Duration = Duration::from_secs(1);
    for outwards in [false, true] {
        let (near, mut far) = tokio::io::duplex(64);
        let settings = Some(wire::settings(LARGE.into()));
        let near = wire::Moved::new(near);
        let socket = WebSocketStream::from_raw_socket(near, Role::Client, settings).await;
        let mut wire = wire::Wire::new(socket, KEEP, LARGE.into());
        let frame = outwards.then(|| Frame::binary(vec![0; LARGE.into()]));
        let mut heard = Heard(0, frame);
        let began = tokio::time::Instant::now();
        let mut moved = began;
        let far = async {
            let mut header = vec![0x82, 126];
            header.extend(LARGE.to_be_bytes());
            let whole = [header, vec![0; LARGE.into()]].concat();
            let mut left = usize::from(LARGE);
            // It answers no ping: where would the answer go.
            for part in whole.chunks(64) {
                tokio::time::sleep(KEEP / 2).await;
                if outwards {
                    let mut some = [0; 64];
                    left = left.saturating_sub(far.read(&mut some).await.unwrap());
                } else {
                    far.write_all(part).await.unwrap();
                    left = left.saturating_sub(part.len());
                }
                moved = tokio::time::Instant::now();
            }
            assert!(left < 128, "{outwards}: {left}");
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            end = wire.run(&mut heard) => end,
            () = far => unreachable!(),
        };
        // Only when nothing moves any more, and then soon.
        assert!(matches!(end, wire::End::Silent), "{outwards}: {end:?}");
        assert!(moved > began + 30 * KEEP, "{outwards}: {:?}", moved - began);
        assert!(moved.elapsed() < 3 * KEEP, "{outwards}");
        assert_eq!(heard.0, if outwards { 0 } else { LARGE.into() });
    }
}

proptest! {
    #[test]
    fn rubbish_ends_a_link_and_nothing_else(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        serves in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            use tokio_tungstenite::tungstenite::protocol::Role;
            let (near, mut far) = tokio::io::duplex(64);
            let role = if serves { Role::Server } else { Role::Client };
            let settings = Some(wire::settings(100));
            let socket =
                WebSocketStream::from_raw_socket(wire::Moved::new(near), role, settings).await;
            let mut wire = wire::Wire::new(socket, Duration::from_secs(1), 100);
            let mut heard = Heard::default();
            let talk = async {
                // It may have been left already.
                drop(far.write_all(&bytes).await);
                drop(far.shutdown().await);
                let mut rest = Vec::new();
                drop(far.read_to_end(&mut rest).await);
            };
            let end = async {
                let end = wire.run(&mut heard).await;
                drop(wire);
                end
            };
            let (end, ()) = tokio::join!(end, talk);
            assert!(heard.0 <= bytes.len());
            assert!(!end.error().message.is_empty());
        });
    }
}
