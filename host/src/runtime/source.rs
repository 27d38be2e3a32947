//! A source in use: reads, and everything that must happen to its instances between reads.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::Instance as Made;

use super::connector::{Connector, Linked};
use super::error::GuestError;
use super::instance::{Ended, Export, Instance, Use, account, run};
use super::restarts::Restarts;
use super::state::State;
use super::{GuestConfig, Runtime};
use crate::interfaces::bindings::exports::windlass::connector::source;
use crate::interfaces::bindings::windlass::connector::types;
use crate::interfaces::{GuestStats, Phase, Role, Taken, Wake, from_guest};
use crate::message::{Batch, Delivery, Message, Take};

/// What a read gave.
#[derive(Debug)]
pub enum Read {
    /// Messages; none at all is no harm. What was taken for them is final when `takes` is settled.
    Messages {
        /// The messages.
        batch: Batch,
        /// Where to go on after them.
        checkpoint: Option<String>,
        /// What the read took from its connections.
        takes: Takes,
    },
    /// Nothing now; read again after so long, or when the waker was used.
    Idle(Duration),
    /// Nothing more, ever.
    Finished,
}

/// What one read took from its connections. Dropped without [`Takes::settle`] it is abandoned: the
/// other side will send the messages again.
#[derive(Debug, Default)]
#[must_use = "takes that are dropped are messages that are not acknowledged"]
pub struct Takes {
    takes: Vec<Take>,
    received: bool,
}

impl Takes {
    fn new(taken: Vec<Taken>) -> Self {
        let received = !taken.is_empty();
        Self {
            takes: taken.into_iter().flat_map(Taken::into_takes).collect(),
            received,
        }
    }

    /// The read received something, whether anybody waits for it or not.
    #[must_use]
    pub fn received(&self) -> bool {
        self.received
    }

    /// All of it is final: acknowledges in the order in which it arrived.
    pub fn settle(self) {
        self.takes.into_iter().for_each(Take::settle);
    }

    /// Tells the sender of the delivery with this key that it cannot be read. True: it will be told.
    #[must_use]
    pub fn refuse(&self, delivery: u64, reason: &str) -> bool {
        self.takes.iter().any(|take| take.refuse(delivery, reason))
    }

    /// Its sender is at a standstill until it is settled. The first of several is asked: it has
    /// waited longest.
    #[must_use]
    pub fn presses(&self) -> bool {
        self.takes.first().is_some_and(Take::presses)
    }

    /// Nobody upstream waits for any of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.takes.is_empty()
    }

    /// Somebody upstream waits for the acknowledgement.
    #[must_use]
    pub fn lossless(&self) -> bool {
        !self.takes.is_empty()
    }

    /// How many deliveries wait for it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.takes.len()
    }
}

/// Asks a source's guest to return from `read` soon, from any task. Level-triggered: the wait that
/// is under way ends, or the next one does.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Wake>);

impl Waker {
    /// Asks now. The guest's `receive` answers with an empty batch; a guest that goes on three times
    /// regardless is replaced.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// The subscriptions of a source that has ended, for the one that comes in its place: what arrives
/// meanwhile waits in them. Dropped, they end, and the other side sends again what nobody took.
#[derive(Debug)]
pub struct KeptSubscriptions(Arc<crate::interfaces::Subscriptions>);

/// The queues of a source's subscriptions, for whoever does not hold the source.
#[derive(Clone, Debug)]
pub struct Inboxes(Arc<crate::interfaces::Subscriptions>);

impl Inboxes {
    /// Somebody upstream waits for a message that nobody has read yet.
    #[must_use]
    pub fn are_awaited(&self) -> bool {
        self.0.are_awaited()
    }
}

/// A source in use. Its methods belong on [`Runtime::handle`].
pub struct SourceGuest {
    used: Use,
    instance: Option<Instance<source::Guest>>,
    /// The newest checkpoint that a read returned.
    resume: Option<String>,
    restarts: Restarts,
}

impl fmt::Debug for SourceGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceGuest")
            .field("connector", &self.used.connector.name)
            .field("rule", &self.used.config.rule)
            .field("running", &self.instance.is_some())
            .finish_non_exhaustive()
    }
}

impl SourceGuest {
    /// A source that has not started: no instance yet.
    #[must_use]
    pub fn new(runtime: &Runtime, connector: Arc<Connector>, config: GuestConfig) -> Self {
        let used = Use::new(runtime, connector, config, Role::Source);
        Self {
            used,
            instance: None,
            resume: None,
            restarts: Restarts::default(),
        }
    }

    /// Opens a new instance at a checkpoint, in place of the present one if there is one.
    ///
    /// # Errors
    /// What the guest said, or why no instance runs. The subscriptions of the one before are kept
    /// for the next attempt.
    pub async fn open(&mut self, resume: Option<String>) -> Result<(), GuestError> {
        self.resume = resume;
        self.put_away().await;
        self.restarts.pause().await;
        self.instance = Some(self.start().await?);
        Ok(())
    }

