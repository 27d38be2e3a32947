//! `wit/types.wit`: errors, and batches as handles.
//!
//! Everything here is synchronous: it touches memory only.

use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::Resource;

use super::bindings::windlass::connector::types as wit;
use super::host::Host;
use super::journal::cut;
use crate::error::{ConnectionError, ErrorKind};
use crate::message::{Arrival, Batch, Headers, Message, Rejection, Subject};

/// What a handle of type `batch` stands for; the batch itself is in the host's table.
#[derive(Debug)]
pub struct BatchHandle;

/// A guest's own error text is cut at these many bytes.
const MESSAGE_BYTES: usize = 4 * 1024;
const CODE_BYTES: usize = 128;

/// For the guest: kind, code and sentence. Causes stay here; they may name an address.
pub(super) fn to_guest(error: &ConnectionError) -> wit::Error {
    wit::Error {
        kind: match error.kind {
            ErrorKind::Transient => wit::Kind::Transient,
            ErrorKind::Disconnected => wit::Kind::Disconnected,
            ErrorKind::Permanent => wit::Kind::Permanent,
            ErrorKind::Denied => wit::Kind::Denied,
            ErrorKind::Misconfigured => wit::Kind::Misconfigured,
        },
        code: error.code.clone(),
        message: error.message.clone(),
        retry_after_ms: error
            .retry_after
            .map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)),
    }
}

/// What a guest said, cut to a sane length.
pub(crate) fn from_guest(error: wit::Error) -> ConnectionError {
    let kind = match error.kind {
        wit::Kind::Transient => ErrorKind::Transient,
        wit::Kind::Disconnected => ErrorKind::Disconnected,
        wit::Kind::Permanent => ErrorKind::Permanent,
        wit::Kind::Denied => ErrorKind::Denied,
        wit::Kind::Misconfigured => ErrorKind::Misconfigured,
    };
    let said = ConnectionError::new(
        kind,
        cut(&error.code, CODE_BYTES),
        cut(&error.message, MESSAGE_BYTES),
    );
    match error.retry_after_ms {
        Some(wait) => said.retry_after(Duration::from_millis(wait.into())),
        None => said,
    }
}

pub(super) fn rejections(rejections: &[Rejection]) -> Vec<wit::Rejection> {
    rejections
        .iter()
        .map(|rejection| wit::Rejection {
            index: rejection.index,
            error: to_guest(&rejection.error),
        })
        .collect()
}

fn misfit(message: String) -> wit::Error {
    to_guest(&ConnectionError::permanent("does-not-fit", message))
}

/// A guest asked for more than fits into it. A trap.
#[derive(Debug, thiserror::Error)]
#[error("the contents of a batch are {0} bytes, more than fits into the guest's memory")]
struct TooLarge(usize);

impl Host {
    /// A batch whose contents the guest wants to see. The same payload may stand in it many times,
    /// so that a small batch can have contents of any size.
    fn contents(&self, handle: &Resource<BatchHandle>) -> wasmtime::Result<&Batch> {
        let batch = self.batches.get(handle)?;
        let bytes = batch
            .iter()
            .fold(0_usize, |sum, message| sum.saturating_add(message.weight()));
        if bytes > self.parts.memory_bytes.saturating_mul(2) {
            return Err(TooLarge(bytes).into());
        }
        Ok(batch)
    }
}

type Answer<T> = wasmtime::Result<Result<T, wit::Error>>;

impl wit::Host for Host {}

impl wit::HostBatch for Host {
    fn new(&mut self, messages: Vec<wit::Message>) -> wasmtime::Result<Resource<BatchHandle>> {
        let messages: Vec<_> = messages
            .into_iter()
            .map(|message| Message {
                payload: message.payload.into(),
                subject: message.subject.into(),
                headers: message.headers.into(),
                arrival: Arrival::default(),
            })
            .collect();
        let bytes = messages.iter().map(Message::weight).sum();
        Ok(self.batches.push_made(messages.into(), bytes)?)
    }

    fn from_columns(&mut self, columns: wit::Columns) -> Answer<Resource<BatchHandle>> {
        let bytes = columns.payloads.len();
        match batch_from_columns(columns) {
            Ok(batch) => Ok(Ok(self.batches.push_made(batch, bytes)?)),
            Err(error) => Ok(Err(misfit(error))),
        }
    }

    fn from_texts(&mut self, texts: Vec<String>) -> wasmtime::Result<Resource<BatchHandle>> {
        let messages: Vec<_> = texts.into_iter().map(Message::new).collect();
        let bytes = messages.iter().map(Message::weight).sum();
        Ok(self.batches.push_made(messages.into(), bytes)?)
    }

    fn len(&mut self, batch: Resource<BatchHandle>) -> wasmtime::Result<u32> {
        Ok(u32::try_from(self.batches.get(&batch)?.len())?)
    }

