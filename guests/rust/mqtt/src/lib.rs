//! `mqtt`: brings in what MQTT topics carry, and publishes to one. No payload enters the sandbox.
//!
//! Source: `datasource` is one topic filter or several with commas between them; wildcards and
//! `$share/group/filter` go through as they are. One read takes what has arrived, up to
//! `bufferLength`. Sink: `topic` with `{{...}}` in it is rendered by the host, which then gives each
//! message its own subject and takes the property out. What the host's MQTT does not say here
//! (acknowledgements, order, reconnecting) happens there.

use serde::Deserialize;
use windlass_connector::messaging::{Client, PublishOptions, Qos, SubscribeOptions, Subscription};
use windlass_connector::{
    Batch, Descriptor, Error, Outcome, Rejection, Schema, Sink, Slot, Source, base64_decode,
};

windlass_connector::export! {
    descriptor: Descriptor {
        name: "mqtt",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        schema: Schema::PerRole {
            source: include_str!("../source.schema.json"),
            sink: include_str!("../sink.schema.json"),
        },
        slots: &[Slot::messaging("broker", "The MQTT broker.")],
    },
    source: MqttSource,
    sink: MqttSink,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceConfig {
    datasource: String,
    #[serde(default = "at_least_once")]
    qos: u8,
    #[serde(default = "most_per_read")]
    buffer_length: u32,
    eof_message: Option<String>,
}

fn at_least_once() -> u8 {
    1
}

fn most_per_read() -> u32 {
    1024
}

#[derive(Debug)]
struct MqttSource {
    subscription: Subscription,
    most: u32,
    /// The payload that ends the source.
    last: Option<Vec<u8>>,
    /// It has come.
    ended: bool,
}

impl Source for MqttSource {
    type Config = SourceConfig;

    fn open(config: SourceConfig, _resume: Option<String>) -> Result<Self, Error> {
        let filters = filters(&config.datasource)?;
        let last = config.eof_message.as_deref().map(last).transpose()?;
        let options = SubscribeOptions {
            qos: Some(Qos::try_from(config.qos)?),
            ..SubscribeOptions::default()
        };
        let subscription = Client::open("broker")?.subscribe(&filters, &options)?;
        Ok(Self {
            subscription,
            most: config.buffer_length,
            last,
            ended: false,
        })
    }

    fn read(&mut self) -> Result<Outcome, Error> {
        if self.ended {
            return Ok(Outcome::Finished);
        }
        let batch = self.subscription.receive(self.most, None)?;
        let Some(last) = &self.last else {
            return Ok(Outcome::batch(batch));
        };
        let place = batch.columns().each().position(|payload| payload == last);
        let Some(place) = place else {
            return Ok(Outcome::batch(batch));
        };
        // What goes before it is delivered first; what came after it goes with it.
        self.ended = true;
        let before: Vec<u32> = (0_u32..).take(place).collect();
        Ok(Outcome::batch(batch.select(&before)?))
    }
}

/// As in eKuiper: in base64, so that it can be anything.
fn last(text: &str) -> Result<Vec<u8>, Error> {
    base64_decode(text)
        .ok_or_else(|| Error::misconfigured("config", "eofMessage: must be the payload in base64"))
}

fn filters(datasource: &str) -> Result<Vec<String>, Error> {
    let filters: Vec<String> = datasource
        .split(',')
        .map(str::trim)
        .filter(|filter| !filter.is_empty())
        .map(str::to_owned)
        .collect();
    if filters.is_empty() {
        return Err(Error::misconfigured(
            "config",
            "datasource: a topic is required",
        ));
    }
    Ok(filters)
}

#[derive(Debug, Deserialize)]
struct SinkConfig {
    topic: Option<String>,
    #[serde(default)]
    qos: u8,
    #[serde(default)]
    retained: bool,
    #[serde(default)]
    retain: bool,
}

#[derive(Debug)]
struct MqttSink {
    client: Client,
    options: PublishOptions,
}

impl Sink for MqttSink {
    type Config = SinkConfig;

    fn open(config: SinkConfig) -> Result<Self, Error> {
        let options = options(config)?;
        Ok(Self {
            client: Client::open("broker")?,
            options,
        })
    }

    fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, Error> {
        self.client.publish(&batch, &self.options)
    }
}

fn options(config: SinkConfig) -> Result<PublishOptions, Error> {
    if let Some(topic) = &config.topic
        && (topic.is_empty() || topic.contains(['#', '+']))
    {
        return Err(Error::misconfigured(
            "config",
            format!(
                "topic: \"{topic}\" cannot be published to: it must not be empty nor contain # or +"
            ),
        ));
    }
    Ok(PublishOptions {
        subject: config.topic,
        qos: Some(Qos::try_from(config.qos)?),
        retain: config.retained || config.retain,
        extra: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_connector::{Kind, from_json};

    #[test]
    fn a_datasource_is_a_list_of_filters_with_commas() {
        assert_eq!(
            filters("a/+, $share/g/b/# ,").unwrap(),
            ["a/+", "$share/g/b/#"]
        );
        assert_eq!(filters(" , ").unwrap_err().kind, Kind::Misconfigured);
    }

    #[test]
    fn a_source_asks_for_qos_1_and_1024_messages_unless_told() {
        let config: SourceConfig = from_json(r#"{"datasource":"a"}"#).unwrap();
        assert_eq!((config.qos, config.buffer_length), (1, 1024));
        let config: SourceConfig =
            from_json(r#"{"datasource":"a","qos":2,"bufferLength":5}"#).unwrap();
        assert_eq!((config.qos, config.buffer_length), (2, 5));
    }

    #[test]
    fn the_message_that_ends_a_source_is_given_in_base64() {
        let config: SourceConfig = from_json(r#"{"datasource":"a","eofMessage":"RU9G"}"#).unwrap();
        assert_eq!(last(&config.eof_message.unwrap()).unwrap(), b"EOF");
        assert_eq!(last("EOF").unwrap_err().kind, Kind::Misconfigured);
    }

    #[test]
    fn a_sink_publishes_to_its_topic_with_qos_0_unless_told() {
        let options_of = |text| options(from_json::<SinkConfig>(text).unwrap());
        let plain = options_of(r#"{"topic":"out"}"#).unwrap();
        assert_eq!(
            (plain.subject.as_deref(), plain.qos, plain.retain),
            (Some("out"), Some(Qos::AtMostOnce), false)
        );
        for text in [
            r#"{"topic":"out","qos":1,"retained":true}"#,
            r#"{"topic":"out","qos":1,"retain":true}"#,
        ] {
            let told = options_of(text).unwrap();
            assert_eq!(
                (told.qos, told.retain),
                (Some(Qos::AtLeastOnce), true),
                "{text}"
            );
        }
    }

    #[test]
    fn without_a_topic_each_message_keeps_its_own_subject() {
        assert_eq!(options(from_json("{}").unwrap()).unwrap().subject, None);
    }

    #[test]
    fn a_topic_with_a_wildcard_and_a_qos_of_3_are_misconfigured() {
        for text in [
            r##"{"topic":"a/#"}"##,
            r#"{"topic":"a/+/b"}"#,
            r#"{"topic":""}"#,
            r#"{"topic":"a","qos":3}"#,
        ] {
            assert_eq!(
                options(from_json(text).unwrap()).unwrap_err().kind,
                Kind::Misconfigured,
                "{text}"
            );
        }
    }
}
