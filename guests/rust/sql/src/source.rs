//! Reads rows: one query a call. The place in the table is the checkpoint alone.
//!
//! Rows must become visible in the order of their index: one that appears later with a smaller value
//! is not seen.

use std::time::{Duration, Instant};

use windlass_connector::sql::Client;
use windlass_connector::{Batch, Dialect, Error, Outcome, Source};

use crate::pager::{Page, Pager};
use crate::query::{Config, Query};
use crate::rows::messages;

/// Queries in one call, at most: pages that hold nothing but equal rows are asked for again, wider.
const WIDENINGS: usize = 24;

#[derive(Debug)]
pub(crate) struct SqlSource {
    client: Client,
    pager: Pager,
    /// When the next query is due. None: now.
    due: Option<Instant>,
}

impl Source for SqlSource {
    type Config = Config;

    fn open(config: Config, resume: Option<String>) -> Result<Self, Error> {
        let client = Client::open("db")?;
        let query = Query::new(config, Dialect::of(&client)?)?;
        Ok(Self {
            client,
            pager: Pager::new(query, resume.as_deref())?,
            due: None,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        let now = Instant::now();
        if let Some(wait) = self.due.and_then(|due| due.checked_duration_since(now))
            && !wait.is_zero()
        {
            return Ok(idle(wait));
        }
        if let Some((statement, params)) = self.pager.types() {
            let answer = self.client.query(statement, &params)?;
            self.pager.learn(&answer);
        }
        for _ in 0..WIDENINGS {
            let (statement, params) = self.pager.statement()?;
            let mut answer = self.client.query(&statement, &params)?;
            let Page::Take {
                rows,
                checkpoint,
                more,
            } = self.pager.turn(&answer)?
            else {
                continue;
            };
            let interval = Duration::from_millis(self.pager.query().interval.into());
            self.due = (!more).then(|| now + interval);
            if rows == 0 {
                return Ok(idle(interval));
            }
            answer.rows.truncate(rows);
            let columns = messages(&answer.columns, &answer.rows, &self.pager.query().subject)?;
            drop(answer);
            if more {
                self.pager.weigh(columns.payloads.len());
            }
            let batch = Batch::from_columns(&columns)?;
            return Ok(match checkpoint {
                Some(checkpoint) => Outcome::batch_until(batch, checkpoint),
                None => Outcome::batch(batch),
            });
        }
        Err(Error::transient(
            "ties",
            "equal rows keep growing in number",
        ))
    }
}

fn idle(wait: Duration) -> Outcome {
    // Rounded up: a millisecond too early would be a query for nothing.
    Outcome::Idle(
        u32::try_from(wait.as_millis())
            .unwrap_or(u32::MAX)
            .saturating_add(1),
    )
}
