//! `price`: takes each batch apart in one of four ways and gives or publishes one made of it, so that
//! `windlass connector bench` shows what that way costs. The same connector stands in `guests/python`,
//! `guests/js` and `guests/c`.

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Columns, Descriptor, Error, Message, Outcome, Rejection, Schema, Sink, Slot, Source,
};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "price",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::One(include_str!("../schema.json")),
        slots: &[Slot::messaging("broker", "Where the messages come from, or go.")],
    },
    source: PriceSource,
    sink: PriceSink,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "as", default)]
    way: Way,
    #[serde(default = "everything")]
    datasource: String,
}

fn everything() -> String {
    "#".to_owned()
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Way {
    #[default]
    Handles,
    Records,
    Columns,
    Texts,
}

impl Way {
    fn again(self, batch: Batch) -> Result<Batch, Error> {
        match self {
            Self::Handles => Ok(batch),
            Self::Records => {
                let messages: Vec<Message> = batch.messages().into_iter().map(record).collect();
                Ok(Batch::new(&messages))
            }
            Self::Columns => Batch::from_columns(&columns(&batch.columns())),
            Self::Texts => {
                let texts: Option<Vec<String>> = batch.texts().into_iter().collect();
                let texts =
                    texts.ok_or_else(|| Error::permanent("utf-8", "a message is not UTF-8"))?;
                batch.with_payloads(&Batch::from_texts(&texts))
            }
        }
    }
}

fn record(message: Message) -> Message {
    Message {
        payload: message.payload,
        subject: message.subject,
        headers: message.headers,
    }
}

/// The same columns, payload by payload.
fn columns(given: &Columns) -> Columns {
    let mut made = Columns {
        payloads: Vec::with_capacity(given.payloads.len()),
        ends: Vec::with_capacity(given.ends.len()),
        subjects: given.subjects.clone(),
        subject_of: given.subject_of.clone(),
    };
    let mut begin = 0;
    for &end in &given.ends {
        let until = usize::try_from(end).unwrap_or(usize::MAX);
        made.payloads
            .extend_from_slice(given.payloads.get(begin..until).unwrap_or_default());
        made.ends.push(end);
        begin = until;
    }
    made
}

#[derive(Debug)]
struct PriceSource {
    subscription: Subscription,
    way: Way,
}

impl Source for PriceSource {
    type Config = Config;

    fn open(config: Config, _resume: Option<String>) -> Result<Self, Error> {
        let client = Client::open("broker")?;
        Ok(Self {
            subscription: client.subscribe(&[config.datasource], &SubscribeOptions::default())?,
            way: config.way,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        let batch = self.subscription.receive(1024, None)?;
        Ok(Outcome::batch(self.way.again(batch)?))
    }
}

#[derive(Debug)]
struct PriceSink {
    client: Client,
    way: Way,
}

impl Sink for PriceSink {
    type Config = Config;

    fn open(config: Config) -> Result<Self, Error> {
        Ok(Self {
            client: Client::open("broker")?,
            way: config.way,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        let batch = self.way.again(batch)?;
        self.client.publish(&batch, &PublishOptions::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::from_json;

    #[test]
    fn a_batch_goes_on_as_it_is_unless_told() {
        let way = |text| from_json::<Config>(text).map(|config| config.way);
        assert_eq!(way("{}").unwrap(), Way::Handles);
        assert_eq!(way(r#"{"as":"columns"}"#).unwrap(), Way::Columns);
        assert!(way(r#"{"as":"rows"}"#).is_err());
    }

    #[test]
    fn columns_that_were_taken_apart_are_the_same_again() {
        let given = Columns {
            payloads: b"abcde".to_vec(),
            ends: vec![2, 2, 5],
            subjects: vec!["x".to_owned()],
            subject_of: Vec::new(),
        };
        assert_eq!(columns(&given), given);
    }
}
