//! A link to a server that does as the test says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;
use windlass_tests::httpd::{Httpd, Reply};

use super::HttpServer;
use crate::connections::testing::context;
use crate::connections::{Connection, ConnectionType, HttpHead, HttpRequest, HttpResponse};
use crate::error::{ConnectionError, ErrorKind, Pace};

fn build(server: &Httpd, more: &Value) -> Arc<dyn Connection> {
    let mut properties = json!({ "url": server.url("/base") });
    for (name, value) in more.as_object().unwrap() {
        properties[name] = value.clone();
    }
    let properties = properties.as_object().unwrap();
    HttpServer::build(properties, context("api", Path::new("/"))).unwrap()
}

async fn send(
    connection: &dyn Connection,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<HttpResponse, ConnectionError> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let head = HttpHead {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers.iter().map(pair).collect(),
        ..HttpHead::default()
    };
    let request = HttpRequest {
        head: Arc::new(head),
        body: "x".into(),
    };
    connection.http().unwrap().send(request).await
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed_and_they_are_spaced() {
    let server =
        Httpd::start(|_| Reply::After(Duration::from_millis(50), Box::new(Reply::status(204))));
    let link = build(&server, &json!({ "maxInFlight": 3, "rateLimit": 100 }));
    link.connect().await.unwrap();
    assert_eq!(link.http().unwrap().concurrency(), 3);
    let begin = Instant::now();
    let all = join_all((0..30).map(|_| send(&*link, "POST", "", &[]))).await;
    assert!(
        all.iter()
            .all(|answer| answer.as_ref().unwrap().status == 204)
    );
    let took = begin.elapsed();
    // Ten rounds of 50 ms; the first of the 30 went at once.
    assert!(took >= Duration::from_millis(490), "{took:?}");
    // One connection is that of the dial.
    assert!(server.accepted().len() <= 4, "{:?}", server.accepted());
}

#[tokio::test]
async fn a_request_gets_the_connections_headers_and_cannot_replace_them_or_the_framing() {
    let server = Httpd::start(|_| Reply::text(200, "hello").header("X-Back", "b"));
    let more = json!({ "headers": { "X-Own": "own", "Authorization": "Bearer geheim" } });
    let link = build(&server, &more);
    link.connect().await.unwrap();
    let answer = send(
        &*link,
        "PUT",
        "a?b=c",
        &[("x-own", "theirs"), ("X-More", "more")],
    )
    .await
    .unwrap();
    assert_eq!(
        (answer.status, &answer.body[..], answer.truncated),
        (200, &b"hello"[..], false)
    );
    assert!(
        answer
            .headers
            .contains(&("x-back".to_owned(), "b".to_owned()))
    );
    let asked = server.asked().remove(0);
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("PUT", "/base/a?b=c")
    );
    assert_eq!(asked.header("x-own"), Some("own"));
    assert_eq!(
        (asked.header("x-more"), asked.header("authorization")),
        (Some("more"), Some("Bearer geheim"))
    );
    for (method, path, header, kind) in [
        ("PUT", "../a", "x", ErrorKind::Denied),
        ("PUT", "a", "Host", ErrorKind::Permanent),
        ("PUT", "a", "a b", ErrorKind::Permanent),
        ("CONNECT", "a", "x", ErrorKind::Permanent),
        ("G T", "a", "x", ErrorKind::Permanent),
    ] {
        let error = send(&*link, method, path, &[(header, "y")])
            .await
            .unwrap_err();
        assert_eq!(error.kind, kind, "{method} {path} {header}");
        assert!(!error.message.contains("127.0.0.1") && !error.report().contains("geheim"));
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_large_answer_is_cut_and_a_large_request_is_refused() {
    let server = Httpd::start(|_| Reply::Answer(200, Vec::new(), vec![b'x'; 5000]));
    let link = build(&server, &json!({ "maxBodyBytes": 1000 }));
    link.connect().await.unwrap();
    let answer = send(&*link, "GET", "", &[]).await.unwrap();
    assert_eq!((answer.body.len(), answer.truncated), (1000, true));
    let request = HttpRequest {
        body: vec![b'x'; 1001].into(),
        head: Arc::new(HttpHead {
            method: "POST".to_owned(),
            ..HttpHead::default()
        }),
    };
    let error = link.http().unwrap().send(request).await.unwrap_err();
    assert_eq!(
        (error.kind, error.code.as_str()),
        (ErrorKind::Permanent, "too-large")
    );
}

#[tokio::test]
async fn a_link_is_lost_when_nobody_is_there_and_while_it_is_down_a_request_waits_for_it() {
    let mut server = Httpd::start(|_| Reply::status(204));
    let link = build(&server, &json!({}));
    link.connect().await.unwrap();
    send(&*link, "POST", "", &[]).await.unwrap();
    assert!(link.was_useful());
    server.kill();
    let (lost, failed) = tokio::join!(link.lost(), async {
        // The first may meet the old socket's end, the next one finds nobody.
        send(&*link, "POST", "", &[]).await.ok();
        send(&*link, "POST", "", &[]).await
    });
    let failed = failed.unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Disconnected);
    assert!(!failed.message.contains("127.0.0.1"), "{}", failed.message);
    assert_eq!(lost.code, "connect");
    assert_eq!(
        link.connect().await.unwrap_err().kind,
        ErrorKind::Disconnected
    );
    server.up();
    let (answer, dialled) = tokio::join!(send(&*link, "POST", "", &[]), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        link.connect().await
    });
    dialled.unwrap();
    assert_eq!(answer.unwrap().status, 204);
}

