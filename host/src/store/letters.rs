//! Dead letters: messages that could not be delivered, with the reason, until somebody removes them
//! or has them sent again. Bounded for each tenant; what does not fit is refused, never dropped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::transaction::Transaction;
use super::writer::{Write, Written};
use super::{Store, StoreError, StoreOptions, signed, unsigned};
use crate::message::{Arrival, Message};

/// A message that could not be delivered.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The tenant.
    pub tenant: String,
    /// The rule's id.
    pub rule: String,
    /// The action's name.
    pub action: String,
    /// The stream it came from.
    pub stream: String,
    /// The message.
    pub message: Message,
    /// What kind of error it was (`permanent`, ...).
    pub kind: String,
    /// The error's code.
    pub code: String,
    /// The error's sentence.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Where a dead letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterState {
    /// It lies there.
    Kept,
    /// The host shall send it again.
    Resend,
    /// The host is sending it again.
    Sending,
}

impl LetterState {
    /// The word for people and for JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Resend => "resend",
            Self::Sending => "sending",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::Kept, Self::Resend, Self::Sending]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A dead letter in the store.
#[derive(Clone, Debug)]
pub struct KeptLetter {
    /// Its number within the tenant; never used twice.
    pub id: i64,
    /// Where it is.
    pub state: LetterState,
    /// Bytes of the whole payload.
    pub payload_bytes: u64,
    /// The letter. In a list the payload holds its first 256 bytes only.
    pub letter: DeadLetter,
}

impl KeptLetter {
    /// All that is known, as JSON. The payload as text where it is text, else in base64.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let letter = &self.letter;
        let message = &letter.message;
        let headers: Vec<_> = message
            .headers
            .pairs()
            .iter()
            .map(|(name, value)| json!([name, value]))
            .collect();
        let mut value = json!({
            "id": self.id,
            "atMs": letter.at_ms,
            "rule": letter.rule,
            "action": letter.action,
            "stream": letter.stream,
            "kind": letter.kind,
            "code": letter.code,
            "reason": letter.reason,
            "attempts": letter.attempts,
            "state": self.state.as_str(),
            "subject": &*message.subject,
            "headers": headers,
            "bytes": self.payload_bytes,
        });
        let (name, payload) = match std::str::from_utf8(&message.payload) {
            Ok(text) => ("payload", text.to_owned()),
            Err(_) => ("payloadBase64", BASE64.encode(&message.payload)),
        };
        if let Some(fields) = value.as_object_mut() {
            fields.insert(name.to_owned(), payload.into());
        }
        value
    }

    /// What [`KeptLetter::to_json`] wrote, of this tenant; None: it did not.
    #[must_use]
    pub fn from_json(tenant: &str, value: &Value) -> Option<Self> {
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
        let number = |name: &str| value.get(name)?.as_u64();
        let payload = match text("payloadBase64") {
            Some(coded) => BASE64.decode(coded).ok()?,
            None => text("payload")?.into_bytes(),
        };
        let headers: Vec<(String, String)> =
            serde_json::from_value(value.get("headers")?.clone()).ok()?;
        Some(Self {
            id: value.get("id")?.as_i64()?,
            state: LetterState::of(&text("state")?)?,
            payload_bytes: number("bytes")?,
            letter: DeadLetter {
                tenant: tenant.to_owned(),
                rule: text("rule")?,
                action: text("action")?,
                stream: text("stream")?,
                message: Message {
                    subject: text("subject")?.into(),
                    headers: headers.into(),
                    ..Message::new(payload)
                },
                kind: text("kind")?,
                code: text("code")?,
                reason: text("reason")?,
                attempts: u32::try_from(number("attempts")?).ok()?,
                at_ms: number("atMs")?,
            },
        })
    }
}

