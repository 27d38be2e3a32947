//! The action between scripted neighbours: a sink, its links, a graveyard; the disk queue is real.

mod order;
mod stops;
mod storm;

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::config::Overflow;
use crate::message::Rejection;
use crate::rules::deliver::WriteError;
use crate::rules::settle::{Ledger, Settle};
use crate::rules::spill::{HostBounds, Position, SpillError, SpillOptions, SpillSet, SpillStats};

type Answer = Result<Vec<Rejection>, WriteError>;
/// How long a write takes, what it answers, and how many messages arrived if that is an error.
type Step = (Duration, Answer, usize);

const FOR_EVER: Duration = Duration::from_secs(1_000_000);
const AT_ONCE: Duration = Duration::ZERO;

fn ok(after: Duration) -> Step {
    (after, Ok(Vec::new()), 0)
}

fn said(error: ConnectionError) -> Step {
    (AT_ONCE, Err(WriteError::Said(error)), 0)
}

type Steps = Box<dyn FnMut(&[u32]) -> Step + Send>;

/// What a sink does, and what became of it.
struct Script {
    step: Mutex<Steps>,
    written: Mutex<Vec<u32>>,
    writing: AtomicU64,
    put_away: AtomicU64,
    closed: AtomicU64,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a script, {} written", self.written.lock().len())
    }
}

impl Script {
    fn set(&self, step: impl FnMut(&[u32]) -> Step + Send + 'static) {
        *self.step.lock() = Box::new(step);
    }
}

#[derive(Debug)]
struct ScriptedSink(Arc<Script>, watch::Receiver<bool>);

#[async_trait]
impl Writer for ScriptedSink {
    async fn write(&mut self, batch: Batch) -> Answer {
        let numbers: Vec<u32> = batch.iter().map(number).collect();
        let (after, answer, arrived) = (self.0.step.lock())(&numbers);
        self.0.writing.fetch_add(1, Ordering::Relaxed);
        // In small steps, as a write does that sends and waits many times.
        let end = Instant::now() + after;
        while Instant::now() < end {
            sleep((end - Instant::now()).min(Duration::from_millis(10).max(after / 100))).await;
        }
        let mut written = self.0.written.lock();
        match &answer {
            Ok(rejected) => {
                let rejected: BTreeSet<u32> =
                    rejected.iter().map(|rejection| rejection.index).collect();
                let arrived = numbers
                    .iter()
                    .zip(0..)
                    .filter(|(_, place)| !rejected.contains(place));
                written.extend(arrived.map(|(number, _)| number));
            }
            Err(_) => written.extend(numbers.iter().take(arrived)),
        }
        answer
    }

    async fn slots_up(&mut self) {
        self.1.wait_for(|up| *up).await.unwrap();
    }
}

