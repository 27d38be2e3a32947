//! Who takes what: filters and their takers, what the broker knows of them, and the way from a topic
//! to its takers. Knows inboxes and packet ids of SUBSCRIBE; knows no socket.
//!
//! One subscription at the broker per filter, whoever asks; the first taker's level counts. On version
//! 5 each filter has an identifier, by which the broker says to which filter a copy belongs.

mod routes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::connections::Inbox;
use crate::connections::mqtt::codec::{self, Malformed};
use crate::connections::mqtt::packet::Version;
use crate::connections::mqtt::{reason, topic};

pub(super) use routes::Route;

/// Packet ids from here on are for SUBSCRIBE and UNSUBSCRIBE.
const FIRST_ID: u16 = super::outbound::PUBLISH_IDS + 1;
/// Filters in one packet.
const PER_PACKET: usize = 100;

/// A taker's number, never used twice in a process.
pub(in crate::connections::mqtt) type TakerId = u64;

#[derive(Debug)]
struct Taker {
    inbox: Arc<Inbox>,
    filters: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Filter {
    subscription: u32,
    qos: u8,
    takers: Vec<TakerId>,
    /// Joined since the last SUBSCRIBE: they wait for retained messages.
    fresh: Vec<TakerId>,
    /// Takers to which retained messages of the last SUBSCRIBE go.
    waiting: Vec<TakerId>,
    state: State,
    warning: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be subscribed.
    Wanted,
    Asked,
    Granted,
    Refused,
}

#[derive(Debug)]
enum Request {
    Subscribe(Vec<Arc<str>>),
    Unsubscribe(Vec<Arc<str>>),
}

/// What the broker can do with filters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    pub(super) version: Version,
    pub(super) subscription_ids: bool,
    pub(super) wildcards: bool,
    pub(super) shared: bool,
    pub(super) max_qos: u8,
}

/// All filters of one connection.
#[derive(Debug, Default)]
pub(in crate::connections::mqtt) struct Filters {
    takers: HashMap<TakerId, Taker>,
    filters: BTreeMap<Arc<str>, Filter>,
    next_taker: TakerId,
    next_subscription: u32,
    next_id: u16,
    requests: HashMap<u16, Request>,
    /// To be unsubscribed.
    unwanted: BTreeSet<Arc<str>>,
    /// What the broker's session may hold, with the identifiers it has there: kept across processes.
    at_broker: BTreeMap<String, u32>,
    /// `at_broker` differs from what is on disk.
    dirty: bool,
    storing: bool,
    connected_before: bool,
    /// What is in `at_broker` and nobody takes has not been asked to go.
    awaiting: bool,
    /// Filters of `at_broker` for which messages of this link were left with the broker.
    left: BTreeSet<Arc<str>>,
    routes: HashMap<Bytes, Arc<Route>>,
    last: Option<(Bytes, Arc<Route>)>,
}

impl Filters {
    /// What an earlier process had at the broker.
    pub(super) fn restore(&mut self, at_broker: BTreeMap<String, u32>) {
        self.next_subscription = at_broker.values().copied().max().unwrap_or(0);
        for (name, subscription) in &at_broker {
            if let Some(filter) = self.filters.get_mut(name.as_str()) {
                filter.subscription = *subscription;
            }
        }
        self.at_broker = at_broker;
    }

    /// Adds a taker. The filters have been checked.
    pub(super) fn add(&mut self, names: &[String], qos: u8, inbox: Arc<Inbox>) -> TakerId {
        self.next_taker += 1;
        let id = self.next_taker;
        let mut own: Vec<Arc<str>> = Vec::with_capacity(names.len());
        for name in names {
            if own.iter().any(|known| **known == **name) {
                continue;
            }
            own.push(self.join(name, qos, id));
        }
        self.takers.insert(
            id,
            Taker {
                inbox,
                filters: own,
            },
        );
        self.forget_routes();
        id
    }

    fn join(&mut self, name: &str, qos: u8, id: TakerId) -> Arc<str> {
        let held = self
            .filters
            .get_key_value(name)
            .map(|(key, _)| Arc::clone(key));
        let key = held.unwrap_or_else(|| name.into());
        self.unwanted.remove(&key);
        let subscription = match self.filters.get(&key) {
            Some(filter) => filter.subscription,
            None => self.at_broker.get(name).copied().unwrap_or_else(|| {
                self.next_subscription += 1;
                self.next_subscription
            }),
        };
        let filter = self
            .filters
            .entry(Arc::clone(&key))
            .or_insert_with(|| Filter {
                subscription,
                qos,
                takers: Vec::new(),
                fresh: Vec::new(),
                waiting: Vec::new(),
                state: State::Wanted,
                warning: None,
            });
        filter.takers.push(id);
        let (_, shared) = topic::pattern(name);
        // Shared subscriptions get no retained messages (MQTT5 4.8.2): nothing to ask for again.
        if !shared {
            filter.fresh.push(id);
        }
        if (filter.state == State::Granted && !shared) || filter.state == State::Refused {
            filter.state = State::Wanted;
        }
        if filter.qos != qos {
            filter.warning = Some(format!(
                "the topic filter `{name}` is subscribed with level {} by the taker that came first; level {qos} is not used",
                filter.qos
            ));
        }
        key
    }