/// Which dead letters. `None`: any.
#[derive(Clone, Debug, Default)]
pub struct LetterFilter {
    /// The tenant; always one.
    pub tenant: String,
    /// The rule's id.
    pub rule: Option<String>,
    /// The action's name.
    pub action: Option<String>,
    /// The stream.
    pub stream: Option<String>,
    /// The kind of error.
    pub kind: Option<String>,
    /// The error's code.
    pub code: Option<String>,
    /// Given up at this time or later, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Given up before this time.
    pub until_ms: Option<u64>,
    /// Only those with a higher number: for the next page.
    pub after: Option<i64>,
}

/// What a letter weighs in the bound.
fn size(letter: &DeadLetter) -> u64 {
    letter.message.weight() as u64
}

pub(super) fn read(row: &SqliteRow) -> Result<KeptLetter, sqlx::Error> {
    let headers: String = row.try_get("headers")?;
    let headers: Vec<(String, String)> = serde_json::from_str(&headers).unwrap_or_default();
    let narrow = |name: &str| row.try_get::<i64, _>(name).map(unsigned);
    let arrival = Arrival {
        qos: u8::try_from(narrow("qos")?).unwrap_or_default(),
        retained: narrow("retained")? != 0,
        message_id: u16::try_from(narrow("message_id")?).unwrap_or_default(),
        at_ms: narrow("arrived_ms")?,
        delivery: 0,
    };
    let message = Message {
        payload: row.try_get::<Vec<u8>, _>("payload")?.into(),
        subject: row.try_get::<String, _>("subject")?.into(),
        headers: headers.into(),
        arrival,
    };
    Ok(KeptLetter {
        id: row.try_get("id")?,
        state: match narrow("state")? {
            1 => LetterState::Resend,
            2 => LetterState::Sending,
            _ => LetterState::Kept,
        },
        payload_bytes: narrow("payload_bytes")?,
        letter: DeadLetter {
            tenant: row.try_get("tenant")?,
            rule: row.try_get("rule")?,
            action: row.try_get("action")?,
            stream: row.try_get("stream")?,
            message,
            kind: row.try_get("kind")?,
            code: row.try_get("code")?,
            reason: row.try_get("reason")?,
            attempts: u32::try_from(narrow("attempts")?).unwrap_or(u32::MAX),
            at_ms: narrow("at_ms")?,
        },
    })
}

impl Store {
    /// Keeps messages that cannot be delivered: their numbers. All of them, or none; on disk when
    /// this returns.
    ///
    /// # Errors
    /// [`StoreError::DeadLettersFull`]; the others. The caller keeps the messages and tries again.
    pub async fn bury(&self, letters: Vec<DeadLetter>) -> Result<Vec<i64>, StoreError> {
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        match self.write(Write::Bury(letters)).await? {
            Written::Buried(ids) => Ok(ids),
            other => Err(other.mixed_up()),
        }
    }

