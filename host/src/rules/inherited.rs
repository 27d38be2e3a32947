//! Headers that came with a message, where an action takes it: they go with it to the sink, but for those
//! that the action's connection does not carry (to NATS some are commands). Here and not where they are
//! sent: later nobody can tell them from those that the action itself has put there.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::connections::Carries;
use crate::message::{Batch, Message};

/// What becomes of them in one action.
#[derive(Debug, Default)]
pub struct Inherited {
    carries: Vec<Carries>,
    /// Whose it is, for the log.
    owner: String,
    told: AtomicBool,
}

impl Inherited {
    /// Only what all of these carry goes on.
    #[must_use]
    pub fn new(carries: Vec<Carries>, owner: String) -> Self {
        Self {
            carries,
            owner,
            told: AtomicBool::new(false),
        }
    }

    /// The batch without what is left out; the very batch, if that is nothing. The header `id` stays: what
    /// came in it is the message's id, because the action asks for one.
    #[must_use]
    pub fn strip(&self, batch: Batch, id: Option<&str>) -> Batch {
        if self.carries.is_empty() || batch.iter().all(|message| self.all_go(message, id)) {
            return batch;
        }
        let each = batch.iter().map(|message| {
            let stripped = self.strip_one(message, id);
            stripped.unwrap_or_else(|| message.clone())
        });
        each.collect::<Vec<_>>().into()
    }

    /// The message without what is left out; None: that is nothing.
    #[must_use]
    pub fn strip_one(&self, message: &Message, id: Option<&str>) -> Option<Message> {
        if self.all_go(message, id) {
            return None;
        }
        let mut pairs = message.headers.pairs().to_vec();
        pairs.retain(|(name, value)| match self.goes(name, value, id) {
            Ok(()) => true,
            Err(why) => {
                // Once: a source has the same ones in all of its messages.
                if !self.told.swap(true, Ordering::Relaxed) {
                    let name: String = name.chars().take(60).collect();
                    tracing::info!(action = %self.owner, "the header \"{name}\", which came with a message, is left out: {why}; so will others be");
                }
                false
            }
        });
        Some(Message {
            headers: pairs.into(),
            ..message.clone()
        })
    }

    fn all_go(&self, message: &Message, id: Option<&str>) -> bool {
        let mut pairs = message.headers.pairs().iter();
        pairs.all(|(name, value)| self.goes(name, value, id).is_ok())
    }

    fn goes(&self, name: &str, value: &str, id: Option<&str>) -> Result<(), &'static str> {
        if id == Some(name) {
            return Ok(());
        }
        let mut all = self.carries.iter();
        all.try_for_each(|carries| carries(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[&str]) -> Message {
        let pairs = headers.iter();
        let pairs = pairs.map(|name| ((*name).to_owned(), "v".to_owned()));
        Message {
            headers: pairs.collect::<Vec<_>>().into(),
            ..Message::new("x")
        }
    }

    fn names(batch: &Batch) -> Vec<Vec<&str>> {
        let names = |message| {
            let message: &Message = message;
            let pairs = message.headers.pairs().iter();
            pairs.map(|(name, _)| name.as_str()).collect()
        };
        batch.iter().map(names).collect()
    }

    #[test]
    fn only_what_the_connection_carries_goes_on_and_the_id_that_is_asked_for() {
        let inherited = Inherited::new(
            vec![|name, _| {
                if name.starts_with("bad") {
                    Err("it is bad")
                } else {
                    Ok(())
                }
            }],
            String::new(),
        );
        let batch = Batch::from(vec![
            with(&["bad-1", "a", "bad-2"]),
            with(&["b"]),
            with(&[]),
        ]);
        let gone = inherited.strip(batch.clone(), None);
        assert_eq!(names(&gone), [vec!["a"], vec!["b"], vec![]]);
        let kept = inherited.strip(batch.clone(), Some("bad-2"));
        assert_eq!(names(&kept)[0], ["a", "bad-2"]);
        assert!(inherited.strip_one(&batch[1], None).is_none());
        let all = Inherited::default().strip(batch.clone(), None);
        assert_eq!(names(&all), names(&batch));
    }
}
