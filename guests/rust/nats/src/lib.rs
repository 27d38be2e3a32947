//! `nats`: brings in what NATS subjects carry, and publishes to them. No payload enters the sandbox.
//!
//! Source: `datasource` is one subject or several with commas between them; `*` and `>` are wildcards.
//! `qos` 0 is core NATS, where nothing is acknowledged; 1 is JetStream, over a durable consumer. Sink:
//! `subject` with `{{...}}` in it is rendered by the host, which then gives each message its own subject
//! and takes the property out. Acknowledgements and consumers are the host's affair.

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions, Qos, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Descriptor, Error, Outcome, Rejection, Schema, Sink, Slot, Source,
};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "nats",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("server", "The NATS server.")],
    },
    source: NatsSource,
    sink: NatsSink,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    datasource: String,
    #[serde(default)]
    qos: u8,
    queue: Option<String>,
    stream: Option<String>,
    durable: Option<String>,
    deliver: Option<String>,
    ack_wait: Option<String>,
    max_ack_pending: Option<u32>,
    #[serde(default = "most_per_read")]
    buffer_length: u32,
}

fn most_per_read() -> u32 {
    1024
}

#[derive(Debug)]
struct NatsSource {
    subscription: Subscription,
    most: u32,
}

impl Source for NatsSource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let subjects = subjects(&config.datasource)?;
        let most = config.buffer_length;
        let options = subscribe_options(config)?;
        Ok(Self {
            subscription: Client::open("server")?.subscribe(&subjects, &options)?,
            most,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        Ok(Outcome::batch(self.subscription.receive(self.most, None)?))
    }
}

fn subjects(datasource: &str) -> Result<Vec<String>, Error> {
    let subjects: Vec<String> = datasource
        .split(',')
        .map(str::trim)
        .filter(|subject| !subject.is_empty())
        .map(str::to_owned)
        .collect();
    if subjects.is_empty() {
        return Err(Error::misconfigured(
            "config",
            "datasource: a subject is required",
        ));
    }
    Ok(subjects)
}

fn subscribe_options(config: SourceConfig) -> Result<SubscribeOptions, Error> {
    let qos = Qos::try_from(config.qos)?;
    let given = [
        ("queue", config.queue),
        ("stream", config.stream),
        ("durable", config.durable),
        ("deliver", config.deliver),
        ("ackWait", config.ack_wait),
        (
            "maxAckPending",
            config.max_ack_pending.map(|most| most.to_string()),
        ),
    ];
    let extra = given
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Ok(SubscribeOptions {
        qos: Some(qos),
        extra: extra.collect(),
    })
}

#[derive(Debug, Deserialize)]
struct SinkConfig {
    subject: Option<String>,
    #[serde(default)]
    qos: u8,
}

#[derive(Debug)]
struct NatsSink {
    client: Client,
    options: PublishOptions,
}

impl Sink for NatsSink {
    type Config = SinkConfig;

    fn open(config: SinkConfig) -> Result<Self, Error> {
        let options = PublishOptions {
            subject: config.subject,
            qos: Some(Qos::try_from(config.qos)?),
            ..PublishOptions::default()
        };
        Ok(Self {
            client: Client::open("server")?,
            options,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        self.client.publish(&batch, &self.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    #[test]
    fn a_datasource_is_a_list_of_subjects_with_commas() {
        assert_eq!(subjects("a.>, b.* ,").unwrap(), ["a.>", "b.*"]);
        assert_eq!(subjects(" , ").unwrap_err().kind, Kind::Misconfigured);
    }

    #[test]
    fn only_what_is_given_is_asked_for() {
        let plain: SourceConfig = from_json(r#"{"datasource":"a"}"#).unwrap();
        let options = subscribe_options(plain).unwrap();
        assert_eq!(
            (options.qos, options.extra.len()),
            (Some(Qos::AtMostOnce), 0)
        );
        let text = r#"{"datasource":"a","qos":1,"stream":"S","maxAckPending":7,"ackWait":"5s"}"#;
        let options = subscribe_options(from_json(text).unwrap()).unwrap();
        let named: Vec<(&str, &str)> = options
            .extra
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            named,
            [("stream", "S"), ("ackWait", "5s"), ("maxAckPending", "7")]
        );
    }

    #[test]
    fn a_qos_of_3_is_misconfigured() {
        let config: SourceConfig = from_json(r#"{"datasource":"a","qos":3}"#).unwrap();
        assert_eq!(
            subscribe_options(config).unwrap_err().kind,
            Kind::Misconfigured
        );
    }
}
