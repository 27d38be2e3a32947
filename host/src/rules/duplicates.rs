//! `deduplicate`: of messages with the same key within a window, an action gets the first. In memory
//! alone, bounded by time and count; a restart forgets.
//!
//! A key counts as seen once its message is final. Until then a second one with the same key is
//! settled together with the first: if that is abandoned, so is the second, and both come again. One
//! that somebody upstream waits for is not left out for one that may be dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::output::DynamicProperty;
use super::retry::{duration, take, whole};
use super::settle::{Ledger, Settle, Ticket};
use crate::config::schema::{closed, nullable, or_variable};
use crate::connections::ConfigError;
use crate::names::unknown;

const DEDUPLICATE: &str = "deduplicate";
const KEYS: &[&str] = &["key", "window", "max"];
const WINDOW: Duration = Duration::from_secs(600);
const MAX: usize = 100_000;
const MOST: u64 = 10_000_000;

/// What an action says of duplicates.
#[derive(Clone, Debug, PartialEq)]
pub struct Deduplicate {
    /// What makes two messages the same. One in which a field of it is missing is no duplicate.
    pub key: DynamicProperty,
    /// How long a key is remembered after its message was final.
    pub window: Duration,
    /// How many keys are remembered; the oldest goes first.
    pub max: usize,
}

impl Deduplicate {
    /// Names of all properties that are read here.
    pub const PROPERTIES: &'static [&'static str] = &[DEDUPLICATE];

    /// Takes `deduplicate` out of an action's properties; None: it is not there.
    ///
    /// # Errors
    /// All mistakes at once, each with its JSON Pointer below the action's properties.
    pub fn take_from(
        properties: &mut Map<String, Value>,
    ) -> Result<Option<Self>, Vec<ConfigError>> {
        let Some((name, value)) = take(properties, DEDUPLICATE) else {
            return Ok(None);
        };
        let at = format!("/{name}");
        let given = match value {
            Value::Null => return Ok(None),
            Value::Object(given) => given,
            other => {
                let message = format!(
                    "\"{DEDUPLICATE}\" is an object like {{\"key\": \"id\", \"window\": \"10m\"}}, not {other}"
                );
                return Err(vec![ConfigError::new(at, message)]);
            }
        };
        let (mut key, mut window, mut max) = (None, WINDOW, MAX);
        let mut errors = Vec::new();
        for (name, value) in &given {
            let result = match KEYS.iter().find(|known| known.eq_ignore_ascii_case(name)) {
                Some(&"key") => key_of(value).map(|found| key = Some(found)),
                Some(&"window") => duration("window", value).map(|found| window = found),
                Some(_) => whole(value, 1, MOST)
                    .ok_or_else(|| {
                        format!("\"max\" is a whole number from 1 to {MOST}, not {value}")
                    })
                    .map(|found| max = usize::try_from(found).unwrap_or(usize::MAX)),
                None => Err(unknown("key of \"deduplicate\"", name, KEYS)),
            };
            if let Err(message) = result {
                errors.push(ConfigError::new(format!("{at}/{name}"), message));
            }
        }
        if !given.keys().any(|name| name.eq_ignore_ascii_case("key")) {
            let message = "\"key\" is missing: a field, or a template like \"{{.device}}-{{.id}}\"";
            errors.push(ConfigError::new(at, message));
        }
        match key {
            Some(key) if errors.is_empty() => Ok(Some(Self { key, window, max })),
            _ => Err(errors),
        }
    }
}

/// A template, or the path of a field.
fn key_of(value: &Value) -> Result<DynamicProperty, String> {
    let text = value
        .as_str()
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| {
        format!(
            "\"key\" is a field, or a template like \"{{{{.device}}}}-{{{{.id}}}}\", not {value}"
        )
    })?;
    let template = if DynamicProperty::is_dynamic(text) {
        text.to_owned()
    } else {
        format!("{{{{.{text}}}}}")
    };
    DynamicProperty::parse(&template).map_err(|error| format!("\"key\": {error}"))
}

