//! A connector that does on purpose what a host must survive. What it does stands in its
//! configuration: `{"in": "open|read|write|close", "do": "..."}`; without it, it passes messages on.
//!
//! For tests only. Not an example of how to write a connector: see the others for that.

mod bindings {
    wit_bindgen::generate!({ path: "../../../wit", world: "connector" });
}
mod deeds;

use std::cell::{Cell, RefCell};

use bindings::exports::windlass::connector::{meta, sink, source};
use bindings::windlass::connector::messaging::{
    Client, PublishOptions, SubscribeOptions, Subscription,
};
use bindings::windlass::connector::types::{Batch, Error, Kind, Rejection};

#[derive(Default)]
struct State {
    /// The call in which to misbehave, and how.
    place: String,
    deed: String,
    subscription: Option<Subscription>,
    client: Option<Client>,
    reads: u64,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
    /// Handles kept over calls.
    static KEPT: RefCell<Vec<Batch>> = const { RefCell::new(Vec::new()) };
    static LEAKED: Cell<usize> = const { Cell::new(0) };
}

struct Misbehaving;

/// The text value of a key in flat JSON; enough for a configuration that a test writes.
fn value(config: &str, key: &str) -> String {
    let Some((_, rest)) = config.split_once(&format!("\"{key}\"")) else {
        return String::new();
    };
    rest.split('"').nth(1).unwrap_or_default().to_owned()
}

fn start(config: &str) {
    STATE.with_borrow_mut(|state| {
        state.place = value(config, "in");
        state.deed = value(config, "do");
    });
}

/// What to do in this call, if anything.
fn deed(place: &str) -> Option<String> {
    STATE.with_borrow(|state| (state.place == place).then(|| state.deed.clone()))
}

fn error(kind: Kind, code: &str) -> Error {
    Error {
        kind,
        code: code.into(),
        message: "on purpose".into(),
        retry_after_ms: Some(7),
    }
}

fn publish_options() -> PublishOptions {
    PublishOptions {
        subject: None,
        qos: None,
        retain: false,
        extra: Vec::new(),
    }
}

impl meta::Guest for Misbehaving {
    fn describe() -> meta::Descriptor {
        meta::Descriptor {
            name: "misbehaving".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "Does what a host must survive.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            slots: vec![meta::Slot {
                name: "broker".into(),
                interface: "messaging".into(),
                optional: true,
                description: "Where messages come from and go to.".into(),
            }],
        }
    }
}

impl source::Guest for Misbehaving {
    fn open(config: String, resume: Option<String>) -> Result<(), Error> {
        start(&config);
        if let Some(deed) = deed("open") {
            deeds::run(&deed)?;
        }
        let client = Client::open("broker")?;
        let options = SubscribeOptions {
            qos: None,
            extra: Vec::new(),
        };
        let subscription = client.subscribe(&["t/#".to_owned()], &options)?;
        STATE.with_borrow_mut(|state| {
            state.subscription = Some(subscription);
            state.client = Some(client);
            state.reads = resume.and_then(|text| text.parse().ok()).unwrap_or(0);
        });
        Ok(())
    }

    fn read() -> Result<source::Outcome, Error> {
        let deed = deed("read").unwrap_or_default();
        if deed == "stale" {
            // The batch of an earlier read, as if it were this one's.
            if let Some(kept) = KEPT.with_borrow_mut(Vec::pop) {
                return Ok(delivery(kept, None));
            }
        }
        if deed == "busy" {
            return Ok(delivery(Batch::from_texts(&[]), None));
        }
        let received = STATE.with_borrow(|state| match &state.subscription {
            Some(subscription) => subscription.receive(100, None),
            None => Err(error(Kind::Misconfigured, "closed")),
        });
        if deed == "blur" {
            // Whatever went wrong, it is called something else.
            return received
                .map(|batch| delivery(batch, None))
                .map_err(|_| error(Kind::Permanent, "blurred"));
        }
        let batch = received?;
        match deed.as_str() {
            "" => {}
            "keep" => {
                // A handle for each message, kept until the host takes offence.
                let all: Vec<u32> = (0..batch.len()).collect();
                KEPT.with_borrow_mut(|kept| -> Result<(), Error> {
                    for _ in &all {
                        kept.push(batch.select(&all)?);
                    }
                    Ok(())
                })?;
            }
            "stale" => {
                let copy = batch.select(&[])?;
                KEPT.with_borrow_mut(|kept| kept.push(copy));
            }
            "ignore-wakes" => loop {
                STATE.with_borrow(|state| match &state.subscription {
                    Some(subscription) => subscription.receive(100, None).map(drop),
                    None => Ok(()),
                })?;
            },
            "idle" => return Ok(source::Outcome::Idle(30)),
            "number" => {
                // Counts in the instance, where no successor finds it.
                let number = LEAKED.get() + 1;
                LEAKED.set(number);
                let texts = vec![number.to_string(); batch.len() as usize];
                return Ok(delivery(Batch::from_texts(&texts), None));
            }
            "lose" => {
                // What it finds when it is opened again, it throws away.
                let again = STATE.with_borrow_mut(|state| std::mem::take(&mut state.reads) > 0);
                if again {
                    return Ok(source::Outcome::Idle(1));
                }
                return Ok(delivery(batch, Some("1".to_owned())));
            }
            "parse" => {
                let texts = batch.texts();
                assert!(texts.iter().all(Option::is_some), "not a text");
            }
            "finish" => return Ok(source::Outcome::Finished),
            other => deeds::run(other)?,
        }
        let reads = STATE.with_borrow_mut(|state| {
            state.reads += 1;
            state.reads
        });
        Ok(delivery(batch, Some(reads.to_string())))
    }

