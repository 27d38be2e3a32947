//! URLs, dials that fail, and bytes across a WebSocket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

#[test]
fn urls_are_read_and_mistakes_are_named() {
    let read = |text: &str| Endpoint::parse(text, Some((1883, 8883)));
    assert_eq!(read("tcp://h").unwrap().to_string(), "h:1883");
    assert_eq!(read("SSL://h").unwrap().to_string(), "h:8883");
    assert_eq!(
        read("tcp://127.0.0.1:80").unwrap().to_string(),
        "127.0.0.1:80"
    );
    assert_eq!(read("mqtt://[::1]:9").unwrap().to_string(), "[::1]:9");
    assert_eq!(
        read("ws://h/mqtt?x=1").unwrap().websocket.as_deref(),
        Some("/mqtt?x=1")
    );
    assert_eq!(read("wss://h").unwrap().to_string(), "h:443");
    for (text, why) in [
        ("h:1883", "tcp://h:1883"),
        ("tpc://h:1", "did you mean \"tcp\""),
        ("tcp://u:p@h:1", "credentials"),
        ("tcp://h:1/x", "path"),
        ("tcp://:1", "is not a URL"),
    ] {
        let error = read(text).unwrap_err();
        assert!(
            error.contains(why) && !error.contains("u:p"),
            "{text}: {error}"
        );
    }
    assert!(
        Endpoint::parse("tcp://h", None)
            .unwrap_err()
            .contains("no port")
    );
}

fn how(tls: &TlsConfig) -> Dial<'_> {
    Dial {
        tls,
        alpn: &[],
        websocket_protocol: "mqtt",
        websocket_limit: 1 << 20,
        user_timeout: Some(Duration::from_secs(5)),
        probe: None,
    }
}

#[tokio::test]
async fn a_refused_dial_says_so_without_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let tls = TlsConfig::default();
    let Err(error) = dial(&Endpoint::new("127.0.0.1", port, false), &how(&tls)).await else {
        panic!("connected")
    };
    assert_eq!(error.code, "connect");
    assert!(!error.message.contains("127"));
    assert!(error.report().contains("127.0.0.1"));
}

#[tokio::test]
#[expect(
    clippy::result_large_err,
    reason = "the callback's type is tungstenite's"
)]
async fn bytes_cross_a_websocket_in_pieces_of_any_size() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        let accept =
            |_: &_, mut response: tokio_tungstenite::tungstenite::handshake::server::Response| {
                response
                    .headers_mut()
                    .insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
                Ok(response)
            };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, accept)
            .await
            .unwrap();
        let mut got = Vec::new();
        while got.len() < 5 {
            got.extend_from_slice(&socket.next().await.unwrap().unwrap().into_data());
        }
        let mut out = WebSocket {
            socket,
            rest: Bytes::new(),
        };
        for piece in got.chunks(2) {
            out.write_all(piece).await.unwrap();
            out.flush().await.unwrap();
        }
        out
    };
    let client = async {
        let tls = TlsConfig::default();
        let endpoint = Endpoint::parse(&format!("ws://127.0.0.1:{port}/mqtt"), None).unwrap();
        let mut stream = dial(&endpoint, &how(&tls)).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.unwrap();
        back
    };
    let (_server, back) = tokio::join!(server, client);
    assert_eq!(&back, b"hello");
}