    /// Dead letters by number, at most so many, with the beginning of their payloads.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn letters(
        &self,
        filter: &LetterFilter,
        limit: u32,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant, id, rule, action, stream, subject, headers, qos, retained, message_id, arrived_ms, kind, \
             code, reason, attempts, at_ms, state, length(payload) AS payload_bytes, substr(payload, 1, 256) AS payload \
             FROM dead_letters WHERE tenant = $1 AND ($2 IS NULL OR rule = $2) AND ($3 IS NULL OR action = $3) \
             AND ($4 IS NULL OR kind = $4) AND at_ms >= $5 AND id > $6 AND ($7 IS NULL OR stream = $7) \
             AND ($8 IS NULL OR code = $8) AND at_ms < $9 ORDER BY id LIMIT $10",
        )
        .bind(&filter.tenant)
        .bind(&filter.rule)
        .bind(&filter.action)
        .bind(&filter.kind)
        .bind(filter.since_ms.map_or(0, signed))
        .bind(filter.after.unwrap_or(0))
        .bind(&filter.stream)
        .bind(&filter.code)
        .bind(filter.until_ms.map_or(i64::MAX, signed))
        .bind(i64::from(limit))
        .fetch_all(&self.pool().await?)
        .await;
        rows.and_then(|rows| rows.iter().map(read).collect())
            .map_err(|error| self.failed(error))
    }

    /// How many there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_letters(&self, filter: &LetterFilter) -> Result<u64, StoreError> {
        let count: Result<i64, _> = sqlx::query_scalar(
            "SELECT count(*) FROM dead_letters WHERE tenant = $1 AND ($2 IS NULL OR rule = $2) \
             AND ($3 IS NULL OR action = $3) AND ($4 IS NULL OR kind = $4) AND at_ms >= $5 AND id > $6 \
             AND ($7 IS NULL OR stream = $7) AND ($8 IS NULL OR code = $8) AND at_ms < $9",
        )
        .bind(&filter.tenant)
        .bind(&filter.rule)
        .bind(&filter.action)
        .bind(&filter.kind)
        .bind(filter.since_ms.map_or(0, signed))
        .bind(filter.after.unwrap_or(0))
        .bind(&filter.stream)
        .bind(&filter.code)
        .bind(filter.until_ms.map_or(i64::MAX, signed))
        .fetch_one(&self.pool().await?)
        .await;
        count.map(unsigned).map_err(|error| self.failed(error))
    }

    /// One dead letter, whole.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn letter(&self, tenant: &str, id: i64) -> Result<Option<KeptLetter>, StoreError> {
        let pool = self.pool().await?;
        self.whole_letter(&pool, tenant, id)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn whole_letter(
        &self,
        pool: &SqlitePool,
        tenant: &str,
        id: i64,
    ) -> Result<Option<KeptLetter>, sqlx::Error> {
        let row = sqlx::query(
            "SELECT tenant, id, rule, action, stream, subject, headers, qos, retained, message_id, arrived_ms, kind, \
             code, reason, attempts, at_ms, state, length(payload) AS payload_bytes, payload \
             FROM dead_letters WHERE tenant = $1 AND id = $2",
        )
        .bind(tenant)
        .bind(id)
        .fetch_optional(pool)
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Removes dead letters: how many there were.
    ///
    /// # Errors
    /// [`StoreError`]; all are still there.
    pub async fn remove_letters(&self, tenant: &str, ids: &[i64]) -> Result<u64, StoreError> {
        let pool = self.pool().await?;
        let removed = async {
            let mut transaction = Transaction::begin(&pool).await?;
            let (mut removed, mut bytes) = (0, 0);
            for id in ids {
                let size: Option<i64> = sqlx::query_scalar(
                    "DELETE FROM dead_letters WHERE tenant = $1 AND id = $2 RETURNING size",
                )
                .bind(tenant)
                .bind(id)
                .fetch_optional(transaction.connection())
                .await?;
                removed += i64::from(size.is_some());
                bytes += size.unwrap_or(0);
            }
            sqlx::query("UPDATE dead_letter_totals SET messages = messages - $2, bytes = bytes - $3 WHERE tenant = $1")
                .bind(tenant)
                .bind(removed)
                .bind(bytes)
                .execute(transaction.connection())
                .await?;
            transaction.commit().await?;
            Ok(unsigned(removed))
        };
        removed.await.map_err(|error| self.failed(error))
    }
}

