use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::connections::dataport::DataPort;
use crate::connections::dataport::tests::{any_port, ask};
use crate::connections::pool::tests::context;
use crate::message::Delivery;

/// A connection that listens, its inbox for `/a`, and where.
struct Listening {
    connection: Arc<dyn Connection>,
    inbox: Arc<Inbox>,
    guard: Option<Box<dyn SubscriptionGuard>>,
    address: SocketAddr,
    context: Context,
}

fn build(props: &Value, port: &DataPort, id: &str) -> (Arc<dyn Connection>, Context) {
    let mut context = context("default", id);
    context.port = port.clone();
    let built = HttpPush::build(props.as_object().unwrap(), context.clone());
    (built.unwrap(), context)
}

async fn listen(props: Value) -> Listening {
    let port = any_port();
    port.takers_known();
    let (connection, context) = build(&props, &port, "one");
    connection.connect().await.unwrap();
    let inbox = Arc::new(Inbox::default());
    let guard = connection
        .messaging()
        .unwrap()
        .subscribe(
            &["/a".to_owned()],
            &SubscribeOptions::default(),
            Arc::clone(&inbox),
        )
        .unwrap();
    Listening {
        connection,
        inbox,
        guard: Some(guard),
        address: port.address().unwrap(),
        context,
    }
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /a HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn one(inbox: &Inbox) -> Delivery {
    let read = tokio::time::timeout(Duration::from_secs(5), inbox.receive(1)).await;
    read.unwrap().unwrap().pop().unwrap()
}

#[tokio::test]
async fn a_push_is_answered_when_its_message_is_settled_and_not_before() {
    let push = listen(json!({})).await;
    let mut asking = JoinSet::new();
    let bytes = post(
        "Authorization: Bearer s\r\nX-Station: 7\r\nUser-Agent: t\r\n",
        r#"{"t":1}"#,
    );
    let bytes = String::from_utf8(bytes)
        .unwrap()
        .replace("/a ", "/a?b=c ")
        .into_bytes();
    let address = push.address;
    asking.spawn(async move { ask(address, &bytes).await });
    let delivery = one(&push.inbox).await;
    assert_eq!(&*delivery.message.subject, "/a");
    assert_eq!(&delivery.message.payload[..], br#"{"t":1}"#);
    assert_eq!(
        delivery.message.headers.pairs(),
        [
            ("x-station".to_owned(), "7".to_owned()),
            (":query".to_owned(), "b=c".to_owned())
        ]
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(asking.try_join_next().is_none(), "answered too early");
    delivery.take.unwrap().settle();
    let (status, _, body) = asking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((status, body.as_str()), (200, "ok"));
    assert!(push.connection.was_useful());
    assert_eq!(push.context.traffic.messages_in.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_given_back_is_503_and_what_cannot_be_read_is_400_if_somebody_listens() {
    let push = listen(json!({})).await;
    let address = push.address;
    let mut asking = JoinSet::new();
    asking.spawn(async move { ask(address, &post("", "x")).await });
    drop(one(&push.inbox).await);
    let (status, head, _) = asking.join_next().await.unwrap().unwrap().unwrap();
    assert!(status == 503 && head.contains("retry-after"), "{head}");
    asking.spawn(async move { ask(address, &post("", "x")).await });
    let Delivery { message, take } = one(&push.inbox).await;
    let take = take.unwrap();
    assert!(!take.refuse(message.arrival.delivery + 1, "no"));
    assert!(take.refuse(message.arrival.delivery, "line 1: no JSON"));
    take.settle();
    let (status, _, body) = asking.join_next().await.unwrap().unwrap().unwrap();
    assert!(status == 400 && body.contains("line 1: no JSON"), "{body}");
    asking.spawn(async move { ask(address, &post("", "x")).await });
    let Delivery { message, take } = one(&push.inbox).await;
    asking.shutdown().await;
    let take = take.unwrap();
    let gone = async {
        while take.refuse(message.arrival.delivery, "no JSON") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .expect("nobody listens: it must be kept");
}

#[tokio::test]
async fn after_ten_seconds_an_unread_message_is_withdrawn_and_a_read_one_uncertain() {
    let push = listen(json!({})).await;
    let address = push.address;
    let began = Instant::now();
    let mut asking = JoinSet::new();
    asking.spawn(async move { ask(address, &post("", "read")).await });
    let read = one(&push.inbox).await;
    let unread = ask(address, &post("", "unread")).await.unwrap();
    assert_eq!(unread.0, 503);
    assert!(began.elapsed() > Duration::from_secs(9));
    assert!(push.inbox.is_empty(), "it is withdrawn");
    let uncertain = asking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(uncertain.0, 504);
    drop(read);
}

#[tokio::test]
async fn a_repetition_gets_the_first_outcome_also_while_that_is_under_way() {
    let push = listen(json!({})).await;
    let address = push.address;
    let mut asking = JoinSet::new();
    for _ in 0..3 {
        asking.spawn(async move { ask(address, &post("Idempotency-Key: k\r\n", "x")).await });
    }
    let delivery = one(&push.inbox).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(push.inbox.is_empty(), "one message for all");
    let other = ask(address, &post("Idempotency-Key: k\r\n", "y"))
        .await
        .unwrap();
    assert_eq!(other.0, 422);
    delivery.take.unwrap().settle();
    while let Some(answered) = asking.join_next().await {
        assert_eq!(answered.unwrap().unwrap().0, 200);
    }
    let later = ask(address, &post("Idempotency-Key: k\r\n", "x"))
        .await
        .unwrap();
    assert_eq!(later.0, 200);
    assert!(push.inbox.is_empty());
}

#[tokio::test]
async fn a_taker_that_goes_leaves_503_and_never_200() {
    let mut push = listen(json!({})).await;
    let address = push.address;
    let mut asking = JoinSet::new();
    asking.spawn(async move { ask(address, &post("", "x")).await });
    while push.inbox.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(push.guard.take());
    // As the rules do with what waits for a taker that has gone.
    push.inbox.close();
    for delivery in push.inbox.try_receive(100).unwrap().unwrap_or_default() {
        delivery.take.unwrap().settle();
    }
    let (status, ..) = asking.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(status, 503);
    let (status, ..) = ask(address, &post("", "x")).await.unwrap();
    assert_eq!(status, 503, "the rule is stopped");
}

#[tokio::test]
async fn a_path_has_its_token_or_the_connections() {
    let push = listen(json!({"token": "general", "tokens": {"/a": "special"}})).await;
    for (header, expected) in [
        ("", 401),
        ("Authorization: Bearer general\r\n", 401),
        ("Authorization: Basic special\r\n", 401),
        ("Authorization: bearer special\r\n", 200),
    ] {
        let mut asking = JoinSet::new();
        let (address, bytes) = (push.address, post(header, "x"));
        asking.spawn(async move { ask(address, &bytes).await });
        if expected == 200 {
            one(&push.inbox).await.take.unwrap().settle();
        }
        let (status, _, body) = asking.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(status, expected, "{header} {body}");
        assert!(!body.contains("special") && !body.contains("general"));
    }
}

#[tokio::test]
async fn what_is_under_way_is_bounded() {
    let port = any_port();
    port.takers_known();
    let mut context = context("default", "one");
    context.port = port.clone();
    context.limits.unsettled_messages = 2;
    let connection = HttpPush::build(&Properties::new(), context).unwrap();
    connection.connect().await.unwrap();
    let inbox = Arc::new(Inbox::default());
    let options = SubscribeOptions::default();
    let messaging = connection.messaging().unwrap();
    let _guard = messaging
        .subscribe(&["/a".to_owned()], &options, Arc::clone(&inbox))
        .unwrap();
    let address = port.address().unwrap();
    let mut asking = JoinSet::new();
    for _ in 0..2 {
        asking.spawn(async move { ask(address, &post("", "x")).await });
    }
    let held = [one(&inbox).await, one(&inbox).await];
    let (status, ..) = ask(address, &post("", "x")).await.unwrap();
    assert_eq!(status, 503);
    drop(held);
    while asking.join_next().await.is_some() {}
    asking.spawn(async move { ask(address, &post("", "x")).await });
    one(&inbox).await.take.unwrap().settle();
    assert_eq!(asking.join_next().await.unwrap().unwrap().unwrap().0, 200);
}

#[tokio::test]
async fn a_message_for_two_takers_is_answered_when_both_have_settled() {
    let push = listen(json!({})).await;
    let second = Arc::new(Inbox::default());
    let options = SubscribeOptions::default();
    let messaging = push.connection.messaging().unwrap();
    let _guard = messaging
        .subscribe(&["/a".to_owned()], &options, Arc::clone(&second))
        .unwrap();
    let address = push.address;
    let mut asking = JoinSet::new();
    asking.spawn(async move { ask(address, &post("", "x")).await });
    one(&push.inbox).await.take.unwrap().settle();
    let other = one(&second).await;
    assert!(asking.try_join_next().is_none());
    other.take.unwrap().settle();
    assert_eq!(asking.join_next().await.unwrap().unwrap().unwrap().0, 200);
}

#[tokio::test]
async fn mistakes_name_the_property_and_never_a_secret() {
    let port = any_port();
    for (props, place, words) in [
        (
            json!({"datasource": "a"}),
            "/props/datasource",
            "begins with",
        ),
        (
            json!({"datasource": "/a?b"}),
            "/props/datasource",
            "begins with",
        ),
        (
            json!({"method": "PST"}),
            "/props/method",
            "did you mean \"POST\"?",
        ),
        (
            json!({"tokens": {"x": "verysecret"}}),
            "/props/tokens",
            "begins with",
        ),
        (
            json!({"tokens": {"/x": 12345678}}),
            "/props/tokens",
            "must be an object",
        ),
        (json!({"token": ""}), "/props/token", "is empty"),
        (
            json!({"maxBodyBytes": 0}),
            "/props/maxBodyBytes",
            "from 1 to",
        ),
        (
            json!({"maxBodyByte": 1}),
            "/props/maxBodyByte",
            "maxBodyBytes",
        ),
    ] {
        let mut context = context("default", "one");
        context.port = port.clone();
        let errors = HttpPush::build(props.as_object().unwrap(), context).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].at, place);
        assert!(errors[0].message.contains(words), "{}", errors[0].message);
        assert!(!errors[0].message.contains("verysecret"));
    }
    let (connection, _) = build(&json!({"datasource": "/only"}), &port, "one");
    let subscribe = |connection: &Arc<dyn Connection>, path: &str, extra: &[(&str, &str)]| {
        let options = SubscribeOptions {
            extra: extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..SubscribeOptions::default()
        };
        let inbox = Arc::new(Inbox::default());
        let messaging = connection.messaging().unwrap();
        messaging.subscribe(&[path.to_owned()], &options, inbox)
    };
    let error = subscribe(&connection, "/other", &[]).unwrap_err();
    assert!(error.message.contains("\"/only\""), "{}", error.message);
    let error = subscribe(&connection, "/only", &[("method", "GET")]).unwrap_err();
    assert!(error.message.contains("POST, PUT"), "{}", error.message);
    let _kept = subscribe(&connection, "/only", &[("method", "PUT")]).unwrap();
    let (other, _) = build(&json!({}), &port, "two");
    let error = subscribe(&other, "/only", &[("method", "PUT")]).unwrap_err();
    assert!(error.message.contains("\"one\""), "{}", error.message);
    let endpoint = |props: Value| HttpPush::exclusive_endpoint(props.as_object().unwrap());
    assert_eq!(endpoint(json!({})), None);
    assert_eq!(
        endpoint(json!({"Datasource": "/a", "method": "put"})).as_deref(),
        Some("PUT /a")
    );
}