    /// Takes a taker away. `keep`: the host is stopping, nothing is unsubscribed. `booting`: it may come
    /// again, its source tries once more to open.
    pub(super) fn remove(&mut self, id: TakerId, keep: bool, booting: bool) {
        let Some(taker) = self.takers.remove(&id) else {
            return;
        };
        for name in taker.filters {
            let Some(filter) = self.filters.get_mut(&name) else {
                continue;
            };
            for list in [&mut filter.takers, &mut filter.fresh, &mut filter.waiting] {
                list.retain(|taker| *taker != id);
            }
            if filter.takers.is_empty() && !keep {
                self.filters.remove(&name);
                if booting {
                    self.awaiting = true;
                } else if self.at_broker.contains_key(&*name) {
                    self.unwanted.insert(name);
                }
            }
        }
        self.forget_routes();
    }

    fn forget_routes(&mut self) {
        self.routes = HashMap::new();
        self.last = None;
    }

    /// CONNACK: on the first of a process and on each without a session everything is subscribed.
    /// `booting`: filters of an earlier run may still get their takers.
    pub(super) fn begin(&mut self, session_present: bool, booting: bool) {
        self.requests.clear();
        self.left.clear();
        // The last link may have ended because it could not be kept.
        self.dirty |= std::mem::take(&mut self.storing);
        let all = !session_present || !self.connected_before;
        self.connected_before = true;
        if !session_present {
            self.dirty |= !self.at_broker.is_empty();
            self.at_broker.clear();
            self.unwanted.clear();
        }
        for (name, filter) in &mut self.filters {
            if all || filter.state != State::Granted {
                filter.state = State::Wanted;
            }
            if all && !topic::pattern(name).1 {
                filter.fresh.clone_from(&filter.takers);
            }
        }
        self.awaiting = true;
        if !booting {
            self.takers_known();
        }
    }

    /// Who has not come does not come any more: what the broker still has for nobody is unsubscribed.
    pub(super) fn takers_known(&mut self) {
        if !std::mem::take(&mut self.awaiting) {
            return;
        }
        for name in self.at_broker.keys() {
            if !self.filters.contains_key(name.as_str()) {
                self.unwanted.insert(name.as_str().into());
            }
        }
    }

    /// Whether a message must be left with the broker, neither handed out nor acknowledged: a filter that
    /// an earlier run has there takes it, and its taker has not come yet. So must all that follow on such
    /// a filter over this link, or they would come before it.
    pub(super) fn leave(&mut self, topic: &str, booting: bool) -> bool {
        if !booting && self.left.is_empty() {
            return false;
        }
        let mut leaves = false;
        for name in self.at_broker.keys() {
            let waits = booting && !self.filters.contains_key(name.as_str());
            let left = self.left.contains(name.as_str());
            let (pattern, _) = topic::pattern(name);
            if (waits || left) && topic::matches(pattern, topic) {
                leaves = true;
                if !left {
                    self.left.insert(name.as_str().into());
                }
            }
        }
        leaves
    }

    /// Messages were left with the broker, and their taker has come, or none comes any more.
    pub(super) fn are_left_to_take(&self, booting: bool) -> bool {
        let came = |name: &Arc<str>| self.filters.contains_key(name);
        !self.left.is_empty() && (!booting || self.left.iter().any(came))
    }

    /// The link ended: what was asked is open again.
    pub(super) fn lost(&mut self) {
        for (_, request) in self.requests.drain() {
            match request {
                Request::Subscribe(names) => {
                    for name in names {
                        if let Some(filter) = self.filters.get_mut(&name) {
                            let waiting = std::mem::take(&mut filter.waiting);
                            filter.fresh.extend(waiting);
                            filter.state = State::Wanted;
                        }
                    }
                }
                Request::Unsubscribe(names) => self.unwanted.extend(names),
            }
        }
        self.unwanted
            .retain(|name| !self.filters.contains_key(name));
    }

    /// Every filter that a taker waits for has the broker's answer.
    pub(super) fn is_settled(&self) -> bool {
        self.requests.is_empty()
            && self
                .filters
                .values()
                .all(|filter| matches!(filter.state, State::Granted | State::Refused))
    }