#[async_trait]
impl Sink for ScriptedSink {
    async fn put_away(&mut self) {
        self.0.put_away.fetch_add(1, Ordering::Relaxed);
    }
    async fn close(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct ScriptedLinks(watch::Receiver<bool>);

#[async_trait]
impl Links for ScriptedLinks {
    fn are_up(&self) -> bool {
        *self.0.borrow()
    }
    async fn changed(&self) {
        let mut links = self.0.clone();
        links.borrow_and_update();
        links.changed().await.unwrap();
    }
}

#[derive(Debug, Default)]
struct Graves {
    buried: Mutex<Vec<u32>>,
    full: AtomicBool,
}

#[async_trait]
impl Graveyard for Graves {
    async fn bury(
        &self,
        batch: &Batch,
        _reason: &ConnectionError,
        _attempts: u32,
    ) -> Result<(), String> {
        if self.full.load(Ordering::Relaxed) {
            return Err("the dead letters are full".into());
        }
        self.buried.lock().extend(batch.iter().map(number));
        Ok(())
    }
}

/// A disk that takes its time.
#[derive(Debug)]
struct SlowDisk(Arc<dyn Spill>, Duration);

#[async_trait]
impl Spill for SlowDisk {
    async fn append(&self, messages: Vec<Message>) -> Result<Position, SpillError> {
        sleep(self.1).await;
        self.0.append(messages).await
    }
    async fn append_last(&self, messages: Vec<Message>) -> Result<Position, SpillError> {
        self.0.append_last(messages).await
    }
    async fn peek(
        &self,
        messages: usize,
        bytes: usize,
    ) -> Result<Vec<(Position, Message)>, SpillError> {
        self.0.peek(messages, bytes).await
    }
    async fn advance(&self, position: Position) -> Result<(), SpillError> {
        self.0.advance(position).await
    }
    async fn close(&self) -> Result<(), SpillError> {
        self.0.close().await
    }
    async fn clear(&self) -> Result<u64, SpillError> {
        self.0.clear().await
    }
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    fn stats(&self) -> SpillStats {
        self.0.stats()
    }
}

/// What a read has taken: tells when it settles.
#[derive(Debug)]
struct Taken(u32, Arc<Mutex<Vec<u32>>>, Arc<AtomicBool>);

impl Settle for Taken {
    fn settle(self: Box<Self>) {
        self.1.lock().push(self.0);
    }
    fn lossless(&self) -> bool {
        true
    }
    fn presses(&self) -> bool {
        self.2.load(Ordering::Relaxed)
    }
}

fn number(message: &Message) -> u32 {
    String::from_utf8_lossy(&message.payload).parse().unwrap()
}

fn numbered(number: u32) -> Batch {
    Batch::from(vec![Message::new(number.to_string())])
}

/// Everything around one action; the disk stays when the action ends.
struct Bench {
    _folder: TempDir,
    set: Arc<SpillSet>,
    options: SpillOptions,
    script: Arc<Script>,
    graves: Arc<Graves>,
    links: watch::Sender<bool>,
    settled: Arc<Mutex<Vec<u32>>>,
    pressing: Arc<AtomicBool>,
    ledger: Ledger,
}

struct Running {
    action: Arc<Action>,
    stop: watch::Sender<Option<Instant>>,
    changes: Arc<Mutex<Vec<Option<String>>>>,
    task: JoinSet<()>,
}

impl Bench {
    async fn new(options: SpillOptions) -> Self {
        let folder = TempDir::new().unwrap();
        let set = SpillSet::open(folder.path(), HostBounds::default()).await;
        let script = Script {
            step: Mutex::new(Box::new(|_| ok(AT_ONCE))),
            written: Mutex::default(),
            writing: AtomicU64::new(0),
            put_away: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        };
        Self {
            _folder: folder,
            set,
            options,
            script: Arc::new(script),
            graves: Arc::default(),
            links: watch::channel(true).0,
            settled: Arc::default(),
            pressing: Arc::default(),
            ledger: Ledger::new(),
        }
    }

    fn disk(&self) -> Arc<dyn Spill> {
        self.set
            .queue("default", "rule", "sink_0", self.options.clone())
    }

    fn start(&self, capacity: usize) -> Running {
        self.run(Action::new("sink_0".to_owned(), capacity, self.disk()))
    }

    fn run(&self, action: Action) -> Running {
        let action = Arc::new(action);
        let (stop, signal) = watch::channel(None);
        let changes: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let task = {
            let (action, graves, changes) = (
                Arc::clone(&action),
                Arc::clone(&self.graves),
                Arc::clone(&changes),
            );
            let sink = ScriptedSink(Arc::clone(&self.script), self.links.subscribe());
            let links = ScriptedLinks(self.links.subscribe());
            async move {
                let note = |reason: Option<&Stop>| {
                    changes.lock().push(reason.map(|reason| reason.0.clone()))
                };
                action.run(sink, &*graves, &links, signal, note).await;
            }
        };
        Running {
            action,
            stop,
            changes,
            task: [task].into_iter().collect(),
        }
    }

    /// A read of one message for which somebody waits.
    fn send(&self, running: &Running, number: u32) {
        let ticket = self.ticket(number);
        assert!(
            running
                .action
                .accept(numbered(number), vec![ticket], Admission::Always)
        );
    }

    fn ticket(&self, number: u32) -> Ticket {
        let taken = Taken(
            number,
            Arc::clone(&self.settled),
            Arc::clone(&self.pressing),
        );
        self.ledger.open(Some(Box::new(taken)), None, 1)
    }

    fn written(&self) -> Vec<u32> {
        self.script.written.lock().clone()
    }

    fn settled(&self) -> Vec<u32> {
        self.settled.lock().clone()
    }
}

impl Running {
    /// Ends it as the engine does.
    async fn end(mut self, patience: Duration) {
        self.action.close();
        self.stop.send_replace(Some(Instant::now() + patience));
        self.task.join_next().await.unwrap().unwrap();
    }
}

/// Waits, 200 s at most, for what must become so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if so() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("in 200 s it did not come so far: {what}");
}

fn all(count: u32) -> Vec<u32> {
    (0..count).collect()
}