/// The keys of one action.
#[derive(Debug)]
pub struct Window {
    keep: Duration,
    max: usize,
    keys: Arc<Mutex<Keys>>,
    dropped: AtomicU64,
}

type Hash = [u8; 16];
type Waiters = Arc<Mutex<Vec<Ticket>>>;

#[derive(Debug, Default)]
struct Keys {
    known: HashMap<Hash, Known>,
    /// Of those that are final: since when, oldest first.
    order: VecDeque<(Hash, Instant)>,
}

#[derive(Debug)]
enum Known {
    /// Its message is not final; these wait for it.
    UnderWay {
        waiters: Waiters,
        /// Somebody upstream waits for the message.
        lossless: bool,
    },
    Final(Instant),
}

/// The keys of one batch while its messages are not final.
#[derive(Debug)]
struct Hold {
    keys: Arc<Mutex<Keys>>,
    of: Vec<Hash>,
    waiters: Waiters,
    settled: bool,
}

/// What is left of a batch.
#[derive(Debug, Default)]
pub struct Admitted {
    /// The places of the messages that are no duplicates; None: all of them.
    pub places: Option<Vec<u32>>,
    /// To be kept with them until they are final.
    pub hold: Option<Ticket>,
}

impl Window {
    /// Remembers keys as that says.
    #[must_use]
    pub fn new(options: &Deduplicate) -> Self {
        Self {
            keep: options.window,
            max: options.max,
            keys: Arc::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Messages that were left out.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Which of these messages, by their keys, are to go on. `ticket` is that of their read: a
    /// duplicate of a message that is not final yet keeps it until that is.
    #[must_use]
    pub fn admit(&self, keys: &[Option<String>], ticket: &Ticket) -> Admitted {
        let now = Instant::now();
        let lossless = ticket.lossless();
        let waiters = Waiters::default();
        let (mut places, mut of) = (Vec::with_capacity(keys.len()), Vec::new());
        let mut state = self.keys.lock();
        state.forget(self.keep, self.max, now);
        for (key, place) in keys.iter().zip(0_u32..) {
            let Some(key) = key else {
                places.push(place);
                continue;
            };
            let hash = hash(key);
            match state.known.get(&hash) {
                Some(Known::Final(_)) => {}
                Some(Known::UnderWay {
                    waiters,
                    lossless: first,
                }) if *first || !lossless => {
                    // Nothing depends on the end of any other.
                    if lossless {
                        waiters.lock().push(ticket.clone());
                    }
                }
                None | Some(Known::UnderWay { .. }) => {
                    let under_way = Known::UnderWay {
                        waiters: Arc::clone(&waiters),
                        lossless,
                    };
                    state.known.insert(hash, under_way);
                    of.push(hash);
                    places.push(place);
                }
            }
        }
        drop(state);
        let dropped = keys.len() - places.len();
        self.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
        let hold = (!of.is_empty()).then(|| {
            let hold = Hold {
                keys: Arc::clone(&self.keys),
                of,
                waiters,
                settled: false,
            };
            Ledger::new().open(Some(Box::new(hold)), None, 0)
        });
        Admitted {
            places: (dropped > 0).then_some(places),
            hold,
        }
    }
}

impl Keys {
    fn forget(&mut self, keep: Duration, max: usize, now: Instant) {
        while let Some((hash, at)) = self.order.front().copied() {
            if now.duration_since(at) < keep && self.order.len() <= max {
                return;
            }
            self.order.pop_front();
            if matches!(self.known.get(&hash), Some(Known::Final(of)) if *of == at) {
                self.known.remove(&hash);
            }
        }
    }
}

impl Settle for Hold {
    fn settle(mut self: Box<Self>) {
        let now = Instant::now();
        let mut keys = self.keys.lock();
        for hash in &self.of {
            keys.known.insert(*hash, Known::Final(now));
            keys.order.push_back((*hash, now));
        }
        drop(keys);
        self.settled = true;
        // Without the lock: they may settle others that hold keys.
        let waiters = std::mem::take(&mut *self.waiters.lock());
        drop(waiters);
    }

    fn lossless(&self) -> bool {
        // The read's own ticket says that.
        false
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut keys = self.keys.lock();
        for hash in &self.of {
            // Another one may be under way with the same key by now.
            if let Some(Known::UnderWay { waiters, .. }) = keys.known.get(hash)
                && Arc::ptr_eq(waiters, &self.waiters)
            {
                keys.known.remove(hash);
            }
        }
        drop(keys);
        let waiters = std::mem::take(&mut *self.waiters.lock());
        waiters.into_iter().for_each(Ticket::abandon);
    }
}

fn hash(key: &str) -> Hash {
    let mut short = Hash::default();
    let long = blake3::hash(key.as_bytes());
    for (to, from) in short.iter_mut().zip(long.as_bytes()) {
        *to = *from;
    }
    short
}

/// Name to JSON Schema: all of [`Deduplicate::PROPERTIES`].
#[must_use]
pub fn properties() -> Map<String, Value> {
    let told = |about: &str, mut schema: Value| {
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".to_owned(), about.into());
        }
        or_variable(schema)
    };
    let keys = json!({
        "key": told("A field, or a template like {{.device}}-{{.id}}.", json!({"type": "string", "minLength": 1})),
        "window": told(
            "How long a key is remembered: milliseconds, or text such as 10m.",
            json!({"type": ["integer", "string"], "minimum": 0, "default": "10m"})
        ),
        "max": told(
            "How many keys are remembered.",
            json!({"type": ["integer", "string"], "minimum": 1, "maximum": MOST, "default": MAX})
        ),
    });
    let mut schema = closed(keys, &["key"]);
    if let Some(object) = schema.as_object_mut() {
        object.insert(
            "description".to_owned(),
            "Of messages with the same key within the window, only the first goes on. A restart forgets.".into(),
        );
    }
    [(DEDUPLICATE.to_owned(), nullable(schema))]
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Read(Arc<Mutex<Vec<u32>>>, u32);

    impl Settle for Read {
        fn settle(self: Box<Self>) {
            self.0.lock().push(self.1);
        }
        fn lossless(&self) -> bool {
            true
        }
    }

    fn window(seconds: u64, max: usize) -> Window {
        Window::new(&Deduplicate {
            key: DynamicProperty::parse("{{.id}}").unwrap(),
            window: Duration::from_secs(seconds),
            max,
        })
    }

    fn keys(keys: &[&str]) -> Vec<Option<String>> {
        let some = |key: &&str| (!key.is_empty()).then(|| (*key).to_owned());
        keys.iter().map(some).collect()
    }

    fn places(admitted: &Admitted, of: usize) -> Vec<u32> {
        let all = || (0..u32::try_from(of).unwrap()).collect();
        admitted.places.clone().unwrap_or_else(all)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_on_until_its_window_is_over_and_one_without_a_key_always() {
        let (window, ledger) = (window(60, 100), Ledger::new());
        let admit = |given: &[&str]| {
            let ticket = ledger.open(None, None, 1);
            let admitted = window.admit(&keys(given), &ticket);
            places(&admitted, given.len())
        };
        assert_eq!(admit(&["a", "b", "a", "", ""]), [0, 1, 3, 4]);
        assert_eq!(ledger.open_reads(), 0, "all of it is final");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(admit(&["b", "c"]), [1]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(admit(&["a", "c"]), [0]);
        assert_eq!(window.dropped(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_keys_are_remembered_than_told() {
        let (window, ledger) = (window(3600, 10), Ledger::new());
        for n in 0..1000 {
            let ticket = ledger.open(None, None, 1);
            drop(window.admit(&[Some(n.to_string())], &ticket));
        }
        assert!(window.keys.lock().known.len() <= 11);
        let ticket = ledger.open(None, None, 1);
        let admitted = window.admit(&keys(&["999", "0"]), &ticket);
        assert_eq!(places(&admitted, 2), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_duplicate_is_final_with_the_first_and_comes_again_with_it() {
        let (window, ledger) = (window(60, 100), Ledger::new());
        let settled: Arc<Mutex<Vec<u32>>> = Arc::default();
        let read =
            |number| ledger.open(Some(Box::new(Read(Arc::clone(&settled), number))), None, 1);
        // One that nobody waits for may be dropped, and does not stand for one that somebody does.
        let lossy = ledger.open(None, None, 1);
        let dropped = window.admit(&keys(&["q"]), &lossy);
        let zero = read(0);
        let kept = window.admit(&keys(&["q"]), &zero);
        assert_eq!((places(&dropped, 1), places(&kept, 1)), (vec![0], vec![0]));
        drop((lossy, dropped));
        let again = window.admit(&keys(&["q"]), &zero);
        assert!(again.places.is_some_and(|places| places.is_empty()));
        drop((zero, kept));
        assert_eq!(std::mem::take(&mut *settled.lock()), [0]);

        let (one, two) = (read(1), read(2));
        let first = window.admit(&keys(&["a"]), &one);
        let second = window.admit(&keys(&["a"]), &two);
        assert_eq!((places(&first, 1), places(&second, 1)), (vec![0], vec![]));
        assert!(second.hold.is_none());
        drop(two);
        assert!(settled.lock().is_empty(), "the first may still be lost");
        drop((one, first));
        assert_eq!(*settled.lock(), [1, 2]);

        let (three, four) = (read(3), read(4));
        let first = window.admit(&keys(&["b"]), &three);
        drop(window.admit(&keys(&["b"]), &four));
        drop(four);
        three.abandon();
        first.hold.unwrap().abandon();
        assert!(ledger.is_abandoned());
        assert_eq!(*settled.lock(), [1, 2], "neither of them is acknowledged");
        let again = Ledger::new().open(None, None, 1);
        let admitted = window.admit(&keys(&["b"]), &again);
        assert_eq!(
            places(&admitted, 1),
            [0],
            "and when it comes again it goes on"
        );
    }

    #[test]
    fn what_stands_in_the_properties_is_checked_with_its_place() {
        let read = |value: Value| Deduplicate::take_from(&mut value.as_object().unwrap().clone());
        assert_eq!(read(json!({})).unwrap(), None);
        let found = read(json!({"deduplicate": {"key": "meta.id", "max": 5}}))
            .unwrap()
            .unwrap();
        assert_eq!((found.window, found.max), (WINDOW, 5));
        assert_eq!(found.key.render_json(br#"{"meta":{"id":7}}"#).unwrap(), "7");
        for (given, at, words) in [
            (
                json!({"deduplicate": {"keys": "id"}}),
                "/deduplicate/keys",
                "did you mean \"key\"?",
            ),
            (
                json!({"deduplicate": {"key": 3}}),
                "/deduplicate/key",
                "a field, or a template",
            ),
            (
                json!({"deduplicate": {"key": "id", "window": "long"}}),
                "/deduplicate/window",
                "text like",
            ),
            (
                json!({"deduplicate": {"key": "id", "max": 0}}),
                "/deduplicate/max",
                "from 1 to",
            ),
            (
                json!({"deduplicate": "id"}),
                "/deduplicate",
                "an object like",
            ),
            (json!({"deduplicate": {}}), "/deduplicate", "is missing"),
        ] {
            let errors = read(given.clone()).unwrap_err();
            let found = errors.iter().find(|error| error.at == at);
            let found = found.unwrap_or_else(|| panic!("{given}: {errors:?}"));
            assert!(found.message.contains(words), "{given}: {}", found.message);
        }
        let all = properties();
        let names: Vec<_> = all.keys().map(String::as_str).collect();
        assert_eq!(names, Deduplicate::PROPERTIES);
    }
}
