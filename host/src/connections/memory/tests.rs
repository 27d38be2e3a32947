//! What rules may rely on between each other.

use serde_json::json;

use super::*;
use crate::connections::pool::tests::context;

fn attached(bus: &Bus, tenant: &str) -> Arc<dyn Connection> {
    attach(&Properties::new(), &context(tenant, "m"), bus).unwrap()
}

fn batch(subjects: &[&str]) -> Batch {
    let message = |subject: &&str| Message {
        subject: (*subject).into(),
        ..Message::new("x")
    };
    subjects.iter().map(message).collect::<Vec<_>>().into()
}

fn subscribe(
    connection: &dyn Connection,
    filter: &str,
    inbox: &Arc<Inbox>,
) -> Box<dyn SubscriptionGuard> {
    let messaging = connection.messaging().unwrap();
    messaging
        .subscribe(
            &[filter.to_owned()],
            &SubscribeOptions::default(),
            Arc::clone(inbox),
        )
        .unwrap()
}

async fn publish(
    connection: &dyn Connection,
    batch: &Batch,
) -> Result<Vec<Rejection>, ConnectionError> {
    connection
        .messaging()
        .unwrap()
        .publish(batch, &PublishOptions::default())
        .await
}

#[tokio::test]
async fn a_message_reaches_every_taker_of_its_tenant_and_nobody_else() {
    let bus = Bus::default();
    let (ours, theirs) = (attached(&bus, "a"), attached(&bus, "b"));
    let (one, two, foreign) = (Arc::<Inbox>::default(), Arc::default(), Arc::default());
    let guard = subscribe(&*ours, "plant/+/temp", &one);
    let _second = subscribe(&*attached(&bus, "a"), "plant/#", &two);
    let _foreign = subscribe(&*theirs, "#", &foreign);
    publish(&*ours, &batch(&["plant/1/temp", "plant/1", "other"]))
        .await
        .unwrap();
    assert_eq!((one.len(), two.len(), foreign.len()), (1, 2, 0));
    drop(guard);
    publish(&*ours, &batch(&["plant/1/temp"])).await.unwrap();
    assert_eq!((one.len(), two.len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_taker_that_is_full_makes_the_publisher_wait_and_then_say_so() {
    let bus = Bus::default();
    let connection = attached(&bus, "a");
    let inbox = Arc::<Inbox>::default();
    let _guard = subscribe(&*connection, "t", &inbox);
    while inbox
        .offer(Delivery {
            message: Message::new("x"),
            take: None,
        })
        .is_ok()
    {}
    let began = Instant::now();
    let refused = publish(&*connection, &batch(&["t", "t"]))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.kind, began.elapsed()),
        (crate::error::ErrorKind::Transient, PATIENCE)
    );
    let two = batch(&["t", "t"]);
    let (sent, taken) = tokio::join!(publish(&*connection, &two), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        inbox.receive(2).await.unwrap().len()
    });
    assert_eq!((sent.unwrap().len(), taken, inbox.dropped()), (0, 2, 0));
}

#[tokio::test]
async fn what_memory_cannot_do_is_refused_with_its_name() {
    let bus = Bus::default();
    let props = json!({"topic": "x"}).as_object().unwrap().clone();
    assert!(
        attach(&props, &context("a", "m"), &bus).unwrap_err()[0]
            .to_string()
            .contains("/props/topic")
    );
    let connection = attached(&bus, "a");
    let messaging = connection.messaging().unwrap();
    for bad in ["", "a/#/b", "a+"] {
        let refused = messaging.subscribe(
            &[bad.to_owned()],
            &SubscribeOptions::default(),
            Arc::default(),
        );
        assert_eq!(
            refused.unwrap_err().kind,
            crate::error::ErrorKind::Misconfigured,
            "{bad}"
        );
    }
    let rejected = publish(&*connection, &batch(&["a/+", "ok"])).await.unwrap();
    assert_eq!((rejected.len(), rejected[0].index), (1, 0));
}

#[test]
fn filters_match_as_in_mqtt() {
    for (filter, subject, taken) in [
        ("a/b", "a/b", true),
        ("a/b", "a", false),
        ("a", "a/b", false),
        ("a/+", "a/b", true),
        ("a/+", "a/b/c", false),
        ("#", "a/b", true),
        ("a/#", "a", true),
        ("+/b", "a/b", true),
        ("a/+", "a", false),
    ] {
        assert_eq!(matches(filter, subject), taken, "{filter} {subject}");
    }
}
