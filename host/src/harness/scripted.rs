//! Connections that answer as a script says and keep a record of what was asked. They dial nothing
//! and are always up; what is not settled comes again to whoever subscribes next, as from a broker.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use crate::connections::{
    Connection, Granted, Http, HttpRequest, HttpResponse, Inbox, Interface, Messaging,
    PublishOptions, Rows, Sql, SqlValue, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::interfaces::Grant;
use crate::message::{Acknowledge, Batch, Delivery, Message, Rejection, Take};

/// What a connection gives. Only what belongs to its interface is looked at.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Arrive when somebody subscribes, in this order.
    pub messages: Vec<Message>,
    /// How every subscription is refused.
    pub subscribe: Option<ConnectionError>,
    /// What the first `receive` says.
    pub receive: Option<ConnectionError>,
    /// Answers to publishing, in order; afterwards all is taken.
    pub publish: VecDeque<Result<Vec<Rejection>, ConnectionError>>,
    /// What every further publish says, in place of taking it.
    pub publish_always: Option<ConnectionError>,
    /// Answers to requests: the first unused one that fits.
    pub http: Vec<Answer<HttpResponse>>,
    /// Answers to statements: the first unused one that fits.
    pub sql: Vec<Answer<SqlAnswer>>,
    /// How statements are written: `sqlite` unless it says otherwise.
    pub dialect: Option<&'static str>,
}

/// One answer of a script.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The method of a request; None: any. Compared without regard to case.
    pub method: Option<String>,
    /// The path of a request, or the statement; `*` stands for anything; None: any.
    pub pattern: Option<String>,
    /// It is used again and again.
    pub repeat: bool,
    /// It was used.
    pub used: bool,
    /// What is answered.
    pub answer: Result<T, ConnectionError>,
}

impl<T> Answer<T> {
    /// An answer to everything, for ever.
    pub fn always(answer: Result<T, ConnectionError>) -> Self {
        Self {
            method: None,
            pattern: None,
            repeat: true,
            used: false,
            answer,
        }
    }

    /// An answer to anything, once.
    pub fn once(answer: Result<T, ConnectionError>) -> Self {
        Self {
            repeat: false,
            ..Self::always(answer)
        }
    }
}

/// What a statement gives.
#[derive(Clone, Debug, Default)]
pub struct SqlAnswer {
    /// To a query.
    pub rows: Rows,
    /// To an execution: how many rows changed; None: one for each row of parameters.
    pub changed: Option<u32>,
}

/// Something that the connector asked of a connection.
#[derive(Clone, Debug)]
pub struct Call {
    /// The slot.
    pub slot: String,
    /// What.
    pub deed: Deed,
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum Deed {
    /// A subscription.
    Subscribe(Vec<String>, SubscribeOptions),
    /// A batch to publish.
    Publish(Batch, PublishOptions),
    /// A request.
    Request(HttpRequest),
    /// A query with its parameters.
    Query(String, Vec<SqlValue>),
    /// A statement with its rows of parameters.
    Execute(String, Vec<Vec<SqlValue>>),
}

/// What was asked of all connections of one use, in order.
#[derive(Debug, Default)]
pub struct Record(Mutex<Vec<Call>>);

impl Record {
    fn add(&self, slot: &str, deed: Deed) {
        self.0.lock().push(Call {
            slot: slot.to_owned(),
            deed,
        });
    }

    /// All of it so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.0.lock().clone()
    }

    /// All of it so far; the record is empty then.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock())
    }
}

/// A connection with a script.
#[derive(Debug)]
pub struct Scripted {
    slot: String,
    interface: Interface,
    record: Arc<Record>,
    state: Mutex<Script>,
    broker: Arc<Broker>,
}

/// The messages of a connection and who takes them.
#[derive(Debug, Default)]
struct Broker {
    state: Mutex<BrokerState>,
    acks: Arc<Acks>,
}

#[derive(Debug, Default)]
struct BrokerState {
    given: Vec<Message>,
    next: u64,
    takers: Vec<Taker>,
    /// Whether each given message ever reached somebody.
    reached: HashSet<u64>,
}

#[derive(Debug)]
struct Taker {
    number: u64,
    filters: Vec<String>,
    inbox: Arc<Inbox>,
}

