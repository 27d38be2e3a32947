//! Windlass as a server: started on a data folder, spoken to over REST as any client speaks to it.

use std::time::Duration;

use serde_json::Value;

use crate::described::Description;
use crate::machine::holds_within;
use crate::pusher::{Answered, Client};

/// One client of a REST interface on 127.0.0.1. Each call is one request; a connection that has ended
/// is dialled again once.
#[derive(Debug)]
pub struct Rest {
    port: u16,
    client: Client,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
}

impl Rest {
    /// A client of the server on this port.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self {
            port,
            client: Client::new(port),
            headers: Vec::new(),
        }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// No connection, or it broke before the answer was there.
    pub fn try_send(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answered> {
        let headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.client.send(method, path, &headers, body)
    }

    /// The same, where an answer must come, and must be as the server's description says.
    ///
    /// # Panics
    /// None does, or it is otherwise.
    pub fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Answered {
        // A kept connection may have been closed by the server since the last request.
        let first = self.try_send(method, path, body);
        let answered = first
            .or_else(|_| self.try_send(method, path, body))
            .unwrap_or_else(|error| panic!("{method} {path} was not answered: {error}"));
        let described = Description::of_server(self.port);
        if let Some(Err(error)) = described.map(|known| known.check(method, path, &answered)) {
            panic!("{error}");
        }
        answered
    }

    /// `GET`: the status and the JSON.
    pub fn get(&mut self, path: &str) -> (u16, Value) {
        let answered = self.send("GET", path, b"");
        let json = serde_json::from_str(&answered.body).unwrap_or(Value::Null);
        (answered.status, json)
    }

    /// `POST` of JSON: the status and the text.
    pub fn post(&mut self, path: &str, body: &Value) -> (u16, String) {
        let answered = self.send("POST", path, body.to_string().as_bytes());
        (answered.status, answered.body)
    }

    /// `PUT` of JSON: the status and the text.
    pub fn put(&mut self, path: &str, body: &Value) -> (u16, String) {
        let answered = self.send("PUT", path, body.to_string().as_bytes());
        (answered.status, answered.body)
    }

    /// `DELETE`: the status and the text.
    pub fn delete(&mut self, path: &str) -> (u16, String) {
        let answered = self.send("DELETE", path, b"");
        (answered.status, answered.body)
    }

    /// `POST` that must be answered with this status.
    ///
    /// # Panics
    /// It is answered otherwise.
    pub fn must_post(&mut self, path: &str, body: &Value, status: u16) -> String {
        let (found, text) = self.post(path, body);
        assert_eq!(found, status, "POST {path} {body}: {text}");
        text
    }

    /// `PUT` that must be answered with this status.
    ///
    /// # Panics
    /// It is answered otherwise.
    pub fn must_put(&mut self, path: &str, body: &Value, status: u16) -> String {
        let (found, text) = self.put(path, body);
        assert_eq!(found, status, "PUT {path} {body}: {text}");
        text
    }

    /// Waits until what is at this path satisfies a condition.
    ///
    /// # Panics
    /// It does not within `limit`.
    pub fn wait(
        &mut self,
        path: &str,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let holds = holds_within(limit, || {
            last = self.get(path).1;
            condition(&last)
        });
        assert!(
            holds,
            "waited {limit:?} in vain until {what}; {path}: {last}"
        );
        last
    }
}