    fn messages(&mut self, batch: Resource<BatchHandle>) -> wasmtime::Result<Vec<wit::Message>> {
        let batch = self.contents(&batch)?;
        Ok(batch
            .iter()
            .map(|message| wit::Message {
                payload: message.payload.to_vec(),
                subject: message.subject.to_string(),
                headers: message.headers.pairs().to_vec(),
            })
            .collect())
    }

    fn columns(&mut self, batch: Resource<BatchHandle>) -> wasmtime::Result<wit::Columns> {
        let batch = self.contents(&batch)?;
        let bytes = batch.iter().map(|message| message.payload.len()).sum();
        let mut payloads = Vec::with_capacity(bytes);
        let mut ends = Vec::with_capacity(batch.len());
        let mut subjects: Vec<String> = Vec::new();
        let mut subject_of = Vec::with_capacity(batch.len());
        let mut places = Places::default();
        for message in batch.iter() {
            payloads.extend_from_slice(&message.payload);
            ends.push(u32::try_from(payloads.len())?);
            subject_of.push(places.place_of(&message.subject, &mut subjects)?);
        }
        // One subject needs no places, and no subject at all needs not even a list.
        if subjects.len() <= 1 {
            subject_of = Vec::new();
            subjects.retain(|subject| !subject.is_empty());
        }
        Ok(wit::Columns {
            payloads,
            ends,
            subjects,
            subject_of,
        })
    }

    fn texts(&mut self, batch: Resource<BatchHandle>) -> wasmtime::Result<Vec<Option<String>>> {
        let batch = self.contents(&batch)?;
        Ok(batch
            .iter()
            .map(|message| str::from_utf8(&message.payload).ok().map(str::to_owned))
            .collect())
    }

    fn header(
        &mut self,
        batch: Resource<BatchHandle>,
        name: String,
    ) -> wasmtime::Result<Vec<String>> {
        let batch = self.batches.get(&batch)?;
        Ok(batch
            .iter()
            .map(|message| message.headers.get(&name).unwrap_or_default().to_owned())
            .collect())
    }

    fn select(
        &mut self,
        batch: Resource<BatchHandle>,
        indices: Vec<u32>,
    ) -> Answer<Resource<BatchHandle>> {
        let batch = self.batches.get(&batch)?;
        match batch.select(&indices) {
            Ok(picked) => Ok(Ok(self.batches.push_made(picked, 0)?)),
            Err(index) => Ok(Err(misfit(format!(
                "index {index} is out of range: the batch has {} messages",
                batch.len()
            )))),
        }
    }

    fn with_subjects(
        &mut self,
        batch: Resource<BatchHandle>,
        subjects: Vec<String>,
        subject_of: Vec<u32>,
    ) -> Answer<Resource<BatchHandle>> {
        let batch = self.batches.get(&batch)?;
        match subjects_of(subjects, &subject_of, batch.len()) {
            Ok(subjects) => {
                let messages: Vec<_> = batch
                    .iter()
                    .zip(subjects)
                    .map(|(message, subject)| Message {
                        subject,
                        ..message.clone()
                    })
                    .collect();
                Ok(Ok(self.batches.push_made(messages.into(), 0)?))
            }
            Err(error) => Ok(Err(misfit(error))),
        }
    }

    fn with_payloads(
        &mut self,
        batch: Resource<BatchHandle>,
        other: Resource<BatchHandle>,
    ) -> Answer<Resource<BatchHandle>> {
        let (batch, other) = (self.batches.get(&batch)?, self.batches.get(&other)?);
        if batch.len() != other.len() {
            let (len, others) = (batch.len(), other.len());
            return Ok(Err(misfit(format!(
                "the other batch has {others} messages, this one {len}"
            ))));
        }
        let messages: Vec<_> = batch
            .iter()
            .zip(other.iter())
            .map(|(message, other)| Message {
                payload: other.payload.clone(),
                ..message.clone()
            })
            .collect();
        Ok(Ok(self.batches.push_made(messages.into(), 0)?))
    }

    fn drop(&mut self, batch: Resource<BatchHandle>) -> wasmtime::Result<()> {
        Ok(self.batches.drop_handle(&batch)?)
    }
}

/// Finds the place of a subject among the distinct ones. Neighbours are often equal, so the last one
/// is compared first; a few are searched, many are hashed.
#[derive(Default)]
struct Places {
    last: Option<u32>,
    map: std::collections::HashMap<Subject, u32>,
}