/// Which messages are settled.
#[derive(Debug, Default)]
struct Acks(Mutex<HashSet<u64>>);

impl Acknowledge for Acks {
    fn settled(&self, key: u64) {
        self.0.lock().insert(key);
    }
}

#[derive(Debug)]
struct Guard {
    broker: Arc<Broker>,
    number: u64,
}

impl SubscriptionGuard for Guard {}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.broker.state.lock();
        state.takers.retain(|taker| taker.number != self.number);
    }
}

impl Broker {
    fn give(&self, messages: Vec<Message>) {
        let mut state = self.state.lock();
        for message in messages {
            let key = state.given.len() as u64;
            state.given.push(message.clone());
            let reached = state
                .takers
                .iter()
                .filter(|taker| takes(&taker.filters, &message))
                .map(|taker| self.deliver(&taker.inbox, &taker.filters, key, &message))
                .count();
            if reached > 0 {
                state.reached.insert(key);
            }
        }
    }

    fn deliver(&self, inbox: &Inbox, filters: &[String], key: u64, message: &Message) {
        let acks = Arc::clone(&self.acks);
        let mut message = message.clone();
        if message.subject.is_empty()
            && let Some(filter) = filters.first()
        {
            message.subject = subject_of(filter).into();
        }
        let take = Some(Take::new(acks, key));
        // A closed inbox hands it back: nobody wants it any more, and it stays unsettled.
        drop(inbox.push(Delivery { message, take }));
    }

    fn subscribe(self: &Arc<Self>, filters: &[String], inbox: Arc<Inbox>) -> Guard {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let settled = self.acks.0.lock().clone();
        let waiting: Vec<(u64, Message)> = (0_u64..)
            .zip(&state.given)
            .filter(|(key, message)| !settled.contains(key) && takes(filters, message))
            .map(|(key, message)| (key, message.clone()))
            .collect();
        for (key, message) in waiting {
            self.deliver(&inbox, filters, key, &message);
            state.reached.insert(key);
        }
        state.takers.push(Taker {
            number,
            filters: filters.to_vec(),
            inbox,
        });
        Guard {
            broker: Arc::clone(self),
            number,
        }
    }
}

/// One of the filters takes it. A message without a subject suits every filter.
fn takes(filters: &[String], message: &Message) -> bool {
    message.subject.is_empty()
        || filters
            .iter()
            .any(|filter| matches(plain(filter), &message.subject))
}

/// The filter without what makes it a shared one.
fn plain(filter: &str) -> &str {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(filter, |(_, filter)| filter)
}

/// As topics are matched: `+` is one level, `#` the rest.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut wanted, mut levels) = (filter.split('/'), subject.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// A subject that a filter lets pass.
pub(super) fn subject_of(filter: &str) -> String {
    let levels: Vec<&str> = plain(filter)
        .split('/')
        .map(|level| match level {
            "+" | "#" => "x",
            level => level,
        })
        .collect();
    levels.join("/")
}

/// Whether a text fits a pattern in which `*` stands for anything. Runs of white space are equal.
fn fits(pattern: &str, text: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, text) = (squeeze(pattern), squeeze(text));
    if pattern == text {
        return true;
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Scripted {
    /// A connection for a slot, with its script and the record that it shares with others.
    #[must_use]
    pub fn new(
        slot: &str,
        interface: Interface,
        mut script: Script,
        record: &Arc<Record>,
    ) -> Arc<Self> {
        let broker = Arc::new(Broker::default());
        broker.give(std::mem::take(&mut script.messages));
        Arc::new(Self {
            slot: slot.to_owned(),
            interface,
            record: Arc::clone(record),
            state: Mutex::new(script),
            broker,
        })
    }

    /// The grant of this connection to its slot.
    #[must_use]
    pub fn grant(self: &Arc<Self>) -> Grant {
        Grant {
            slot: self.slot.clone(),
            target: Arc::new(Target(Arc::clone(self))),
        }
    }

    /// The slot that it stands for.
    #[must_use]
    pub fn slot(&self) -> &str {
        &self.slot
    }

    /// What it offers.
    #[must_use]
    pub fn interface(&self) -> Interface {
        self.interface
    }

    /// More messages arrive.
    pub fn give(&self, messages: Vec<Message>) {
        self.broker.give(messages);
    }

    /// How many of its messages are settled.
    #[must_use]
    pub fn settled(&self) -> usize {
        self.broker.acks.0.lock().len()
    }

    /// Subjects of messages that no subscription wanted.
    #[must_use]
    pub fn unwanted(&self) -> Vec<String> {
        let state = self.broker.state.lock();
        (0_u64..)
            .zip(&state.given)
            .filter(|(key, _)| !state.reached.contains(key))
            .map(|(_, message)| message.subject.to_string())
            .collect()
    }

    /// How many scripted answers to requests and statements were not used.
    #[must_use]
    pub fn unused(&self) -> usize {
        let state = self.state.lock();
        let http = state.http.iter().filter(|one| !one.used).count();
        http + state.sql.iter().filter(|one| !one.used).count()
    }
}

#[derive(Debug)]
struct Target(Arc<Scripted>);

impl Granted for Target {
    fn id(&self) -> &str {
        &self.0.slot
    }

    fn connection(&self) -> Arc<dyn Connection> {
        self.0.clone()
    }

    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        Messaging::subscribe(&*self.0, filters, options, inbox)
    }
}

