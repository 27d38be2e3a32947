use std::sync::atomic::{AtomicBool, Ordering};

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

use super::json::{Json, Raw, RawJson};
use super::system::View;
use super::*;
use crate::connections::dataport::tests::{answer, ask};
use crate::snapshot::{Change, ConnectionRow, Snapshot};

/// A host with one connection that is down.
#[derive(Debug)]
struct Shown(broadcast::Sender<Change>);

impl View for Shown {
    fn snapshot(&self, _tenant: &str) -> Snapshot {
        Snapshot {
            connections: vec![ConnectionRow {
                id: "plant".into(),
                is_named: true,
                status: "disconnected".into(),
                metric: -1,
                ..ConnectionRow::default()
            }],
            ..Snapshot::default()
        }
    }

    fn changes(&self, _tenant: &str) -> broadcast::Receiver<Change> {
        self.0.subscribe()
    }
}

struct Server {
    api: ListeningApi,
    stop: CancellationToken,
    changes: broadcast::Sender<Change>,
}

async fn server(limits: ApiLimits, auth: Option<AuthConfig>, more: Router) -> Server {
    let changes = broadcast::channel(4).0;
    let view: Arc<dyn View> = Arc::new(Shown(changes.clone()));
    let config = ApiConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        auth,
        limits,
        ..ApiConfig::default()
    };
    let stop = CancellationToken::new();
    let router = system::routes(Arc::clone(&view))
        .merge(events::routes(view))
        .merge(more);
    Server {
        api: serve(config, router, stop.clone()).await.unwrap(),
        stop,
        changes,
    }
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

impl Server {
    async fn ask(&self, bytes: &[u8]) -> (u16, String, String) {
        ask(self.api.address, bytes).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String, String) {
        self.ask(&request("GET", path, "", "")).await
    }

    async fn end(self) {
        self.stop.cancel();
        self.api.ended(Duration::from_secs(5)).await;
        assert!(self.api.handlers.is_empty(), "no handler is left");
    }
}

fn echo() -> Router {
    let large = post(|Raw(bytes): Raw| async move { bytes.len().to_string() });
    Router::new()
        .route(
            "/echo",
            post(|RawJson { value, .. }: RawJson| async { Json(value) }),
        )
        .route("/large", large.layer(body_limit(200)))
        .route(
            "/list",
            post(|Json(list): Json<Vec<u8>>| async move { Json(list.len()) }),
        )
}

#[tokio::test]
async fn what_is_no_path_or_no_method_is_answered_in_the_envelope() {
    let server = server(ApiLimits::default(), None, echo()).await;
    let (status, head, body) = server.get("/nowhere").await;
    assert!(
        status == 404 && head.contains("content-type: application/json"),
        "{head}"
    );
    assert_eq!(
        body,
        "{\"error\":1002,\"message\":\"there is no such path\"}\n"
    );
    let (status, head, body) = server.get("/echo").await;
    assert!(
        status == 405 && head.contains("allow: post") && body.contains("1000"),
        "{head}"
    );
    let (status, ..) = server.get("/ping").await;
    assert_eq!(status, 200);
    let (status, head, body) = server.ask(&request("POST", "/", "", "")).await;
    assert!(status == 200 && head.contains("content-length"), "{head}");
    assert!(
        body.contains("\"upTimeSeconds\":0") && !body.ends_with('\n'),
        "{body}"
    );
    let (status, _, body) = server.get("/readyz").await;
    assert!(status == 503 && body.contains("\"id\":\"plant\""), "{body}");
    server.end().await;
}

#[tokio::test]
async fn bodies_are_read_with_care() {
    let limits = ApiLimits {
        body_bytes: 100,
        body_time: Duration::from_millis(300),
        ..ApiLimits::default()
    };
    let server = server(limits, None, echo()).await;
    let (status, _, body) = server
        .ask(&request("POST", "/echo", "", "{\"b\":1,\"a\":[]}"))
        .await;
    assert_eq!((status, &*body), (200, "{\"b\":1,\"a\":[]}"));
    let (status, _, body) = server
        .ask(&request("POST", "/echo", "", "{\"a\":1,\n\"a\":2}"))
        .await;
    assert_eq!(status, 400);
    assert!(
        body.contains("Invalid body: \\\"a\\\" stands twice") && body.contains("line 2"),
        "{body}"
    );
    let (status, _, body) = server.ask(&request("POST", "/list", "", "[1,\"2\"]")).await;
    assert!(status == 400 && body.contains("line 1 column 6"), "{body}");
    let long = "x".repeat(150);
    let (status, head, _) = server.ask(&request("POST", "/echo", "", &long)).await;
    assert!(
        status == 413 && head.contains("connection: close"),
        "{head}"
    );
    let (status, _, body) = server.ask(&request("POST", "/large", "", &long)).await;
    assert_eq!((status, &*body), (200, "150"));
    let slow = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
    let (status, ..) = server.ask(slow).await;
    assert_eq!(status, 408);
    server.end().await;
}