    /// Writes SUBSCRIBE and UNSUBSCRIBE for what is open. `remember`: only what is on disk may be
    /// subscribed, so that a later process knows what to unsubscribe.
    ///
    /// # Errors
    /// The codec refuses a packet.
    pub(super) fn fill(
        &mut self,
        abilities: Abilities,
        remember: bool,
        buffer: &mut BytesMut,
    ) -> Result<(), Malformed> {
        if !self.unwanted.is_empty() {
            let names: Vec<_> = std::mem::take(&mut self.unwanted).into_iter().collect();
            for names in names.chunks(PER_PACKET) {
                let id = self.next_id();
                codec::unsubscribe(abilities.version, id, names, buffer)?;
                self.requests
                    .insert(id, Request::Unsubscribe(names.to_vec()));
            }
        }
        if self
            .filters
            .values()
            .all(|filter| filter.state != State::Wanted)
        {
            return Ok(());
        }
        let mut asked = Vec::new();
        let mut refused = Vec::new();
        for (name, filter) in &mut self.filters {
            if filter.state != State::Wanted || filter.takers.is_empty() {
                continue;
            }
            // A broker that has said no ends the link when it is asked all the same (MQTT5 3.2.2.3).
            let (pattern, shared) = topic::pattern(name);
            if (shared && !abilities.shared) || (topic::is_wild(pattern) && !abilities.wildcards) {
                refused.push((Arc::clone(name), if shared { 0x9E } else { 0xA2 }));
                continue;
            }
            if self.at_broker.get(&**name) != Some(&filter.subscription) {
                self.at_broker
                    .insert(name.as_ref().to_owned(), filter.subscription);
                self.dirty = true;
            }
            asked.push((
                Arc::clone(name),
                filter.qos.min(abilities.max_qos),
                filter.subscription,
            ));
        }
        for (name, reason) in refused {
            self.refuse(abilities.version, &name, reason);
        }
        if remember && (self.dirty || self.storing) {
            return Ok(());
        }
        for (name, _, _) in &asked {
            if let Some(filter) = self.filters.get_mut(name) {
                filter.state = State::Asked;
                filter.waiting = std::mem::take(&mut filter.fresh);
            }
        }
        if abilities.version == Version::V5 && abilities.subscription_ids {
            for (name, qos, subscription) in asked {
                let id = self.next_id();
                codec::subscribe(
                    abilities.version,
                    id,
                    &[(Arc::clone(&name), qos)],
                    Some(subscription),
                    buffer,
                )?;
                self.requests.insert(id, Request::Subscribe(vec![name]));
            }
            return Ok(());
        }
        for chunk in asked.chunks(PER_PACKET) {
            let id = self.next_id();
            let filters: Vec<_> = chunk
                .iter()
                .map(|(name, qos, _)| (Arc::clone(name), *qos))
                .collect();
            codec::subscribe(abilities.version, id, &filters, None, buffer)?;
            self.requests.insert(
                id,
                Request::Subscribe(filters.into_iter().map(|(name, _)| name).collect()),
            );
        }
        Ok(())
    }

    fn next_id(&mut self) -> u16 {
        loop {
            self.next_id = if self.next_id < FIRST_ID || self.next_id == u16::MAX {
                FIRST_ID
            } else {
                self.next_id + 1
            };
            if !self.requests.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    /// SUBACK. A refused filter is the business of its takers, not of the link.
    pub(super) fn granted(&mut self, version: Version, id: u16, reasons: &[u8]) {
        let Some(Request::Subscribe(names)) = self.requests.remove(&id) else {
            return;
        };
        for (place, name) in names.iter().enumerate() {
            let reason = reasons.get(place).copied().unwrap_or(0x80);
            if reason >= 0x80 {
                self.refuse(version, name, reason);
                continue;
            }
            let Some(filter) = self.filters.get_mut(name) else {
                continue;
            };
            // A taker that came meanwhile still waits for retained messages.
            filter.state = if filter.fresh.is_empty() {
                State::Granted
            } else {
                State::Wanted
            };
            if reason < filter.qos {
                filter.warning = Some(format!(
                    "the broker grants level {reason} for the topic filter `{name}`; {} was asked for",
                    filter.qos
                ));
            }
        }
    }

    fn refuse(&mut self, version: Version, name: &Arc<str>, reason: u8) {
        let Some(filter) = self.filters.get_mut(name) else {
            return;
        };
        let error = reason::subscription(version, reason, name);
        filter.warning = Some(error.message.clone());
        filter.state = State::Refused;
        filter.fresh.clear();
        self.dirty |= self.at_broker.remove(&**name).is_some();
        for taker in filter
            .takers
            .iter()
            .filter_map(|taker| self.takers.get(taker))
        {
            taker.inbox.fail(error.clone());
        }
    }

    /// UNSUBACK.
    pub(super) fn removed(&mut self, id: u16) {
        let Some(Request::Unsubscribe(names)) = self.requests.remove(&id) else {
            return;
        };
        for name in names
            .iter()
            .filter(|name| !self.filters.contains_key(*name))
        {
            self.dirty |= self.at_broker.remove(&**name).is_some();
        }
    }

    /// What must be kept on disk, once per change.
    pub(super) fn store(&mut self) -> Option<String> {
        if !self.dirty || self.storing {
            return None;
        }
        self.dirty = false;
        self.storing = true;
        serde_json::to_string(&self.at_broker).ok()
    }

    /// It is on disk.
    pub(super) fn stored(&mut self) {
        self.storing = false;
    }

    /// What the operator should know.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.filters
            .values()
            .filter_map(|filter| filter.warning.clone())
    }
}