#[async_trait]
impl Connection for Scripted {
    async fn connect(&self) -> Result<(), ConnectionError> {
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        std::future::pending().await
    }

    async fn close(&self) {}

    fn messaging(&self) -> Option<&dyn Messaging> {
        (self.interface == Interface::Messaging).then_some(self)
    }

    fn http(&self) -> Option<&dyn Http> {
        (self.interface == Interface::Http).then_some(self)
    }

    fn sql(&self) -> Option<&dyn Sql> {
        (self.interface == Interface::Sql).then_some(self)
    }
}

#[async_trait]
impl Messaging for Scripted {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        let deed = Deed::Subscribe(filters.to_vec(), options.clone());
        self.record.add(&self.slot, deed);
        let mut state = self.state.lock();
        if let Some(error) = &state.subscribe {
            return Err(error.clone());
        }
        if let Some(error) = state.receive.take() {
            inbox.fail(error);
        }
        drop(state);
        Ok(Box::new(self.broker.subscribe(filters, inbox)))
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let deed = Deed::Publish(batch.clone(), options.clone());
        self.record.add(&self.slot, deed);
        let mut state = self.state.lock();
        match (state.publish.pop_front(), &state.publish_always) {
            (Some(answer), _) => answer,
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(Vec::new()),
        }
    }
}

/// The first answer that is not used up and fits.
fn pick<T: Clone>(
    answers: &mut [Answer<T>],
    method: Option<&str>,
    text: &str,
) -> Option<Result<T, ConnectionError>> {
    let answer = answers.iter_mut().find(|one| {
        let free = one.repeat || !one.used;
        let by_method = match (&one.method, method) {
            (Some(wanted), Some(method)) => wanted.eq_ignore_ascii_case(method),
            _ => true,
        };
        free && by_method
            && one
                .pattern
                .as_deref()
                .is_none_or(|wanted| fits(wanted, text))
    })?;
    answer.used = true;
    Some(answer.answer.clone())
}

#[async_trait]
impl Http for Scripted {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ConnectionError> {
        self.record.add(&self.slot, Deed::Request(request.clone()));
        let (method, path) = (&request.method, &request.path);
        pick(&mut self.state.lock().http, Some(method), path).unwrap_or_else(|| {
            Err(ConnectionError::permanent(
                "no-answer",
                format!("nothing is said about an answer to {method} {path}"),
            ))
        })
    }

    /// One after the other, so that the record has the order of the requests.
    fn concurrency(&self) -> usize {
        1
    }
}

