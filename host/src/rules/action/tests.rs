//! The action between scripted neighbours: a sink, its links, a graveyard; the disk queue is real.

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
use crate::rules::spill::{SpillOptions, SpillSet, SpillStats};

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
struct Taken(u32, Arc<Mutex<Vec<u32>>>);

impl Settle for Taken {
    fn settle(self: Box<Self>) {
        self.1.lock().push(self.0);
    }
    fn lossless(&self) -> bool {
        true
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
        let set = SpillSet::open(folder.path(), None).await;
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
        self.ledger.open(
            Some(Box::new(Taken(number, Arc::clone(&self.settled)))),
            None,
            1,
        )
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

#[tokio::test(start_paused = true)]
async fn with_a_fast_sink_nothing_touches_the_disk_and_reads_settle_in_order() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_millis(1)));
    let running = bench.start(1024);
    for number in 0..500 {
        bench.send(&running, number);
        if number % 10 == 0 {
            sleep(Duration::from_millis(3)).await;
        }
    }
    until("all settled", || bench.settled().len() == 500).await;
    assert_eq!((bench.written(), bench.settled()), (all(500), all(500)));
    assert_eq!(running.action.spilled.load(Ordering::Relaxed), 0);
    assert_eq!(
        (running.action.disk().len(), running.action.disk().bytes()),
        (0, 0)
    );
    running.end(AT_ONCE).await;
    assert_eq!(bench.script.closed.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn while_links_are_down_everything_is_on_disk_and_settled_and_arrives_once_afterwards() {
    let bench = Bench::new(SpillOptions::default()).await;
    // The batch in hand hangs in its write when the links go.
    bench.script.set(|_| ok(Duration::from_secs(30)));
    let running = bench.start(1024);
    bench.send(&running, 0);
    until("a write", || {
        bench.script.writing.load(Ordering::Relaxed) == 1
    })
    .await;
    bench.links.send_replace(false);
    let begin = Instant::now();
    for number in 1..100 {
        bench.send(&running, number);
        sleep(Duration::from_millis(2)).await;
    }
    until("all settled", || bench.settled().len() == 100).await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "after {:?}",
        begin.elapsed()
    );
    assert_eq!((bench.written(), bench.settled()), (Vec::new(), all(100)));
    bench.script.set(|_| ok(AT_ONCE));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        bench.written(),
        [0],
        "only the write that was under way has ended"
    );
    bench.links.send_replace(true);
    until("all written", || bench.written().len() >= 100).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.written(), all(100));
    assert!(running.action.disk().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_links_alone_is_settled_at_once() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(1024);
    let begin = Instant::now();
    bench.send(&running, 0);
    until("settled", || bench.settled() == [0]).await;
    assert!(
        begin.elapsed() < Duration::from_millis(50),
        "after {:?}",
        begin.elapsed()
    );
    // And so are those that come one by one, long after.
    for number in 1..5 {
        sleep(Duration::from_secs(3)).await;
        bench.send(&running, number);
        sleep(Duration::from_millis(20)).await;
        assert_eq!(bench.settled(), all(number + 1));
    }
    bench.links.send_replace(true);
    until("all written", || bench.written() == all(5)).await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_slow_sink_messages_go_to_disk_after_a_tenth_of_a_second_in_order() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_millis(300)));
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_millis(20)).await;
    bench.send(&running, 1);
    sleep(Duration::from_millis(80)).await;
    assert_eq!(
        bench.settled(),
        [] as [u32; 0],
        "a tenth of a second is not over"
    );
    until("both settled", || bench.settled() == [0, 1]).await;
    assert!(bench.written().is_empty(), "the write is still under way");
    for number in 2..200 {
        bench.send(&running, number);
        sleep(Duration::from_millis(7)).await;
    }
    until("all written", || bench.written().len() >= 200).await;
    assert_eq!((bench.written(), bench.settled()), (all(200), all(200)));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_takes_long_holds_its_own_messages_a_second_at_most() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_secs(30)));
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_millis(900)).await;
    assert!(bench.settled().is_empty());
    sleep(Duration::from_millis(200)).await;
    assert_eq!((bench.settled(), bench.written()), (vec![0], Vec::new()));
    until("written", || bench.written() == [0]).await;
    until("nothing is left on disk", || {
        running.action.disk().is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_never_goes_to_disk_before_the_batch_in_hand() {
    let options = SpillOptions {
        max_messages: Some(10),
        ..SpillOptions::default()
    };
    let bench = Bench::new(options).await;
    bench.script.set(|_| ok(FOR_EVER));
    let running = bench.start(1024);
    // Twelve in hand do not fit; the three behind them would.
    let many = (0..12)
        .map(|number| Message::new(number.to_string()))
        .collect::<Vec<_>>();
    running
        .action
        .accept(many.into(), vec![bench.ticket(0)], Admission::Always);
    sleep(Duration::from_millis(10)).await;
    for number in 12..15 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(5)).await;
    assert!(bench.settled().is_empty());
    running.end(AT_ONCE).await;
    bench.script.set(|_| ok(AT_ONCE));
    let _running = bench.start(1024);
    until("all written", || bench.written().len() >= 15).await;
    assert_eq!(bench.written(), all(15));
}

#[tokio::test(start_paused = true)]
async fn a_write_goes_on_while_the_disk_is_slow_and_nothing_is_lost_when_it_ends_first() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| ok(Duration::from_millis(1500)));
    let disk = Arc::new(SlowDisk(bench.disk(), Duration::from_secs(1)));
    let running = bench.run(Action::new("sink_0".to_owned(), 1024, disk));
    let begin = Instant::now();
    for number in 0..40 {
        bench.send(&running, number);
        sleep(Duration::from_millis(50)).await;
    }
    // Moving to disk must not stretch the write to the sum of both.
    until("the first written", || !bench.written().is_empty()).await;
    assert!(
        begin.elapsed() <= Duration::from_millis(2100),
        "after {:?}",
        begin.elapsed()
    );
    until("all written", || bench.written().len() >= 40).await;
    assert_eq!((bench.written(), bench.settled()), (all(40), all(40)));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_queue_acknowledges_nothing_and_says_so_and_goes_on_when_there_is_room() {
    let options = SpillOptions {
        max_messages: Some(10),
        overflow: Some(Overflow::Block),
        ..SpillOptions::default()
    };
    let bench = Bench::new(options).await;
    bench.links.send_replace(false);
    let running = bench.start(1024);
    for number in 0..8 {
        bench.send(&running, number);
    }
    until("eight on disk", || bench.settled().len() == 8).await;
    for number in 8..30 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(20)).await;
    assert_eq!(bench.settled(), all(8));
    let blocked = running.action.blocked().unwrap();
    assert!(blocked.contains("full"), "{blocked}");
    bench.links.send_replace(true);
    until("all settled", || bench.settled().len() == 30).await;
    assert_eq!(bench.written(), all(30));
    until("it says so no longer", || {
        running.action.blocked().is_none()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_the_disk_queue_switched_off_upstream_waits_and_nothing_is_lost() {
    let bench = Bench::new(SpillOptions {
        enabled: false,
        ..SpillOptions::default()
    })
    .await;
    bench.links.send_replace(false);
    let running = bench.start(16);
    for number in 0..50 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(5)).await;
    assert!(bench.settled().is_empty() && running.action.blocked().is_some());
    bench.links.send_replace(true);
    until("all settled", || bench.settled() == all(50)).await;
    assert_eq!(bench.written(), all(50));
    // At the end there is no other place for the rest: it is not acknowledged.
    bench.links.send_replace(false);
    bench.send(&running, 50);
    running.end(Duration::from_millis(100)).await;
    assert!(bench.ledger.is_abandoned());
    assert_eq!(bench.settled(), all(50));
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_leaves_a_shared_source_holds_up_nobody_with_what_it_cannot_keep() {
    let bench = Bench::new(SpillOptions {
        enabled: false,
        ..SpillOptions::default()
    })
    .await;
    bench.links.send_replace(false);
    let running = bench.start(16);
    for number in 0..5 {
        bench.send(&running, number);
    }
    let action = Arc::clone(&running.action);
    action.let_go();
    running.end(Duration::from_millis(100)).await;
    assert_eq!((action.dropped(), bench.settled()), (5, all(5)));
    assert!(!bench.ledger.is_abandoned());
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_a_write_hangs_puts_the_rest_on_disk_and_the_next_start_delivers_it_first() {
    // The queue's bound is smaller than what is left: it gives way this once.
    let options = SpillOptions {
        max_messages: Some(15),
        ..SpillOptions::default()
    };
    let bench = Bench::new(options).await;
    bench.script.set(|_| ok(FOR_EVER));
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_millis(10)).await;
    for number in 1..40 {
        bench.send(&running, number);
    }
    let begin = Instant::now();
    running.end(Duration::from_secs(2)).await;
    assert!(
        (2000..2300).contains(&begin.elapsed().as_millis()),
        "after {:?}",
        begin.elapsed()
    );
    assert_eq!((bench.written(), bench.settled()), (Vec::new(), all(40)));
    assert!(!bench.ledger.is_abandoned());

    bench.script.set(|_| ok(Duration::from_millis(1)));
    let running = bench.start(1024);
    for number in 40..60 {
        bench.send(&running, number);
    }
    until("all written", || bench.written().len() >= 60).await;
    assert_eq!((bench.written(), bench.settled()), (all(60), all(60)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_on_disk_what_is_there_and_returns_soon() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(1024);
    for number in 0..20 {
        bench.send(&running, number);
    }
    until("all on disk", || bench.settled().len() == 20).await;
    running.end(Duration::from_secs(1)).await;
    bench.set.close().await;
    bench.links.send_replace(true);
    let running = bench.start(1024);
    bench.send(&running, 20);
    until("all written", || bench.written().len() >= 21).await;
    assert_eq!(bench.written(), all(21));
    running.end(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn after_the_end_nothing_is_taken_in_and_nothing_of_it_is_acknowledged() {
    let bench = Bench::new(SpillOptions::default()).await;
    let running = bench.start(1024);
    let action = Arc::clone(&running.action);
    running.end(Duration::from_secs(1)).await;
    action.accept(numbered(0), vec![bench.ticket(0)], Admission::Always);
    drop(action);
    assert!(bench.ledger.is_abandoned() && bench.settled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_misconfigured_parks_the_action_and_what_comes_goes_to_disk() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| {
        said(ConnectionError::misconfigured(
            "topic",
            "the topic is empty",
        ))
    });
    let running = bench.start(1024);
    bench.send(&running, 0);
    until("stopped", || running.action.stopped().is_some()).await;
    for number in 1..30 {
        bench.send(&running, number);
        sleep(Duration::from_millis(1)).await;
    }
    until("all settled", || bench.settled() == all(30)).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(
        bench.script.writing.load(Ordering::Relaxed),
        1,
        "no restart loop"
    );
    assert_eq!(
        *running.changes.lock(),
        [Some("the topic is empty".to_owned())]
    );
    running.end(Duration::from_secs(1)).await;
    bench.script.set(|_| ok(AT_ONCE));
    let _running = bench.start(1024);
    until("all written", || bench.written() == all(30)).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_strategy_tries_again_as_often_as_it_says_and_loses_nothing() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.script.set(|_| said(ConnectionError::denied()));
    let strategy = RestartStrategy {
        attempts: 3,
        ..RestartStrategy::default()
    };
    let action = Action::new("sink_0".to_owned(), 1024, bench.disk()).with_restart(Some(strategy));
    let running = bench.run(action);
    for number in 0..3 {
        bench.send(&running, number);
    }
    sleep(Duration::from_secs(3600)).await;
    let changes = running.changes.lock().clone();
    assert_eq!(
        changes.iter().filter(|change| change.is_some()).count(),
        4,
        "the first time and three more"
    );
    assert!(changes.last().unwrap().is_some() && running.action.stopped().is_some());
    running.end(Duration::from_secs(1)).await;

    let mut failures = 0;
    bench.script.set(move |_| {
        failures += 1;
        if failures < 3 {
            said(ConnectionError::denied())
        } else {
            ok(AT_ONCE)
        }
    });
    let action = Action::new("sink_0".to_owned(), 1024, bench.disk()).with_restart(Some(strategy));
    let running = bench.run(action);
    until("all written", || bench.written() == all(3)).await;
    assert!(running.action.stopped().is_none() && running.changes.lock().last().unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_dropped_newest_first_or_waits_and_never_touches_the_disk() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(10);
    let offer = |number| {
        let ticket = bench.ledger.open(None, None, 1);
        running
            .action
            .accept(numbered(number), vec![ticket], Admission::Offer)
    };
    assert!(offer(0));
    sleep(Duration::from_millis(10)).await;
    let taken = (1..30).filter(|number| offer(*number)).count();
    assert_eq!((taken, running.action.dropped()), (10, 19));
    let full = tokio::time::timeout(Duration::from_secs(60), running.action.room()).await;
    assert!(full.is_err(), "who can wait, waits");
    assert_eq!(running.action.spilled.load(Ordering::Relaxed), 0);
    bench.links.send_replace(true);
    running.action.room().await;
    until("all written", || bench.written() == all(11)).await;
    // What comes again after the drop goes its way.
    assert!(offer(40));
    until("the next written", || bench.written().last() == Some(&40)).await;
    assert_eq!(running.action.spilled.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_offer_with_something_in_it_for_which_somebody_waits_is_always_taken() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.links.send_replace(false);
    let running = bench.start(1);
    for number in 0..10 {
        assert!(running.action.accept(
            numbered(number),
            vec![bench.ticket(number)],
            Admission::Offer
        ));
    }
    until("all settled", || bench.settled() == all(10)).await;
    assert_eq!(running.action.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_settle_only_when_they_are_kept_and_wait_for_room() {
    let bench = Bench::new(SpillOptions::default()).await;
    let running = bench.start(1024);
    let bury = |number| {
        let reason = ConnectionError::permanent("payload", "not JSON");
        running
            .action
            .bury(numbered(number), vec![bench.ticket(number)], reason);
    };
    bury(0);
    until("settled", || bench.settled() == [0]).await;
    assert_eq!(*bench.graves.buried.lock(), [0]);
    bench.graves.full.store(true, Ordering::Relaxed);
    bury(1);
    bury(2);
    sleep(Duration::from_secs(100)).await;
    assert_eq!(bench.settled(), [0]);
    // Meanwhile the rest of the action works.
    bench.send(&running, 3);
    until("written", || bench.written() == [3]).await;
    bench.graves.full.store(false, Ordering::Relaxed);
    until("settled", || bench.settled() == [0, 1, 2, 3]).await;
    assert_eq!(running.action.progress.buried.load(Ordering::Relaxed), 3);
    // A stop does not wait for ever for room, and acknowledges nothing then.
    bench.graves.full.store(true, Ordering::Relaxed);
    bury(4);
    running.end(Duration::from_secs(1)).await;
    assert!(bench.ledger.is_abandoned());
    assert_eq!(bench.settled().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_for_which_nobody_waits_are_bounded() {
    let bench = Bench::new(SpillOptions::default()).await;
    bench.graves.full.store(true, Ordering::Relaxed);
    let running = bench.start(10);
    for number in 0..1000 {
        let ticket = bench.ledger.open(None, None, 1);
        running.action.bury(
            numbered(number),
            vec![ticket],
            ConnectionError::permanent("payload", "not JSON"),
        );
    }
    assert_eq!(running.action.dropped(), 990);
}

#[tokio::test(start_paused = true)]
async fn an_idle_sink_is_put_away_once_and_serves_the_next_message() {
    let bench = Bench::new(SpillOptions::default()).await;
    let running = bench.start(1024);
    bench.send(&running, 0);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(bench.script.put_away.load(Ordering::Relaxed), 0);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.script.put_away.load(Ordering::Relaxed), 1);
    bench.send(&running, 1);
    until("settled", || bench.settled() == [0, 1]).await;
    running.end(AT_ONCE).await;
}

#[tokio::test(start_paused = true)]
async fn the_resend_interval_is_kept_between_tries() {
    let bench = Bench::new(SpillOptions::default()).await;
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&times);
    bench.script.set(move |_| {
        let mut seen = seen.lock();
        seen.push(Instant::now());
        if seen.len() < 5 {
            said(ConnectionError::transient("busy", "busy"))
        } else {
            ok(AT_ONCE)
        }
    });
    let action = Action::new("sink_0".to_owned(), 1024, bench.disk());
    let running = bench.run(action.with_resend_interval(Some(Duration::from_millis(70))));
    bench.send(&running, 0);
    until("written", || bench.written() == [0]).await;
    let waits: Vec<_> = times
        .lock()
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis())
        .collect();
    assert!(
        waits.iter().all(|wait| (70..=72).contains(wait)),
        "{waits:?}"
    );
}

/// Sinks that fail in every way, links that come and go, and restarts of the action in between.
async fn storm(seed: u64) {
    const COUNT: u32 = 300;
    const POISON: u32 = 41;
    let mut dice = StdRng::seed_from_u64(seed);
    let bench = Bench::new(SpillOptions::default()).await;
    let again: Arc<Mutex<BTreeSet<u32>>> = Arc::default();
    let mut sinks = StdRng::seed_from_u64(seed ^ 0xabcd);
    let retried = Arc::clone(&again);
    let calm = Arc::new(AtomicBool::new(false));
    let is_calm = Arc::clone(&calm);
    bench.script.set(move |numbers| {
        let after = Duration::from_millis(
            *[0, 0, 1, 20, 250, 2500]
                .get(sinks.random_range(0..6))
                .unwrap(),
        );
        let arrived = sinks.random_range(0..=numbers.len());
        if numbers.len() == 1 && numbers[0] % POISON == 7 {
            return (
                after,
                Err(WriteError::Said(ConnectionError::permanent(
                    "bad", "poison",
                ))),
                0,
            );
        }
        let answer = match sinks.random_range(0..20) {
            0 => Err(WriteError::Said(ConnectionError::transient("busy", "busy"))),
            1 => Err(WriteError::Said(ConnectionError::disconnected(
                "link",
                "the link is gone",
            ))),
            2 if numbers.len() > 1 => Err(WriteError::Broke("unreachable".into())),
            3 if !is_calm.load(Ordering::Relaxed) => return (FOR_EVER, Ok(Vec::new()), 0),
            _ if numbers.iter().any(|number| number % POISON == 7) => Err(WriteError::Said(
                ConnectionError::permanent("bad", "poison inside"),
            )),
            4 | 5 => {
                let places = (0..).zip(numbers).filter(|_| sinks.random_range(0..4) == 0);
                let rejections = places.map(|(index, number)| {
                    retried.lock().insert(*number);
                    Rejection {
                        index,
                        error: ConnectionError::transient("busy", "this one not now"),
                    }
                });
                Ok(rejections.collect())
            }
            _ => Ok(Vec::new()),
        };
        (after, answer, arrived)
    });
    let mut running = bench.start(dice.random_range(1..64));
    let mut next = 0;
    for _ in 0..20_000 {
        if next == COUNT {
            break;
        }
        for _ in 0..dice.random_range(0..12) {
            if next < COUNT {
                bench.send(&running, next);
                next += 1;
            }
        }
        sleep(Duration::from_millis(dice.random_range(0..60))).await;
        if dice.random_range(0..8) == 0 {
            bench.links.send_replace(dice.random());
        }
        if dice.random_range(0..12) == 0 {
            running
                .end(Duration::from_millis(dice.random_range(0..400)))
                .await;
            assert_eq!(
                bench.settled(),
                all(next),
                "seed {seed}: all that was read is final after a stop"
            );
            running = bench.start(dice.random_range(1..64));
        }
    }
    bench.links.send_replace(true);
    let missing = || {
        // Of a poisoned batch that failed, the poison too may have arrived.
        let mut done: BTreeSet<u32> = bench
            .written()
            .into_iter()
            .filter(|number| number % POISON != 7)
            .collect();
        done.extend(bench.graves.buried.lock().iter());
        (0..COUNT)
            .filter(|number| !done.contains(number))
            .collect::<Vec<_>>()
    };
    // The last one may hang in a write; that ends with its action.
    calm.store(true, Ordering::Relaxed);
    running.end(AT_ONCE).await;
    let running = bench.start(64);
    for _ in 0..1000 {
        if missing().is_empty() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(missing(), [] as [u32; 0], "seed {seed}: lost messages");
    let poison: BTreeSet<u32> = (0..COUNT).filter(|number| number % POISON == 7).collect();
    assert_eq!(
        bench
            .graves
            .buried
            .lock()
            .iter()
            .copied()
            .collect::<BTreeSet<_>>(),
        poison,
        "seed {seed}"
    );
    running.end(Duration::from_secs(1)).await;
    assert_eq!(
        bench.settled(),
        all(COUNT),
        "seed {seed}: each read settles once, in order"
    );
    let again = again.lock();
    let mut seen = BTreeSet::new();
    let first: Vec<u32> = bench
        .written()
        .into_iter()
        .filter(|number| !again.contains(number) && seen.insert(*number))
        .collect();
    assert!(first.is_sorted(), "seed {seed}: out of order: {first:?}");
}

#[tokio::test(start_paused = true)]
async fn whatever_sinks_links_and_restarts_do_nothing_is_lost_and_order_holds() {
    for seed in 0..12 {
        storm(seed).await;
    }
}
