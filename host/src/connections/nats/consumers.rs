//! Where a consumer begins that was there and has vanished: with what it has not delivered yet, so that
//! nothing is passed over. What was asked for where there was none (`deliver: new`) would pass over all
//! that came meanwhile. Lives as long as the connection; touches no link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::subject::Jet;

/// What the server says of a consumer that is there; times in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// When its stream was made; None: the server does not tell.
    pub(super) stream: Option<i128>,
    /// When it was made itself.
    pub(super) created: i128,
    /// All up to this place in the stream is acknowledged.
    pub(super) floor: u64,
    /// Some behind that has been delivered and is not acknowledged.
    pub(super) pending: bool,
    /// How long it waits for an acknowledgement.
    pub(super) ack_wait: Duration,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// It was never there: as it was asked for.
    Asked,
    /// Its stream is another one: with all there is.
    All,
    /// At this place in the stream.
    At(u64),
}

#[derive(Debug)]
struct Known {
    /// Who asked for it.
    jet: Jet,
    stream: Option<i128>,
    created: i128,
    /// The newest place that it has delivered here.
    last: u64,
    /// Places that were given back and have not come again.
    back: BTreeSet<u64>,
    /// What an earlier process had not settled comes again from this place on, by that time.
    earlier: Option<(u64, Instant)>,
    /// It was made again here: up to this place it may deliver what came before.
    again: u64,
}

/// The consumers that are or were there, by stream and name.
#[derive(Debug, Default)]
pub(super) struct Consumers(Mutex<BTreeMap<Arc<str>, Known>>);

impl Consumers {
    /// A consumer is there. `made`: it has just been made here, to begin so.
    pub(super) fn found(&self, name: &Arc<str>, jet: &Jet, found: Found, made: Option<Begin>) {
        let mut all = self.0.lock();
        let old = all.remove(name);
        // One that somebody else has made in place of the old one goes where they want it to go.
        let same = old.filter(|old| match made {
            Some(begin) => matches!(begin, Begin::At(_)),
            None => old.created == found.created && old.stream == found.stream,
        });
        let mut known = same.unwrap_or_else(|| Known {
            jet: jet.clone(),
            stream: found.stream,
            created: found.created,
            last: 0,
            back: BTreeSet::new(),
            earlier: None,
            again: 0,
        });
        if made.is_some() {
            known.again = known.last;
        } else {
            known.last = known.last.max(found.floor);
            known.earlier = found.pending.then(|| {
                let by = Instant::now() + found.ack_wait.saturating_mul(2);
                (found.floor.saturating_add(1), by)
            });
        }
        if matches!(made, Some(Begin::Asked)) {
            known.last = found.floor;
        }
        known.created = found.created;
        all.insert(Arc::clone(name), known);
    }

    /// Forgets those that nobody wants any more: who wants one again begins as they say.
    pub(super) fn keep(&self, wanted: impl Fn(&Jet) -> bool) {
        self.0.lock().retain(|_, known| wanted(&known.jet));
    }

    /// Where it begins when it is made; `unsettled`: the first place of what is in flight here.
    pub(super) fn begin(&self, name: &str, stream: Option<i128>, unsettled: Option<u64>) -> Begin {
        let all = self.0.lock();
        let Some(known) = all.get(name) else {
            return Begin::Asked;
        };
        // A stream of the same name that is another one counts from 1 again.
        if known.stream.is_none() || known.stream != stream {
            return Begin::All;
        }
        let earlier = known.earlier.filter(|(_, by)| *by > Instant::now());
        let places = [
            unsettled,
            known.back.first().copied(),
            earlier.map(|(place, _)| place),
        ];
        let next = known.last.saturating_add(1);
        let first = places.into_iter().flatten().min();
        Begin::At(first.map_or(next, |first| first.min(next)).max(1))
    }

    /// It has delivered what stands at this place. True: it may have done so before it vanished.
    pub(super) fn arrived(&self, name: &str, place: u64) -> bool {
        let mut all = self.0.lock();
        let Some(known) = all.get_mut(name) else {
            return false;
        };
        known.last = known.last.max(place);
        known.back.remove(&place);
        place <= known.again
    }

    /// What stands at this place was given back to it.
    pub(super) fn gave_back(&self, name: &str, place: u64) {
        if let Some(known) = self.0.lock().get_mut(name) {
            known.back.insert(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Arc<str> {
        "S>c".into()
    }

    fn jet() -> Jet {
        Jet {
            subject: "s".to_owned(),
            stream: None,
            durable: Some("c".to_owned()),
        }
    }

    fn there(created: i128, floor: u64) -> Found {
        Found {
            stream: Some(1),
            created,
            floor,
            pending: false,
            ack_wait: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn one_that_vanished_goes_on_behind_what_it_had_delivered() {
        let consumers = Consumers::default();
        assert_eq!(consumers.begin("S>c", Some(1), None), Begin::Asked);
        consumers.found(&name(), &jet(), there(5, 40), Some(Begin::Asked));
        assert_eq!(
            consumers.begin("S>c", Some(1), None),
            Begin::At(41),
            "it has delivered nothing: what came since it was made is not passed over"
        );
        assert!(!consumers.arrived("S>c", 50));
        assert_eq!(consumers.begin("S>c", Some(1), None), Begin::At(51));
        assert_eq!(consumers.begin("S>c", Some(1), Some(45)), Begin::At(45));
        consumers.gave_back("S>c", 43);
        assert_eq!(consumers.begin("S>c", Some(1), Some(45)), Begin::At(43));
        consumers.found(&name(), &jet(), there(6, 42), Some(Begin::At(43)));
        assert!(
            consumers.arrived("S>c", 43) && !consumers.arrived("S>c", 51),
            "the first 50 may have come before"
        );
        assert_eq!(consumers.begin("S>c", Some(1), None), Begin::At(52));
        consumers.keep(|_| false);
        assert_eq!(consumers.begin("S>c", Some(1), None), Begin::Asked);
    }

    #[tokio::test]
    async fn in_another_stream_it_begins_with_all_there_is() {
        let consumers = Consumers::default();
        consumers.found(&name(), &jet(), there(5, 40), None);
        assert_eq!(consumers.begin("S>c", Some(2), None), Begin::All);
        assert_eq!(
            consumers.begin("S>c", None, None),
            Begin::All,
            "which one it is cannot be told"
        );
        consumers.found(
            &name(),
            &jet(),
            Found {
                stream: Some(2),
                ..there(6, 0)
            },
            Some(Begin::All),
        );
        assert_eq!(consumers.begin("S>c", Some(2), None), Begin::At(1));
    }

    #[tokio::test]
    async fn one_that_somebody_else_made_anew_goes_its_own_way() {
        let consumers = Consumers::default();
        consumers.found(&name(), &jet(), there(5, 40), None);
        consumers.arrived("S>c", 60);
        consumers.found(&name(), &jet(), there(7, 10), None);
        assert!(!consumers.arrived("S>c", 11));
        assert_eq!(consumers.begin("S>c", Some(1), None), Begin::At(12));
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_process_had_not_settled_is_waited_for() {
        let consumers = Consumers::default();
        let pending = Found {
            pending: true,
            ..there(5, 40)
        };
        consumers.found(&name(), &jet(), pending, None);
        consumers.arrived("S>c", 60);
        assert_eq!(consumers.begin("S>c", Some(1), None), Begin::At(41));
        tokio::time::advance(Duration::from_secs(21)).await;
        assert_eq!(consumers.begin("S>c", Some(1), None), Begin::At(61));
    }
}