#[tokio::test]
async fn a_panic_is_answered_500_and_ends_nothing_else() {
    async fn panics() -> &'static str {
        panic!("of a test")
    }
    let server = server(
        ApiLimits::default(),
        None,
        Router::new().route("/panics", get(panics)),
    )
    .await;
    for _ in 0..3 {
        let (status, _, body) = server.get("/panics").await;
        assert!(
            status == 500 && body.contains("\"error\":1001") && !body.contains("of a test"),
            "{body}"
        );
    }
    assert_eq!(server.get("/ping").await.0, 200);
    server.end().await;
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_goes_away_and_a_look_does_not() {
    let (changed, looked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let after = |flag: &Arc<AtomicBool>| {
        let flag = Arc::clone(flag);
        move || async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            flag.store(true, Ordering::Relaxed);
        }
    };
    let routes = Router::new().route("/slow", post(after(&changed)).get(after(&looked)));
    let limits = ApiLimits {
        request: Duration::from_millis(200),
        ..ApiLimits::default()
    };
    let server = server(limits, None, routes).await;
    for method in ["POST", "GET"] {
        let mut stream = TcpStream::connect(server.api.address).await.unwrap();
        stream
            .write_all(&request(method, "/slow", "", ""))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (status, _, body) = server.ask(&request("POST", "/slow", "", "")).await;
    assert!(status == 504 && body.contains("may still happen"), "{body}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(changed.load(Ordering::Relaxed) && !looked.load(Ordering::Relaxed));
    server.end().await;
}

#[tokio::test]
async fn sockets_left_half_open_do_not_keep_others_out() {
    let limits = ApiLimits {
        connections: 8,
        ..ApiLimits::default()
    };
    let server = server(limits, None, Router::new()).await;
    let mut open = Vec::new();
    for number in 0..60 {
        let mut stream = TcpStream::connect(server.api.address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /ping HT").await.unwrap();
        }
        open.push(stream);
        if number % 10 == 9 {
            let began = Instant::now();
            assert_eq!(server.get("/ping").await.0, 200, "after {number}");
            assert!(
                began.elapsed() < Duration::from_secs(2),
                "{:?}",
                began.elapsed()
            );
        }
    }
    server.end().await;
}

#[tokio::test]
async fn foreign_names_and_pages_are_refused_before_anything_is_done() {
    let server = server(ApiLimits::default(), None, echo()).await;
    let rebound = b"POST /echo HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}";
    let (status, _, body) = server.ask(rebound).await;
    assert!(status == 421 && body.contains("evil.example"), "{body}");
    let page = request("POST", "/echo", "Origin: http://evil.example\r\n", "{}");
    let (status, _, body) = server.ask(&page).await;
    assert!(status == 403 && body.contains("evil.example"), "{body}");
    let own = request("POST", "/echo", "Origin: http://localhost\r\n", "{}");
    assert_eq!(server.ask(&own).await.0, 200);
    server.end().await;
}

/// Reads until this stands there.
async fn until(stream: &mut TcpStream, got: &mut String, wanted: &str) {
    let read = async {
        while !got.contains(wanted) {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "ended at: {got}");
            got.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
    };
    timeout(Duration::from_secs(10), read)
        .await
        .expect("in time");
}

fn change(id: &str, status: &str) -> Change {
    Change::Connection {
        id: id.into(),
        status: status.into(),
        err: String::new(),
        warnings: Vec::new(),
    }
}

#[tokio::test]
async fn events_begin_with_the_present_states_and_end_with_the_server() {
    let server = server(ApiLimits::default(), None, Router::new()).await;
    let mut stream = TcpStream::connect(server.api.address).await.unwrap();
    let asked = request("GET", "/events?kind=connection", "", "");
    stream.write_all(&asked).await.unwrap();
    let mut got = String::new();
    until(&mut stream, &mut got, "event: synced").await;
    assert!(
        got.contains("text/event-stream")
            && got.contains("event: connection\ndata: {\"event\":\"connection\",\"id\":\"plant\""),
        "{got}"
    );
    server.changes.send(change("plant", "connected")).unwrap();
    until(&mut stream, &mut got, "\"status\":\"connected\"").await;
    // More than the channel holds, before the client is told: all states again.
    for number in 0..20 {
        server
            .changes
            .send(change(&format!("other{number}"), "connecting"))
            .unwrap();
    }
    let told = "event: resync\ndata: {\"missed\":20}";
    until(&mut stream, &mut got, told).await;
    until(&mut stream, &mut got, "event: synced").await;
    // What the host itself could not hand on is told in the same way.
    got.clear();
    server.changes.send(Change::Missed { missed: 7 }).unwrap();
    until(&mut stream, &mut got, "event: resync\ndata: {\"missed\":7}").await;
    until(&mut stream, &mut got, "event: synced").await;
    let began = Instant::now();
    server.end().await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn listeners_to_events_are_bounded() {
    let server = server(ApiLimits::default(), None, Router::new()).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(server.api.address).await.unwrap();
        stream
            .write_all(&request("GET", "/events", "", ""))
            .await
            .unwrap();
        until(&mut stream, &mut String::new(), "event: synced").await;
        open.push(stream);
    }
    let (status, head, _) = server.get("/events").await;
    assert!(status == 503 && head.contains("retry-after"), "{head}");
    drop(open);
    for _ in 0..100 {
        let mut stream = TcpStream::connect(server.api.address).await.unwrap();
        stream
            .write_all(&request("GET", "/events", "Connection: close\r\n", ""))
            .await
            .unwrap();
        let mut piece = [0; 12];
        stream.read_exact(&mut piece).await.unwrap();
        if piece.ends_with(b"200") {
            return server.end().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("places are not given back");
}

mod tokens {
    use std::path::Path;

    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
    use serde_json::{Value, json};

    use super::*;

    fn now() -> u64 {
        jsonwebtoken::get_current_timestamp()
    }

    struct Issuer(EncodingKey, Algorithm);

    impl Issuer {
        /// A key whose public half lies in the folder.
        fn new(folder: &Path, name: &str, algorithm: Algorithm) -> Self {
            let kind = match algorithm {
                Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
                _ => &PKCS_ED25519,
            };
            let pair = KeyPair::generate_for(kind).unwrap();
            std::fs::write(folder.join(name), pair.public_key_pem()).unwrap();
            let pem = pair.serialize_pem();
            let key = match algorithm {
                Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
                _ => EncodingKey::from_ed_pem(pem.as_bytes()),
            };
            Self(key.unwrap(), algorithm)
        }

        fn token(&self, claims: &Value) -> String {
            encode(&Header::new(self.1), claims, &self.0).unwrap()
        }
    }

    #[tokio::test]
    async fn a_good_token_opens_with_and_without_bearer_and_a_bad_one_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path();
        let issuer = Issuer::new(keys, "Plant.pub", Algorithm::ES256);
        let other = Issuer::new(keys, "other", Algorithm::EdDSA);
        let auth = AuthConfig {
            keys: keys.to_owned(),
        };
        let server = server(ApiLimits::default(), Some(auth), echo()).await;
        let ask = async |value: &str| {
            let header = format!("Authorization: {value}\r\n");
            server.ask(&request("POST", "/echo", &header, "{}")).await
        };
        let good = json!({"iss": "plant.pub", "aud": "eKuiper", "exp": now() + 60});
        let token = issuer.token(&good);
        assert_eq!(ask(&token).await.0, 200);
        assert_eq!(ask(&format!("bearer  {token}")).await.0, 200);
        let ours = json!({"iss": "other", "aud": ["x", "windlass"], "nbf": now() - 5});
        assert_eq!(ask(&other.token(&ours)).await.0, 200);

        let (status, head, body) = server.ask(&request("POST", "/echo", "", "{}")).await;
        assert!(
            status == 401 && head.contains("www-authenticate: bearer"),
            "{head}"
        );
        assert!(body.contains("\"message\":\"missing_token\""), "{body}");
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            claims
        };
        let forged = Header::new(Algorithm::HS256);
        let secret = EncodingKey::from_secret(&std::fs::read(keys.join("Plant.pub")).unwrap());
        let (head, rest) = token.split_once('.').unwrap();
        let cases = [
            (
                issuer.token(&with("exp", json!(now() - 60))),
                "validate token error: token is expired",
            ),
            (
                issuer.token(&with("exp", json!("soon"))),
                "\\\"exp\\\" is no time",
            ),
            (
                issuer.token(&with("nbf", json!(now() + 600))),
                "not valid yet",
            ),
            (
                issuer.token(&with("aud", json!(["a", "b"]))),
                "audience field should contain eKuiper, but got [a b]",
            ),
            (issuer.token(&with("aud", Value::Null)), "but got []"),
            (
                issuer.token(&with("iss", json!("../Plant.pub"))),
                "there is no key of the issuer",
            ),
            (
                issuer.token(&with("iss", json!(""))),
                "issuer field not exist in jwt payload",
            ),
            (
                issuer.token(&with("role", json!("owner"))),
                "Allowed: read, operate, admin",
            ),
            (other.token(&good), "key is for ES256 only"),
            (
                encode(&forged, &good, &secret).unwrap(),
                "key is for ES256 only",
            ),
            (
                format!("eyJhbGciOiJub25lIn0.{}.", rest.split_once('.').unwrap().0),
                "malformed",
            ),
            (
                format!("{head}.{}", &rest[..rest.len() - 4]),
                "validate token error",
            ),
            (format!("{token}x"), "validate token error"),
            (
                "Basic dTpw".to_owned(),
                "the scheme \\\"Basic\\\" is not known",
            ),
            ("Bearer".to_owned(), "missing_token"),
            (
                "a.b.c".to_owned(),
                "validate token error: token is malformed",
            ),
        ];
        for (token, wanted) in cases {
            let (status, _, body) = ask(&token).await;
            assert!(
                status == 401 && body.contains(wanted),
                "{wanted}: {status} {body}"
            );
            assert!(
                !body.contains(&token[token.len().saturating_sub(20)..]) || token.len() < 20,
                "{body}"
            );
        }
        server.end().await;
    }

    #[tokio::test]
    async fn a_role_opens_what_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::new(folder.path(), "plant", Algorithm::EdDSA);
        let auth = AuthConfig {
            keys: folder.path().to_owned(),
        };
        let server = server(ApiLimits::default(), Some(auth), echo()).await;
        let ask = async |claims: Value, method: &str, path: &str| {
            let mut all = json!({"iss": "plant", "aud": "eKuiper"});
            all.as_object_mut()
                .unwrap()
                .extend(claims.as_object().unwrap().clone());
            let header = format!("Authorization: {}\r\n", issuer.token(&all));
            server.ask(&request(method, path, &header, "{}")).await.0
        };
        for (claims, read, operate, admin) in [
            (json!({"role": "read"}), 404, 403, 403),
            (json!({"role": "operate"}), 404, 404, 403),
            (json!({"roles": ["read", "admin"]}), 404, 404, 200),
            (json!({}), 404, 404, 200),
        ] {
            assert_eq!(ask(claims.clone(), "GET", "/rules").await, read, "{claims}");
            assert_eq!(
                ask(claims.clone(), "POST", "/rules/a/stop").await,
                operate,
                "{claims}"
            );
            assert_eq!(
                ask(claims.clone(), "POST", "/echo").await,
                admin,
                "{claims}"
            );
        }
        // Free paths, and what they keep to themselves.
        for path in ["/", "/ping", "/healthz"] {
            assert_eq!(server.get(path).await.0, 200, "{path}");
        }
        let (status, _, body) = server.get("/readyz").await;
        assert!(
            status == 503 && body.contains("\"count\":1") && !body.contains("plant"),
            "{body}"
        );
        assert_eq!(server.get("/events").await.0, 401);
        server.end().await;
    }

    #[tokio::test]
    async fn keys_that_are_put_there_changed_or_taken_away_count_soon() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("mgmt");
        let auth = AuthConfig { keys: keys.clone() };
        let server = server(ApiLimits::default(), Some(auth), echo()).await;
        let within = async |token: &str, wanted: u16| {
            let header = format!("Authorization: {token}\r\n");
            for _ in 0..100 {
                let (status, ..) = server.ask(&request("POST", "/echo", &header, "{}")).await;
                if status == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("never {wanted}");
        };
        let claims = json!({"iss": "plant", "aud": "eKuiper"});
        within("a.b.c", 401).await;
        std::fs::create_dir(&keys).unwrap();
        let first = Issuer::new(&keys, "plant", Algorithm::ES256).token(&claims);
        within(&first, 200).await;
        std::fs::write(keys.join("plant"), "no key").unwrap();
        within(&first, 401).await;
        let second = Issuer::new(&keys, "plant", Algorithm::EdDSA).token(&claims);
        within(&second, 200).await;
        within(&first, 401).await;
        std::fs::remove_file(keys.join("plant")).unwrap();
        within(&second, 401).await;
        server.end().await;
    }
}

#[tokio::test]
async fn a_client_is_answered_again_on_the_same_connection() {
    let server = server(ApiLimits::default(), None, echo()).await;
    let mut stream = TcpStream::connect(server.api.address).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(&request("POST", "/echo", "", "[1]"))
            .await
            .unwrap();
        let (status, _, body) = answer(&mut stream).await.unwrap();
        assert_eq!((status, &*body), (200, "[1]"));
    }
    server.end().await;
}
