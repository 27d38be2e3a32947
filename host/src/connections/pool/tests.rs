//! What the pool promises, shown with a connection type that fails as it is told to.

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::*;
use crate::connections::{Granted, Inbox, SubscribeOptions, SubscriptionGuard};
use crate::error::ConnectionError;

mod dialling;
mod fake;
mod sharing;

pub(crate) use fake::context;
use fake::{Mode, booting_pool, far, pool};

const T: &str = "default";
const SECOND: Duration = Duration::from_secs(1);

fn props(value: Value) -> Properties {
    value.as_object().unwrap().clone()
}

fn def(id: &str, value: Value) -> ConnectionDef {
    ConnectionDef {
        id: id.to_owned(),
        typ: "fake".to_owned(),
        props: props(value),
    }
}

/// A named connection to the far end of that name.
fn create(pool: &Pool, server: &str) {
    pool.create_named(T, def(server, json!({"server": server})))
        .unwrap();
}

/// Waits until the connection's word is that one; at most two minutes.
async fn until(pool: &Pool, id: &str, word: &str) -> Status {
    let mut status = pool.status(T, id).unwrap();
    let found = timeout(
        120 * SECOND,
        status.wait_for(|status| status.word() == word),
    )
    .await;
    found
        .unwrap_or_else(|_| panic!("{id} is never {word}"))
        .unwrap()
        .clone()
}

/// Waits until no task is left; at most ten seconds.
async fn no_tasks(pool: &Pool) {
    for _ in 0..1_000 {
        if pool.tasks() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} tasks are left", pool.tasks());
}

fn subscribe(lease: &Lease, filter: &str) -> (Arc<Inbox>, Box<dyn SubscriptionGuard>) {
    let inbox = Arc::<Inbox>::default();
    let guard = lease
        .subscribe(
            &[filter.to_owned()],
            &SubscribeOptions::default(),
            Arc::clone(&inbox),
        )
        .unwrap();
    (inbox, guard)
}
