//! `rest`: a request for each message, many of them under way at once. Where nothing but the payload
//! changes from one to the next, no payload enters the sandbox.
//!
//! `request` makes the requests of a batch, `form` the bodies of forms with files, `verdict` reads the
//! answers: 2xx is delivered; 408, 425, 429 and 5xx come again, not before the server's Retry-After;
//! everything else becomes a dead letter with what the server said. Where requests go, and with what
//! credentials, is the connection's.

mod form;
mod request;
mod verdict;

use windlass_connector::http::Client;
use windlass_connector::log::{self, Level};
use windlass_connector::{Batch, Descriptor, Error, Kind, Rejection, Schema, Sink, Slot};

use crate::request::{Config, Plan, Shape};
use crate::verdict::Judge;

windlass_connector::export! {
    descriptor: Descriptor {
        name: "rest",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[Slot::http("server", "The HTTP server.")],
    },
    sink: RestSink,
}

#[derive(Debug)]
struct RestSink {
    client: Client,
    shape: Shape,
    judge: Judge,
}

impl Sink for RestSink {
    type Config = Config;

    fn open(config: Config) -> Result<Self, Error> {
        let judge = Judge {
            by_body: config.response_type == request::ResponseType::Body,
        };
        Ok(Self {
            client: Client::open("server")?,
            shape: Shape::new(config)?,
            judge,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let answers = match self.shape.plan(&batch) {
            Plan::Same(request) => self.client.send_each(&request, &batch),
            Plan::Each(requests) => self.client.send_all(&requests),
        };
        let mut rejections = Vec::new();
        for (index, answer) in (0..).zip(answers) {
            let verdict = match answer {
                Ok(response) => {
                    if self.shape.logs() {
                        let text = verdict::said(&response);
                        log::write(Level::Debug, &format!("answer {}: {text}", response.status));
                    }
                    self.judge.of(&response)
                }
                // A path that a message made is that message's fault.
                Err(error) if self.shape.is_rendered() && its_own(&error) => {
                    Err(Error::permanent(error.code, error.message))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = verdict {
                rejections.push(error.at(index));
            }
        }
        Ok(rejections)
    }
}

/// An error of one path and not of the connection.
fn its_own(error: &Error) -> bool {
    (error.kind == Kind::Denied && error.code == "path") || error.code.starts_with("http:redirect")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_outside_of_the_connection_is_the_messages_fault_and_a_missing_grant_is_not() {
        for (kind, code, own) in [
            (Kind::Denied, "path", true),
            (Kind::Denied, "denied", false),
            (Kind::Transient, "http:redirect", true),
            (Kind::Transient, "timeout", false),
        ] {
            assert_eq!(its_own(&Error::new(kind, code, "x")), own, "{code}");
        }
    }
}
