//! Peers that go away, one row for each connection type: created while its peer is down, used by two rules
//! at once, the peer killed under load, back on its port after five seconds. The figure is how long it
//! takes until both rules have something fresh at their far end. A row is missed, too, where a state or
//! its reason is not as it should be, or where something is lost that the protocol can acknowledge.

mod cases;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use windlass_tests::load::Subscriber;
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::Manifest;
use windlass_tests::oracle::{Ledger, now_ns, ranges};
use windlass_tests::sender::{Connect, Doubt, Sender};
use windlass_tests::windlass::Windlass;

use self::cases::CASES;
use crate::flood::START;
use crate::progress;
use crate::table::Row;

/// The peer is away for so long.
const AWAY: Duration = Duration::from_secs(5);
/// Data flow for so long before the peer is killed: less than what makes a session a good one by its age.
const LOAD: Duration = Duration::from_secs(2);
/// After a kill it is looked at what is shown.
const LOOK: Duration = Duration::from_secs(1);
/// Messages per second, where they are not the peer's own.
const RATE: u32 = 500;
/// Who has not come back after this does not come back.
const BACK: Duration = Duration::from_secs(10);
/// What was acknowledged must be there after this.
const ALL: Duration = Duration::from_secs(15);
/// The name of the connection under measure.
const ID: &str = "peer";
const RULES: [&str; 2] = ["one", "two"];

/// The other side of a connection, on one port for all its lives.
trait Peer {
    /// Before a kill: it writes down what a peer of its kind writes down in time.
    fn save(&mut self) {}
    /// `kill -9`.
    fn kill(&mut self);
    /// Starts it (again). Answers when it accepted, and where the load is its own the first number of this
    /// life.
    fn up(&mut self) -> (Instant, Option<u64>);
}

/// Where the messages end that two rules deliver.
enum Far {
    /// Behind a broker that stays.
    Topics([Subscriber; 2]),
    /// At the peer itself: the connection is a sink's.
    Peer(Ledgers),
}

type Ledgers = Arc<[Mutex<Ledger>; 2]>;

impl Far {
    fn ledger(&self, rule: usize) -> MutexGuard<'_, Ledger> {
        match self {
            Self::Topics(topics) => topics[rule].ledger(),
            Self::Peer(ledgers) => ledgers[rule].lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn both(&self, holds: impl Fn(&Ledger) -> bool) -> bool {
        (0..2).all(|rule| holds(&self.ledger(rule)))
    }
}

/// What the peer does with a message that it acknowledges to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    /// Nothing: the protocol cannot acknowledge what is behind it.
    Nothing,
    /// In memory, and on disk now and then: a kill may lose what has not crossed yet. All that crossed
    /// must arrive.
    Memory,
    /// On disk, or the peer is not killed: all of it must arrive.
    Disk,
}

/// One connection type in one role. Its peer is down.
struct Case {
    peer: Box<dyn Peer>,
    /// Where the load comes from; none: the peer makes it.
    load: Option<Connect>,
    /// Two rules, [`RULES`], over the connection [`ID`].
    manifest: Manifest,
    far: Far,
    keeps: Keeps,
    /// What must stay up while all this happens.
    _rest: Box<dyn Any>,
}

/// Sets one up.
type Make = fn() -> Case;

/// What is found out about a case.
#[derive(Debug, Default)]
struct Found {
    /// Seconds until data flowed: after its creation, and after each kill.
    times: Vec<f64>,
    /// What was not as it should be.
    faults: Vec<String>,
}

impl Found {
    /// Said once, however often it is found.
    fn fault(&mut self, what: String) {
        if !self.faults.contains(&what) {
            self.faults.push(what);
        }
    }

    /// Is this shown, with a reason that has this word (or none)?
    fn look(&mut self, windlass: &Windlass, when: &str, status: &str, word: Option<&str>) {
        let right = |(now, why): &(String, String)| {
            now == status && word.map_or(why.is_empty(), |word| why.contains(word))
        };
        // What is printed is a moment behind what is.
        let mut shown = None;
        let holds = holds_within(Duration::from_millis(200), || {
            shown = windlass.connection(ID);
            shown.as_ref().is_some_and(right)
        });
        let (now, why) = shown.unwrap_or_default();
        progress(&format!("{when}: {now} {why:?}"));
        if !holds {
            self.fault(format!("{when} it is {now} {why:?}"));
        }
        for id in RULES {
            let rule = windlass.rule(id).unwrap_or_default();
            if rule.0 != "running" {
                let fault = format!("{when} the rule {id} is {} {:?}", rule.0, rule.1);
                self.fault(fault);
            }
        }
    }