    fn close() {
        if let Some(deed) = deed("close") {
            let _ = deeds::run(&deed);
        }
        // What a tidy author might do; the host must not take it for the end of the subscription.
        STATE.with_borrow_mut(|state| state.subscription = None);
    }
}

fn delivery(batch: Batch, checkpoint: Option<String>) -> source::Outcome {
    source::Outcome::Messages(source::Delivery { batch, checkpoint })
}

impl sink::Guest for Misbehaving {
    fn open(config: String) -> Result<(), Error> {
        start(&config);
        if let Some(deed) = deed("open") {
            deeds::run(&deed)?;
        }
        // The slot is optional: without a grant there is nothing to publish to.
        let client = Client::open("broker").ok();
        STATE.with_borrow_mut(|state| state.client = client);
        Ok(())
    }

    fn write(messages: Batch) -> Result<Vec<Rejection>, Error> {
        match deed("write").as_deref() {
            None => {}
            Some("reject-outside") => {
                return Ok(vec![Rejection {
                    index: messages.len(),
                    error: error(Kind::Permanent, "x"),
                }]);
            }
            Some("reject-first") => {
                return Ok(vec![Rejection {
                    index: 0,
                    error: error(Kind::Permanent, "x"),
                }]);
            }
            Some("poison") => {
                // Panics over one payload, as a parser might.
                let poisoned = messages
                    .texts()
                    .iter()
                    .flatten()
                    .any(|text| text == "poison");
                assert!(!poisoned, "cannot parse this");
            }
            Some("never-again") => {
                let before = LEAKED.get();
                LEAKED.set(before + 1);
                if before > 0 {
                    return Err(error(Kind::Permanent, "there already"));
                }
            }
            Some("not-empty") => assert!(messages.len() > 0, "nothing in it"),
            Some("collect") => {
                // Half of what it gets is kept for the next write.
                let texts: Vec<String> = messages.texts().into_iter().flatten().collect();
                let number = LEAKED.get() + texts.len();
                LEAKED.set(number);
                let sums = Batch::from_texts(&[number.to_string()]);
                return STATE
                    .with_borrow(|state| client(state)?.publish(&sums, &publish_options()));
            }
            Some("keep") => KEPT.with_borrow_mut(|kept| -> Result<(), Error> {
                for _ in 0..8 {
                    kept.push(messages.select(&[])?);
                }
                Ok(())
            })?,
            Some("blur") => {
                return STATE.with_borrow(|state| {
                    client(state)?
                        .publish(&messages, &publish_options())
                        .map_err(|_| error(Kind::Permanent, "blurred"))
                });
            }
            Some("publish-each") => {
                let all = messages.len();
                return STATE.with_borrow(|state| {
                    for index in 0..all {
                        let one = messages.select(&[index])?;
                        client(state)?.publish(&one, &publish_options())?;
                    }
                    Ok(Vec::new())
                });
            }
            Some(other) => deeds::run(other)?,
        }
        STATE.with_borrow(|state| client(state)?.publish(&messages, &publish_options()))
    }

    fn close() {
        if let Some(deed) = deed("close") {
            let _ = deeds::run(&deed);
        }
    }
}

fn client(state: &State) -> Result<&Client, Error> {
    state
        .client
        .as_ref()
        .ok_or_else(|| error(Kind::Misconfigured, "closed"))
}

bindings::export!(Misbehaving with_types_in bindings);