#[tokio::test]
async fn a_token_endpoint_that_once_says_something_else_is_asked_again() {
    let own = json!({ "headers": { "X-Token": "{{.token}}" } });
    let access = json!({ "access": { "body": "{}", "expire": "{{.life}}" } });
    let client = json!({ "clientCredentials": { "clientId": "a", "clientSecret": "geheim" } });
    for (oauth, more, good) in [
        (&access, &own, r#"{"token":"t","life":60}"#),
        (&client, &own, r#"{"token":"t"}"#),
        (&client, &json!({}), r#"{"access_token":"t"}"#),
    ] {
        let times = std::sync::atomic::AtomicUsize::new(0);
        let server = Httpd::start(move |asked| match asked.target.as_str() {
            "/token" if times.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
                Reply::text(200, r#"{"code":500,"msg":"busy"}"#)
            }
            "/token" => Reply::text(200, good),
            _ => Reply::status(204),
        });
        let mut more = more.clone();
        more["oauth"] = oauth.clone();
        for call in more["oauth"].as_object_mut().unwrap().values_mut() {
            call["url"] = server.url("/token").into();
        }
        let link = build(&server, &more);
        let error = link.connect().await.unwrap_err();
        assert_eq!(
            (error.kind, error.code.as_str(), error.pace),
            (ErrorKind::Disconnected, "oauth:field", Pace::Slow),
            "{more}"
        );
        link.connect().await.unwrap();
        assert_eq!(send(&*link, "POST", "", &[]).await.unwrap().status, 204);
    }
}

#[tokio::test]
async fn a_server_that_needs_longer_than_a_call_has_is_no_silent_one() {
    let server =
        Httpd::start(|_| Reply::After(Duration::from_millis(300), Box::new(Reply::status(204))));
    let link = build(&server, &json!({ "timeout": "60s" }));
    assert!(link.warnings()[0].contains("callDeadline"));
    assert!(build(&server, &json!({})).warnings().is_empty());
    link.connect().await.unwrap();
    let calls = async {
        for _ in 0..7 {
            let end = Instant::now() + Duration::from_millis(100);
            let request = HttpRequest {
                head: Arc::new(HttpHead {
                    method: "POST".to_owned(),
                    ..HttpHead::default()
                }),
                body: "x".into(),
            };
            let answers = link.http().unwrap().send_all(vec![request], end, end).await;
            let error = answers[0].clone().unwrap().unwrap_err();
            assert_eq!(
                (error.kind, error.code.as_str()),
                (ErrorKind::Transient, "timeout")
            );
        }
        assert_eq!(send(&*link, "POST", "", &[]).await.unwrap().status, 204);
    };
    tokio::select! {
        error = link.lost() => panic!("{error:?}"),
        () = calls => {}
    }
    let circuit = link.circuit().unwrap();
    assert_eq!((circuit.opened, circuit.failures), (0, 0));
}