    /// Starts the peer; how long until both rules have something fresh at the far end.
    fn back(&mut self, case: &mut Case, sender: Option<&Sender>, windlass: &Windlass, when: &str) {
        let (accepted, first) = case.peer.up();
        let since = now_ns().saturating_sub(nanoseconds(accepted.elapsed()));
        // The one under way may have arrived before the kill.
        let first = first.unwrap_or_else(|| sender.map_or(0, Sender::next) + 1);
        let fresh = |ledger: &Ledger| match case.far {
            Far::Topics(_) => ledger.highest().is_some_and(|seq| seq >= first),
            // What has waited is delivered first, in its order.
            Far::Peer(_) => ledger.first_after(since).is_some(),
        };
        let flows = holds_within(BACK, || case.far.both(fresh));
        let took = accepted.elapsed().as_secs_f64();
        assert!(
            flows,
            "{when} nothing within {BACK:?}; it is {:?}",
            windlass.connection(ID)
        );
        progress(&format!("{when}: data by both rules after {took:.3} s"));
        if matches!(case.far, Far::Peer(_)) {
            let caught_up = |ledger: &Ledger| ledger.highest().is_some_and(|seq| seq >= first);
            let done = holds_within(ALL, || case.far.both(caught_up));
            let took = accepted.elapsed();
            progress(&format!("what had waited is there after {took:.1?}"));
            if !done {
                self.fault(format!("{when} what waited is late"));
            }
        }
        self.times.push(took);
        self.look(windlass, when, "connected", None);
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn measure(mut case: Case, rounds: usize) -> (Found, String) {
    let mut found = Found::default();
    let windlass = Windlass::start(&case.manifest);
    windlass.wait_connection(ID, "disconnected", START);
    for id in RULES {
        windlass.wait_rule(id, "running", START);
    }
    let doubt = match case.keeps {
        Keeps::Nothing => Doubt::Dropped,
        Keeps::Memory | Keeps::Disk => Doubt::Again,
    };
    let connect = case.load.take();
    let sender = connect.map(|connect| Sender::start(connect, RATE, doubt));
    // Long enough for the longest wait between two attempts.
    std::thread::sleep(Duration::from_secs(2));
    let down = Some("refused");
    found.look(&windlass, "created", "disconnected", down);
    found.back(&mut case, sender.as_ref(), &windlass, "up");
    // Before that a subscription of a rule may not have been there.
    let from = sender.as_ref().map_or(0, Sender::next) + 1;
    for _ in 0..rounds {
        std::thread::sleep(LOAD / 2);
        case.peer.save();
        std::thread::sleep(LOAD / 2);
        case.peer.kill();
        let killed = Instant::now();
        std::thread::sleep(LOOK);
        found.look(&windlass, "killed", "connecting", down);
        std::thread::sleep(AWAY.saturating_sub(killed.elapsed()));
        found.back(&mut case, sender.as_ref(), &windlass, "back");
    }
    std::thread::sleep(LOOK);
    let fate = fate(&case, &windlass, sender, from, &mut found);
    (found, fate)
}

/// What became of the messages.
fn fate(
    case: &Case,
    windlass: &Windlass,
    sender: Option<Sender>,
    from: u64,
    found: &mut Found,
) -> String {
    let acknowledges = case.keeps != Keeps::Nothing;
    let taken = sender.map(Sender::end);
    let numbers = taken.iter().flatten().map(|(seq, _)| *seq);
    let numbers: Vec<u64> = numbers.filter(|seq| *seq >= from).collect();
    let lost = |ledger: &Ledger| ledger.lost(numbers.iter().copied());
    if acknowledges {
        holds_within(ALL, || case.far.both(|ledger| lost(ledger).is_empty()));
    }
    let both = [0, 1].map(|rule| lost(&case.far.ledger(rule)));
    let most = both[0].len().max(both[1].len());
    let (one, two) = (case.far.ledger(0), case.far.ledger(1));
    if one.corrupt() + two.corrupt() > 0 {
        let fault = "messages are not what was sent".to_owned();
        found.fault(fault);
    }
    let twice = one.duplicates().max(two.duplicates());
    if taken.is_none() {
        return format!("{} arrived, {twice} twice", one.arrived());
    }
    let arrived = [&one, &two].map(|ledger| ledger.arrived() + ledger.duplicates());
    drop((one, two));
    let mut fate = format!(
        "{} {}, {most} lost, {twice} twice",
        numbers.len(),
        if acknowledges {
            "acknowledged"
        } else {
            "sent, which nobody acknowledges"
        },
    );
    if acknowledges && most > 0 {
        let [one, two] = both.map(|lost| ranges(&lost));
        progress(&format!("lost {one}; {two}"));
        windlass.fresh_metrics();
        let crossed = windlass.connection_counter(ID, "messagesIn").unwrap_or(0);
        let all_there = arrived.iter().all(|arrived| *arrived == crossed);
        if case.keeps == Keeps::Memory && all_there {
            fate += &format!(" by the peer: all {crossed} that crossed arrived");
        } else {
            found.fault(format!(
                "lost {one}; {two} ({arrived:?} of {crossed} that crossed)"
            ));
        }
    }
    fate
}

/// The first line of why a measurement broke off.
fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default();
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}

fn row(name: &str, make: Make, rounds: usize) -> Row {
    let what = format!("outage, {name}");
    progress(&what);
    let measured = catch_unwind(AssertUnwindSafe(|| measure(make(), rounds)));
    let (found, fate) = match measured {
        Ok(measured) => measured,
        Err(panic) => return Row::failed(&what, &reason(&*panic)),
    };
    let created = found.times[0];
    let worst = found.times.iter().copied().fold(0.0, f64::max);
    let note = format!("{created:.2} s after the first start; {fate}");
    progress(&note);
    let row = Row::new(&what, "s", 2.0, 1.0, worst, note);
    found.faults.into_iter().fold(row, Row::broken)
}

pub(crate) fn outages(rounds: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = CASES
        .iter()
        .map(|(name, make)| row(name, *make, rounds))
        .collect();
    rows.push(Row::none(
        "outage, httppush and websocket served",
        "the server is this host: there is no peer to be killed",
    ));
    rows
}