/// Keeps letters, or none of them if they do not all fit.
pub(super) async fn bury(
    to: &mut SqliteConnection,
    letters: &[DeadLetter],
    options: &StoreOptions,
) -> Result<Result<Vec<i64>, StoreError>, sqlx::Error> {
    let mut totals: BTreeMap<&str, (Totals, Totals)> = BTreeMap::new();
    for letter in letters {
        let (kept, total) = match totals.entry(&letter.tenant) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let kept = Totals::read(to, &letter.tenant).await?;
                entry.insert((kept, kept))
            }
        };
        total.messages += 1;
        total.bytes += size(letter);
        let fits = |messages, bytes| {
            messages <= options.dead_letters && bytes <= options.dead_letter_bytes
        };
        if fits(total.messages, total.bytes) {
            continue;
        }
        // What is on its way once more does not count: it may wait behind the very message that is to be
        // kept here, and gives its room back only afterwards.
        let sending = Totals::sending(to, &letter.tenant).await?;
        let but = |all: u64, some: u64| all.saturating_sub(some);
        if !fits(
            but(total.messages, sending.messages),
            but(total.bytes, sending.bytes),
        ) {
            return Ok(Err(StoreError::DeadLettersFull {
                messages: kept.messages,
                bytes: kept.bytes,
                max_messages: options.dead_letters,
                max_bytes: options.dead_letter_bytes,
            }));
        }
    }
    // Nothing was written so far: from here on all of it fits.
    let mut ids = Vec::with_capacity(letters.len());
    for letter in letters {
        let Some((_, total)) = totals.get_mut(letter.tenant.as_str()) else {
            continue;
        };
        total.last_id += 1;
        insert(to, total.last_id, letter).await?;
        ids.push(total.last_id);
    }
    for (tenant, (_, total)) in totals {
        total.write(to, tenant).await?;
    }
    Ok(Ok(ids))
}

/// What all dead letters of a tenant weigh.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    messages: u64,
    bytes: u64,
    last_id: i64,
}

impl Totals {
    async fn read(from: &mut SqliteConnection, tenant: &str) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(
            "SELECT messages, bytes, last_id FROM dead_letter_totals WHERE tenant = $1",
        )
        .bind(tenant)
        .fetch_optional(from)
        .await?;
        let Some(row) = row else {
            return Ok(Self::default());
        };
        Ok(Self {
            messages: unsigned(row.try_get("messages")?),
            bytes: unsigned(row.try_get("bytes")?),
            last_id: row.try_get("last_id")?,
        })
    }

    /// Of those that are being sent again.
    async fn sending(from: &mut SqliteConnection, tenant: &str) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(
            "SELECT count(*) AS messages, coalesce(sum(size), 0) AS bytes FROM dead_letters \
             WHERE tenant = $1 AND state = 2",
        )
        .bind(tenant)
        .fetch_one(from)
        .await?;
        Ok(Self {
            messages: unsigned(row.try_get("messages")?),
            bytes: unsigned(row.try_get("bytes")?),
            last_id: 0,
        })
    }

    async fn write(self, to: &mut SqliteConnection, tenant: &str) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO dead_letter_totals (tenant, messages, bytes, last_id) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant) DO UPDATE SET messages = excluded.messages, bytes = excluded.bytes, \
             last_id = excluded.last_id",
        )
        .bind(tenant)
        .bind(signed(self.messages))
        .bind(signed(self.bytes))
        .bind(self.last_id)
        .execute(to)
        .await
        .map(drop)
    }
}

async fn insert(
    to: &mut SqliteConnection,
    id: i64,
    letter: &DeadLetter,
) -> Result<(), sqlx::Error> {
    let Message {
        payload,
        subject,
        headers,
        arrival,
    } = &letter.message;
    let headers = serde_json::to_string(headers.pairs()).unwrap_or_default();
    sqlx::query(
        "INSERT INTO dead_letters (tenant, id, rule, action, stream, subject, headers, qos, retained, message_id, \
         arrived_ms, kind, code, reason, attempts, at_ms, state, size, payload) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, 0, $17, $18)",
    )
    .bind(&letter.tenant)
    .bind(id)
    .bind(&letter.rule)
    .bind(&letter.action)
    .bind(&letter.stream)
    .bind(&**subject)
    .bind(headers)
    .bind(i64::from(arrival.qos))
    .bind(i64::from(arrival.retained))
    .bind(i64::from(arrival.message_id))
    .bind(signed(arrival.at_ms))
    .bind(&letter.kind)
    .bind(&letter.code)
    .bind(&letter.reason)
    .bind(i64::from(letter.attempts))
    .bind(signed(letter.at_ms))
    .bind(signed(size(letter)))
    .bind(&payload[..])
    .execute(to)
    .await
    .map(drop)
}
