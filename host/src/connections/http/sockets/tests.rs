//! Sockets to a server that does as the test says, odd answers among them.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use windlass_tests::httpd::{Httpd, Reply};

use super::*;

const MOST: usize = 100_000;

fn sockets(port: u16) -> Sockets {
    Sockets::new("127.0.0.1".to_owned(), port, None)
}

fn head(method: Method, port: u16) -> Head {
    let url = Url::parse(&format!("http://127.0.0.1:{port}/a?b=c")).unwrap();
    Head::new(method, &url, &format!("127.0.0.1:{port}"), HeaderMap::new()).unwrap()
}

async fn post(sockets: &Sockets, port: u16, body: &str) -> Result<Answer, ConnectionError> {
    let head = head(Method::POST, port);
    let body = Bytes::from(body.to_owned());
    let sent = sockets.send(&head, &body, MOST);
    timeout(Duration::from_secs(20), sent)
        .await
        .expect("an end")
}

/// Until it is seen that the server has ended every socket.
async fn all_ended(sockets: &Sockets) {
    for _ in 0..5000 {
        sockets.sweep();
        if sockets.waiting.lock().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a socket is still there");
}

#[tokio::test]
async fn requests_after_each_other_share_the_socket_of_the_dial() {
    let server = Httpd::start(|asked| Reply::text(200, &asked.text()));
    let sockets = sockets(server.port());
    sockets.reach().await.unwrap();
    for number in 0..50 {
        let text = "x".repeat(number * 100);
        let answer = post(&sockets, server.port(), &text).await.unwrap();
        assert_eq!(answer.body, text.as_bytes());
    }
    assert_eq!(server.accepted().len(), 1);
    let asked = server.asked().remove(49);
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("POST", "/a?b=c")
    );
    let host = format!("127.0.0.1:{}", server.port());
    assert_eq!(asked.header("host"), Some(host.as_str()));
    assert_eq!(asked.header("accept-encoding"), Some(UNPACKED));
}

#[tokio::test]
async fn a_socket_that_the_server_ended_meanwhile_is_not_used_and_an_idle_one_is_closed() {
    let mut server = Httpd::start(|_| Reply::status(204));
    let sockets = sockets(server.port());
    post(&sockets, server.port(), "a").await.unwrap();
    server.kill();
    server.up();
    tokio::time::sleep(Duration::from_millis(50)).await;
    post(&sockets, server.port(), "b").await.unwrap();
    assert_eq!((server.accepted().len(), server.count()), (2, 2));
    sockets.sweep();
    assert_eq!(sockets.waiting.lock().len(), 1);
    let long_ago = Instant::now()
        .checked_sub(IDLE)
        .expect("the machine runs for a minute");
    sockets.waiting.lock()[0].since = long_ago;
    sockets.sweep();
    assert!(sockets.waiting.lock().is_empty());
}

#[tokio::test]
async fn every_way_to_say_where_an_answer_ends_is_understood() {
    let raw = |text: &str| Reply::Raw(text.as_bytes().to_vec());
    for (reply, status, body) in [
        (
            Reply::Chunked(200, Vec::new(), vec![b'x'; 5000], 700),
            200,
            vec![b'x'; 5000],
        ),
        (raw("HTTP/1.1 204 No Content\r\n\r\n"), 204, Vec::new()),
        (
            raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
            304,
            Vec::new(),
        ),
        (
            raw("HTTP/1.0 200 OK\r\n\r\nto the end"),
            200,
            b"to the end".to_vec(),
        ),
        (
            raw("HTTP/1.1 200\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"),
            200,
            b"ok".to_vec(),
        ),
        (
            raw(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok",
            ),
            201,
            b"ok".to_vec(),
        ),
        (
            raw(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\ntrailer: t\r\n\r\n",
            ),
            200,
            b"ok".to_vec(),
        ),
    ] {
        let ends = matches!(reply, Reply::Raw(_));
        let server = Httpd::start(move |_| reply.clone());
        let sockets = sockets(server.port());
        for _ in 0..3 {
            let answer = post(&sockets, server.port(), "x").await.unwrap();
            let found = (answer.status.as_u16(), &answer.body[..]);
            assert_eq!(found, (status, &body[..]));
            assert!(!answer.truncated);
            if ends {
                all_ended(&sockets).await;
            }
        }
        assert_eq!(server.count(), 3);
    }
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_it_says_and_its_socket_goes_on() {
    let server = Httpd::start(|_| Reply::text(200, "hello"));
    let sockets = sockets(server.port());
    let head = head(Method::HEAD, server.port());
    for _ in 0..3 {
        let answer = sockets.send(&head, &Bytes::new(), MOST).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    }
    assert_eq!(server.accepted().len(), 1);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_cut_and_its_socket_closed() {
    let server = Httpd::start(|_| Reply::Chunked(200, Vec::new(), vec![b'x'; 500_000], 10_000));
    let sockets = sockets(server.port());
    let answer = post(&sockets, server.port(), "x").await.unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (MOST, true));
    assert!(sockets.waiting.lock().is_empty());
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_of_its_kind() {
    for (reply, code) in [
        (Reply::Reset, "http:closed"),
        (Reply::Raw(Vec::new()), "http:closed"),
        (
            Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
            "http:closed",
        ),
        (
            Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
            "http:protocol",
        ),
        (
            Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_vec()),
            "http:protocol",
        ),
        (
            Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort".to_vec()),
            "http:cut",
        ),
        (
            Reply::Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
            "http:cut",
        ),
    ] {
        let shown = format!("{reply:?}");
        let server = Httpd::start(move |_| reply.clone());
        let sockets = sockets(server.port());
        let error = post(&sockets, server.port(), "x").await.unwrap_err();
        assert_eq!(error.code, code, "{shown}");
        assert!(sockets.waiting.lock().is_empty());
        assert!(!error.message.contains("127.0.0.1"));
    }
    let mut gone = Httpd::start(|_| Reply::status(204));
    gone.kill();
    let error = post(&sockets(gone.port()), gone.port(), "x")
        .await
        .unwrap_err();
    assert_eq!(error.code, "connect");
}

#[tokio::test]
async fn what_comes_unasked_is_nobodys_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        let (mut first, _) = listener.accept().await.unwrap();
        let mut piece = [0; 1000];
        assert!(first.read(&mut piece).await.unwrap() > 0);
        let two = b"HTTP/1.1 204 A\r\n\r\nHTTP/1.1 500 B\r\n\r\n";
        first.write_all(two).await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        assert!(second.read(&mut piece).await.unwrap() > 0);
        second
            .write_all(b"HTTP/1.1 201 C\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        (first, second)
    };
    let sockets = sockets(port);
    let client = async {
        let first = post(&sockets, port, "a").await.unwrap();
        let second = post(&sockets, port, "b").await.unwrap();
        (first.status.as_u16(), second.status.as_u16())
    };
    let (_kept, statuses) = tokio::join!(server, client);
    assert_eq!(statuses, (204, 201));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each byte of an answer may be its last, or another one.
    #[test]
    fn a_damaged_answer_ends_and_is_never_longer_than_it_was(cut in 0..200_usize, at in 0..200_usize, with: u8) {
        let whole = b"HTTP/1.1 200 OK\r\nserver: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n you\r\n0\r\n\r\n";
        let mut bytes = whole.to_vec();
        bytes.truncate(cut);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = with;
        }
        let server = Httpd::start(move |_| Reply::Raw(bytes.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async { post(&sockets(server.port()), server.port(), "x").await });
        if let Ok(answer) = answer {
            prop_assert!(answer.body.len() <= whole.len());
        }
    }
}
