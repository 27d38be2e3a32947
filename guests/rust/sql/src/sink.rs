//! Writes rows: a batch is one transaction where its rows are of one table, kind and columns, and else
//! one for each.

use windlass_connector::sql::Client;
use windlass_connector::{Batch, Dialect, Error, Kind, Rejection, Sink};

use crate::plan::{Config, Plan, Shape, messages_of};

/// After a part of a batch was written and the next one failed: how soon the rest is tried again.
const AGAIN_MS: u32 = 5;

#[derive(Debug)]
pub(crate) struct SqlSink {
    client: Client,
    shape: Shape,
}

impl Sink for SqlSink {
    type Config = Config;

    fn open(config: Config) -> Result<Self, Error> {
        let client = Client::open("db")?;
        let shape = Shape::new(config, Dialect::of(&client)?)?;
        Ok(Self { client, shape })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let columns = batch.columns();
        let mut plan = Plan::new(&self.shape);
        let mut rejections = Vec::new();
        for (message, (payload, subject)) in (0..).zip(columns.contents()) {
            if let Err(why) = plan.add(message, payload, subject) {
                rejections.push(Error::permanent("row", why).at(message));
            }
        }
        let steps = plan.steps().map_err(|why| Error::permanent("name", why))?;
        for (number, step) in steps.iter().enumerate() {
            let Err(error) = self.client.execute_many(&step.statement, &step.params) else {
                continue;
            };
            if number == 0 || matches!(error.kind, Kind::Denied | Kind::Misconfigured) {
                // Nothing is written: the host looks for the message that does it.
                return Err(error);
            }
            // A part is written. The rest comes again by itself, and shows then what it is.
            let error = match error.kind {
                Kind::Permanent => {
                    Error::transient(error.code, error.message).retry_after(AGAIN_MS)
                }
                _ => error,
            };
            let again = messages_of(steps.get(number..).unwrap_or_default());
            rejections.extend(again.into_iter().map(|message| error.clone().at(message)));
            break;
        }
        Ok(rejections)
    }
}