#[async_trait]
impl Sql for Scripted {
    fn dialect(&self) -> &'static str {
        self.state.lock().dialect.unwrap_or("sqlite")
    }

    async fn query(&self, statement: &str, params: Vec<SqlValue>) -> Result<Rows, ConnectionError> {
        let deed = Deed::Query(statement.to_owned(), params);
        self.record.add(&self.slot, deed);
        match pick(&mut self.state.lock().sql, None, statement) {
            Some(answer) => answer.map(|answer| answer.rows),
            None => Err(ConnectionError::permanent(
                "no-answer",
                format!("nothing is said about the rows of: {statement}"),
            )),
        }
    }

    async fn execute_many(
        &self,
        statement: &str,
        params: Vec<Vec<SqlValue>>,
    ) -> Result<u32, ConnectionError> {
        let all = u32::try_from(params.len()).unwrap_or(u32::MAX);
        let deed = Deed::Execute(statement.to_owned(), params);
        self.record.add(&self.slot, deed);
        match pick(&mut self.state.lock().sql, None, statement) {
            Some(answer) => answer.map(|answer| answer.changed.unwrap_or(all)),
            None => Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::HttpHead;

    fn message(subject: &str, text: &str) -> Message {
        Message {
            subject: subject.into(),
            ..Message::new(text.to_owned())
        }
    }

    fn texts(deliveries: &[Delivery]) -> Vec<String> {
        let text = |one: &Delivery| String::from_utf8_lossy(&one.message.payload).into_owned();
        deliveries.iter().map(text).collect()
    }

    #[test]
    fn what_is_not_settled_comes_again_to_the_next_subscription() {
        let record = Arc::new(Record::default());
        let script = Script {
            messages: vec![message("in/1", "a"), message("", "b"), message("out", "c")],
            ..Script::default()
        };
        let broker = Scripted::new("broker", Interface::Messaging, script, &record);
        let filters = ["in/+".to_owned()];
        let inbox = Arc::new(Inbox::default());
        let subscribe = |inbox: &Arc<Inbox>| {
            Messaging::subscribe(
                &*broker,
                &filters,
                &SubscribeOptions::default(),
                inbox.clone(),
            )
            .unwrap()
        };
        let guard = subscribe(&inbox);
        let mut got = inbox.try_receive(9).unwrap().unwrap();
        assert_eq!(texts(&got), ["a", "b"]);
        assert_eq!(&*got[1].message.subject, "in/x");
        assert_eq!(broker.unwanted(), ["out"]);
        got.remove(0).take.unwrap().settle();
        drop((got, guard));
        broker.give(vec![message("in/2", "d")]);
        let again = Arc::new(Inbox::default());
        let _guard = subscribe(&again);
        assert_eq!(texts(&again.try_receive(9).unwrap().unwrap()), ["b", "d"]);
        assert_eq!((broker.settled(), record.calls().len()), (1, 2));
    }

    #[tokio::test]
    async fn answers_are_used_in_order_and_by_what_was_asked() {
        let response = |status| HttpResponse {
            status,
            headers: Vec::new(),
            body: bytes::Bytes::new(),
            truncated: false,
        };
        let answer = |method: &str, path: &str, status| Answer {
            method: Some(method.to_owned()),
            pattern: Some(path.to_owned()),
            ..Answer::once(Ok(response(status)))
        };
        let script = Script {
            http: vec![
                answer("GET", "/a*", 200),
                answer("post", "/a", 201),
                answer("GET", "/a/b", 202),
            ],
            ..Script::default()
        };
        let server = Scripted::new("s", Interface::Http, script, &Arc::default());
        let send = async |method: &str, path: &str| {
            let head = HttpHead {
                method: method.to_owned(),
                path: path.to_owned(),
                ..HttpHead::default()
            };
            let request = HttpRequest {
                head: Arc::new(head),
                ..HttpRequest::default()
            };
            Http::send(&*server, request)
                .await
                .map(|answer| answer.status)
        };
        assert_eq!(send("POST", "/a").await.unwrap(), 201);
        assert_eq!(send("GET", "/a/b").await.unwrap(), 200);
        assert_eq!(send("GET", "/a/b").await.unwrap(), 202);
        assert_eq!(send("GET", "/a/b").await.unwrap_err().code, "no-answer");
        assert_eq!(server.unused(), 0);
    }

    #[test]
    fn a_star_stands_for_anything_and_spaces_are_equal() {
        for (pattern, text, fit) in [
            ("SELECT * FROM t", "SELECT  *\n FROM t", true),
            ("SELECT * FROM t", "SELECT a, b FROM t", true),
            ("SELECT * FROM t", "SELECT a FROM u", false),
            ("INSERT*", "INSERT INTO t", true),
            ("*", "", true),
            ("a", "ab", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
        ] {
            assert_eq!(fits(pattern, text), fit, "{pattern} {text}");
        }
    }
}
