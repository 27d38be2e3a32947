use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::error::ErrorKind;

/// A port on any free number of 127.0.0.1.
pub(in crate::connections) fn any_port() -> DataPort {
    DataPort::new(Settings {
        address: "127.0.0.1:0".parse().unwrap(),
        ..Settings::default()
    })
}

/// Sends these bytes on a connection of their own and reads one response: status, head, body. None:
/// the connection was closed without one.
pub(crate) async fn ask(address: SocketAddr, bytes: &[u8]) -> Option<(u16, String, String)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    answer(&mut stream).await
}

/// Reads one response.
pub(crate) async fn answer(stream: &mut TcpStream) -> Option<(u16, String, String)> {
    let mut got = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_lowercase();
            let length: usize = lower
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next())
                .map_or(0, |number| number.trim().parse().unwrap());
            if body.len() >= length {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return Some((status, lower, body.to_owned()));
            }
        }
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap_or(0);
        if count == 0 {
            return None;
        }
        got.extend_from_slice(&piece[..count]);
    }
}

/// Answers with what it reads.
#[derive(Debug)]
struct Echo(DataPort, BodyLimits);

#[async_trait]
impl Endpoint for Echo {
    async fn serve(&self, request: Request<Incoming>) -> Response {
        let (head, body) = request.into_parts();
        match read_body(self.0.bodies(), &head.headers, body, self.1).await {
            Ok((body, _room)) => Response::new(http_body_util::Full::new(body)),
            Err(error) => error.answer().close(),
        }
    }
}

async fn echo(most: usize, ms: u64) -> (DataPort, PortLease, Route) {
    let port = any_port();
    let (lease, route) = serve_echo(&port, most, ms).await;
    (port, lease, route)
}

async fn serve_echo(port: &DataPort, most: usize, ms: u64) -> (PortLease, Route) {
    port.takers_known();
    let lease = port.open().await.unwrap();
    let limits = BodyLimits {
        bytes: most,
        time: Duration::from_millis(ms),
    };
    let endpoint = Arc::new(Echo(port.clone(), limits));
    let route = port
        .serve(
            &"default".into(),
            "/echo",
            Method::POST,
            &"one".into(),
            endpoint,
        )
        .unwrap();
    (lease, route)
}

fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn packed_bodies_are_unpacked_and_bombs_refused() {
    let (_port, lease, _route) = echo(10_000, 1000).await;
    let text = b"hello hello hello hello".repeat(20);
    let zlib = {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&text).unwrap();
        encoder.finish().unwrap()
    };
    let bare = {
        use std::io::Write;
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&text).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::bulk::compress(&text, 3).unwrap();
    let good: [(&str, &[u8]); 5] = [
        ("gzip", &gzip(&text)),
        ("deflate", &zlib),
        ("deflate", &bare),
        ("zstd", &zstd),
        ("gzip, identity", &gzip(&text)),
    ];
    for (name, packed) in good {
        let header = format!("Content-Encoding: {name}\r\n");
        let (status, _, body) = ask(lease.address(), &post(&header, packed)).await.unwrap();
        assert_eq!((status, body.as_bytes()), (200, &text[..]), "{name}");
        // Cut anywhere, it is an error and never a shorter body.
        let cut = &packed[..packed.len() - 3];
        let (status, ..) = ask(lease.address(), &post(&header, cut)).await.unwrap();
        assert_eq!(status, 400, "{name} cut");
    }
    let zeros = vec![0; 50_000_000];
    for (name, bomb) in [
        ("gzip", gzip(&zeros)),
        ("zstd", zstd::bulk::compress(&zeros, 3).unwrap()),
        ("gzip, gzip", gzip(&gzip(&zeros))),
    ] {
        let header = format!("Content-Encoding: {name}\r\n");
        let (status, ..) = ask(lease.address(), &post(&header, &bomb)).await.unwrap();
        assert_eq!(status, 413, "{name}");
    }
    let (status, _, body) = ask(lease.address(), &post("Content-Encoding: br\r\n", b"x"))
        .await
        .unwrap();
    assert!(status == 415 && body.contains("gzip"), "{body}");
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_time() {
    let (port, lease, _route) = echo(100, 300).await;
    let (status, ..) = ask(lease.address(), &post("", &[b'x'; 100])).await.unwrap();
    assert_eq!(status, 200);
    let (status, head, _) = ask(lease.address(), &post("", &[b'x'; 101])).await.unwrap();
    assert!(
        status == 413 && head.contains("connection: close"),
        "{head}"
    );
    let chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = format!("{chunked}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    let (status, _, body) = ask(lease.address(), whole.as_bytes()).await.unwrap();
    assert_eq!((status, body.as_str()), (200, "abcde"));
    let long = format!("{chunked}65\r\n{}\r\n0\r\n\r\n", "x".repeat(0x65));
    let (status, ..) = ask(lease.address(), long.as_bytes()).await.unwrap();
    assert_eq!(status, 413);
    let slow = format!("{chunked}3\r\na");
    let (status, ..) = ask(lease.address(), slow.as_bytes()).await.unwrap();
    assert_eq!(status, 408);
    assert_eq!(port.bodies().used(), 0, "all is given back");
}

#[tokio::test]
async fn a_path_that_is_not_served_is_404_and_one_that_was_is_503() {
    let (port, lease, route) = echo(100, 300).await;
    let get = |method: &str, path: &str| format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let (status, ..) = ask(lease.address(), get("POST", "/nowhere").as_bytes())
        .await
        .unwrap();
    assert_eq!(status, 404);
    let (status, head, _) = ask(lease.address(), get("GET", "/echo").as_bytes())
        .await
        .unwrap();
    assert!(status == 405 && head.contains("allow: post"), "{head}");
    drop(route);
    let (status, head, _) = ask(lease.address(), get("POST", "/echo").as_bytes())
        .await
        .unwrap();
    assert!(status == 503 && head.contains("retry-after"), "{head}");
    let starting = any_port();
    let lease = starting.open().await.unwrap();
    let (status, ..) = ask(lease.address(), get("POST", "/echo").as_bytes())
        .await
        .unwrap();
    assert_eq!(status, 503, "the host is starting");
    drop(port);
}

#[tokio::test]
async fn two_owners_cannot_serve_one_path_with_one_method() {
    let (port, _lease, _route) = echo(100, 300).await;
    let serve = |owner: &str, method: Method| {
        let endpoint = Arc::new(Echo(
            port.clone(),
            BodyLimits {
                bytes: 1,
                time: Duration::ZERO,
            },
        ));
        port.serve(&"default".into(), "/echo", method, &owner.into(), endpoint)
    };
    assert_eq!(serve("two", Method::POST).unwrap_err().owner, "one");
    assert!(serve("two", Method::PUT).is_ok() && serve("one", Method::POST).is_ok());
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_reason_to_try_again_and_it_closes_with_its_last_lease() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let port = DataPort::new(Settings {
        address,
        ..Settings::default()
    });
    let error = port.open().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Disconnected);
    assert!(error.message.contains("taken"), "{}", error.message);
    assert!(!error.message.contains("127.0.0.1"));
    assert!(error.report().contains(&address.to_string()));
    drop(taken);
    let lease = port.open().await.unwrap();
    let other = port.open().await.unwrap();
    drop(lease);
    assert!(
        ask(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .is_some()
    );
    drop(other);
    port.stop(Duration::from_secs(1)).await;
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(port.address(), None);
}

#[tokio::test]
async fn too_many_connections_are_told_so_but_silent_ones_make_room() {
    let port = DataPort::new(Settings {
        address: "127.0.0.1:0".parse().unwrap(),
        max_connections: 2,
        ..Settings::default()
    });
    let (lease, route) = serve_echo(&port, 100, 10_000).await;
    let address = lease.address();
    // Half open: each makes room for the next.
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&post("", b"abc")[..52]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy.push(stream);
    }
    let mut third = TcpStream::connect(address).await.unwrap();
    let (status, _, body) = answer(&mut third).await.unwrap();
    assert!(status == 503 && body.ends_with('}'), "{body}");
    // Those that were there first go on.
    for stream in &mut busy {
        stream.write_all(&post("", b"abc")[52..]).await.unwrap();
        assert_eq!(answer(stream).await.unwrap().0, 200);
    }
    drop(route);
}

#[tokio::test]
async fn large_heads_are_refused() {
    let (_port, lease, _route) = echo(100, 300).await;
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    let mut stream = TcpStream::connect(lease.address()).await.unwrap();
    // It may be closed before all is written.
    stream.write_all(head.as_bytes()).await.ok();
    assert_eq!(answer(&mut stream).await.unwrap().0, 431);
}

#[tokio::test]
async fn silence_and_a_slow_head_end_after_ten_seconds() {
    let (_port, lease, _route) = echo(100, 300).await;
    let mut silent = TcpStream::connect(lease.address()).await.unwrap();
    let mut slow = TcpStream::connect(lease.address()).await.unwrap();
    slow.write_all(b"POST /echo HTTP/1.1\r\nHost")
        .await
        .unwrap();
    let mut second = TcpStream::connect(lease.address()).await.unwrap();
    second.write_all(&post("", b"a")).await.unwrap();
    assert_eq!(answer(&mut second).await.unwrap().0, 200);
    second.write_all(b"POST /e").await.unwrap();
    let began = Instant::now();
    let mut rest = [0; 16];
    for stream in [&mut silent, &mut slow, &mut second] {
        assert_eq!(stream.read(&mut rest).await.unwrap_or(0), 0);
    }
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(14),
        "{took:?}"
    );
}