impl Places {
    fn place_of(&mut self, subject: &Subject, subjects: &mut Vec<String>) -> wasmtime::Result<u32> {
        if let Some(last) = self.last
            && subjects
                .get(last as usize)
                .is_some_and(|known| known.as_str() == &**subject)
        {
            return Ok(last);
        }
        let place = match self.map.get(subject) {
            Some(place) => *place,
            None => {
                let place = u32::try_from(subjects.len())?;
                subjects.push(subject.to_string());
                self.map.insert(subject.clone(), place);
                place
            }
        };
        self.last = Some(place);
        Ok(place)
    }
}

/// One subject per message, from a dictionary and places as in `columns`.
fn subjects_of(
    subjects: Vec<String>,
    subject_of: &[u32],
    len: usize,
) -> Result<Vec<Subject>, String> {
    let subjects: Vec<Subject> = subjects.into_iter().map(Subject::from).collect();
    if subject_of.is_empty() {
        if subjects.len() > 1 && len > 0 {
            return Err(format!(
                "{} subjects but no places for {len} messages",
                subjects.len()
            ));
        }
        return Ok(vec![subjects.first().cloned().unwrap_or_default(); len]);
    }
    if subject_of.len() != len {
        return Err(format!(
            "{} places of subjects for {len} messages",
            subject_of.len()
        ));
    }
    subject_of
        .iter()
        .map(|&place| {
            let subject = subjects.get(place as usize).cloned();
            subject.ok_or_else(|| {
                format!(
                    "place {place} is out of range: there are {} subjects",
                    subjects.len()
                )
            })
        })
        .collect()
}

fn batch_from_columns(columns: wit::Columns) -> Result<Batch, String> {
    let payloads = Bytes::from(columns.payloads);
    let subjects = subjects_of(columns.subjects, &columns.subject_of, columns.ends.len())?;
    let mut messages = Vec::with_capacity(columns.ends.len());
    let mut start = 0_usize;
    for (index, (end, subject)) in columns.ends.iter().zip(subjects).enumerate() {
        let end = *end as usize;
        if end < start || end > payloads.len() {
            return Err(format!(
                "payload {index} would end at {end}, after a start at {start} in {} bytes",
                payloads.len()
            ));
        }
        let payload = payloads.slice(start..end);
        messages.push(Message {
            payload,
            subject,
            headers: Headers::NONE,
            arrival: Arrival::default(),
        });
        start = end;
    }
    if start != payloads.len() {
        return Err(format!(
            "the last payload ends at {start}, but there are {} bytes",
            payloads.len()
        ));
    }
    Ok(messages.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(
        payloads: &[u8],
        ends: &[u32],
        subjects: &[&str],
        subject_of: &[u32],
    ) -> wit::Columns {
        wit::Columns {
            payloads: payloads.to_vec(),
            ends: ends.to_vec(),
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            subject_of: subject_of.to_vec(),
        }
    }

    #[test]
    fn columns_become_messages_without_copying_payloads() {
        let batch =
            batch_from_columns(columns(b"abcde", &[2, 2, 5], &["x", "y"], &[1, 0, 1])).unwrap();
        let seen: Vec<_> = batch
            .iter()
            .map(|m| (m.payload.as_ref(), &*m.subject))
            .collect();
        assert_eq!(seen, [(b"ab".as_ref(), "y"), (b"", "x"), (b"cde", "y")]);
        assert_eq!(
            batch[0].payload.as_ptr().wrapping_add(2),
            batch[2].payload.as_ptr()
        );
    }

    #[test]
    fn columns_that_contradict_each_other_are_refused_with_the_place() {
        for (bad, words) in [
            (
                columns(b"abc", &[2, 1], &[], &[]),
                "payload 1 would end at 1",
            ),
            (columns(b"abc", &[4], &[], &[]), "payload 0 would end at 4"),
            (
                columns(b"abc", &[2], &[], &[]),
                "the last payload ends at 2",
            ),
            (
                columns(b"abc", &[3], &["a"], &[1]),
                "place 1 is out of range",
            ),
            (columns(b"abc", &[3], &["a"], &[0, 0]), "2 places"),
            (
                columns(b"abc", &[3], &["a", "b"], &[]),
                "2 subjects but no places",
            ),
        ] {
            let error = batch_from_columns(bad).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn causes_never_reach_the_guest() {
        let error = ConnectionError::disconnected("refused", "cannot reach the broker")
            .caused_by("10.0.0.1:1883");
        let seen = to_guest(&error);
        assert!(!format!("{seen:?}").contains("10.0.0.1"));
    }

    #[test]
    fn what_a_guest_says_is_cut() {
        let said = wit::Error {
            kind: wit::Kind::Transient,
            code: "c".repeat(9999),
            message: "m".repeat(99_999),
            retry_after_ms: Some(5),
        };
        let error = from_guest(said);
        assert_eq!(
            (error.code.len(), error.message.len()),
            (CODE_BYTES, MESSAGE_BYTES)
        );
        assert_eq!(error.retry_after, Some(Duration::from_millis(5)));
    }
}