    /// Reads once. Makes an instance first if there is none, or if the present one is worn; waits for
    /// that only after many failures, and then as [`Read::Idle`].
    ///
    /// # Errors
    /// What the guest said, or how it failed. What the read took is back at the heads of its queues.
    ///
    /// # Cancel safety
    /// Dropped half-way, what was taken goes back and the instance is replaced at the next read.
    pub async fn read(&mut self) -> Result<Read, GuestError> {
        let ready = match self.instance.take() {
            Some(instance) => match instance.worn(&self.used) {
                Some(worn) => {
                    worn.count(&self.used.stats);
                    instance.close(&self.used).await;
                    None
                }
                None => Some(instance),
            },
            None => None,
        };
        let mut instance = match ready {
            Some(instance) => instance,
            None => {
                let wait = self.restarts.wait(Instant::now());
                if !wait.is_zero() {
                    return Ok(Read::Idle(wait));
                }
                self.start().await?
            }
        };
        instance.meter.begin(Phase::Read);
        let Instance {
            meter,
            exports,
            calls,
            ..
        } = &mut instance;
        *calls += 1;
        let outcome = {
            let call = exports.call_read(&mut meter.store);
            run(
                &self.used.runtime,
                &meter.clock,
                self.used.limits().call_deadline,
                call,
            )
            .await
        };
        account(&self.used.stats, &meter.clock);
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                meter.host().give_back();
                meter.end();
                self.instance = Some(instance);
                return Err(self.used.said(Phase::Read, from_guest(error)));
            }
            Err(ended) => return Err(self.lost(Phase::Read, &ended, instance)),
        };
        let read = match outcome {
            source::Outcome::Messages(delivery) => match meter.host().returned(&delivery.batch) {
                Ok(batch) => {
                    if delivery.checkpoint.is_some() {
                        self.resume.clone_from(&delivery.checkpoint);
                    }
                    let takes = Takes::new(meter.host().taken());
                    Read::Messages {
                        batch,
                        checkpoint: delivery.checkpoint,
                        takes,
                    }
                }
                Err(error) => {
                    let ended = Ended::Failed(error);
                    return Err(self.lost(Phase::Read, &ended, instance));
                }
            },
            source::Outcome::Idle(ms) => {
                Takes::new(meter.host().taken()).settle();
                Read::Idle(Duration::from_millis(ms.into()))
            }
            source::Outcome::Finished => {
                Takes::new(meter.host().taken()).settle();
                Read::Finished
            }
        };
        meter.end();
        self.instance = Some(instance);
        Ok(read)
    }

    /// Closes the instance. The subscriptions stay, and so do the messages that wait in them: the
    /// next `read` goes on with a new instance at the newest checkpoint.
    pub async fn put_away(&mut self) {
        if let Some(instance) = self.instance.take() {
            instance.close(&self.used).await;
        }
    }

    /// Closes the instance. Subscriptions end when this value is dropped; see
    /// [`SourceGuest::unsubscribe`] for a rule that will not come back.
    pub async fn close(&mut self) {
        self.put_away().await;
    }

    /// Ends all subscriptions. What waited in them is settled, because nobody will take it any more;
    /// how many messages that were. Not for a host that stops: there, drop this value.
    pub fn unsubscribe(&mut self) -> usize {
        self.used.subscriptions.end_all()
    }

    /// Its subscriptions, for the source that comes in its place. Close it first.
    #[must_use]
    pub fn keep(&self) -> KeptSubscriptions {
        KeptSubscriptions(Arc::clone(&self.used.subscriptions))
    }

    /// Goes on with the subscriptions of another source on the same connections. Before `open`.
    pub fn take_over(&mut self, kept: KeptSubscriptions) {
        kept.0.hand_over();
        self.used.subscriptions = kept.0;
    }

    /// From now on reads take one message each, for a while: they fail, and it has to be found out
    /// which message does it.
    pub fn look_closely(&mut self) {
        self.used.subscriptions.look_closely();
    }

    /// From now on a `receive` gives so many messages at most: nobody wants more, and what stays in
    /// the inbox is not taken from the other side.
    pub fn bound(&mut self, most: usize) {
        self.used.subscriptions.bound(most);
    }

    /// Takes away the one message on which the last read failed, if it is known, with its take.
    pub fn take_suspect(&mut self) -> Option<(Message, Takes)> {
        let Delivery { message, take } = self.used.subscriptions.take_suspect()?;
        Some((
            message,
            Takes {
                takes: take.into_iter().collect(),
                received: true,
            },
        ))
    }

    /// Messages that wait in its subscriptions.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.used.subscriptions.waiting()
    }

    /// The queues of its subscriptions.
    #[must_use]
    pub fn inboxes(&self) -> Inboxes {
        Inboxes(Arc::clone(&self.used.subscriptions))
    }

    /// How another task asks for the guest back.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.used.wake))
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> Arc<GuestStats> {
        Arc::clone(&self.used.stats)
    }

    async fn start(&mut self) -> Result<Instance<source::Guest>, GuestError> {
        self.used.subscriptions.release();
        let resume = self.resume.as_deref();
        let instance = self.used.start(&mut self.restarts, resume).await?;
        self.used.subscriptions.end_unclaimed();
        Ok(instance)
    }

    /// The call did not come back: the instance goes, and with it, to their queues, what it took.
    fn lost(
        &mut self,
        phase: Phase,
        ended: &Ended,
        instance: Instance<source::Guest>,
    ) -> GuestError {
        self.restarts.failed(Instant::now(), rand::random());
        instance.lost(&self.used, phase, ended)
    }
}

impl Export for source::Guest {
    const NAME: &'static str = "source";

    fn load(
        linked: &Linked,
    ) -> Option<impl FnOnce(&mut Store<State>, &Made) -> wasmtime::Result<Self> + Send> {
        let indices = linked.source.as_ref()?;
        Some(|store: &mut Store<State>, made: &Made| indices.load(store, made))
    }

    fn open(
        &self,
        store: &mut Store<State>,
        config: &str,
        resume: Option<&str>,
    ) -> impl Future<Output = wasmtime::Result<Result<(), types::Error>>> + Send {
        self.call_open(store, config, resume)
    }

    fn close(&self, store: &mut Store<State>) -> impl Future<Output = wasmtime::Result<()>> + Send {
        self.call_close(store)
    }
}
