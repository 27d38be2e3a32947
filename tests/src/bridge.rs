//! The yardstick: a mosquitto that bridges `in/#` of a broker to `out/#` of the same broker. It
//! copies packets and does nothing else, so that figures from different machines can be compared.

use std::time::Duration;

use crate::machine::wait_until;
use crate::mosquitto::{Broker, Mosquitto};

/// A running bridge; ends with its owner.
#[derive(Debug)]
pub struct Bridge(Mosquitto);

impl Bridge {
    /// Starts one beside this broker and waits until both of its connections are up.
    ///
    /// Two connections, because a bridge never sends a message back to where it came from.
    #[must_use]
    pub fn start(broker: &Mosquitto, qos: u8) -> Self {
        let connection = |name: &str, topic: &str| {
            format!(
                "connection {name}\naddress 127.0.0.1:{}\ntopic {topic}\ncleansession true\n\
                 notifications false\nrestart_timeout 1\nremote_clientid bridge-{name}\n",
                broker.port()
            )
        };
        let extra = connection("in", &format!("# in {qos} mid/ in/"))
            + &connection("out", &format!("# out {qos} mid/ out/"));
        let before = broker.logged("as bridge-");
        let bridge = Mosquitto::with(Broker {
            extra,
            ..Broker::default()
        });
        wait_until(Duration::from_secs(10), "the bridge is connected", || {
            broker.logged("as bridge-") >= before + 2
        });
        // The CONNECT is logged before the SUBSCRIBE has come.
        std::thread::sleep(Duration::from_millis(300));
        Self(bridge)
    }

    /// Starts one from `in/#` of the broker on one port to `out/#` of that on another, with sessions that
    /// both brokers keep and a queue on disk, so that faults cost it nothing: what a bridge can do.
    /// Waits until both of its connections are up, which the logs of the two brokers behind say.
    #[must_use]
    pub fn between(from: (u16, &Mosquitto), to: (u16, &Mosquitto)) -> Self {
        let connection = |name: &str, port: u16, topic: &str| {
            format!(
                "connection {name}\naddress 127.0.0.1:{port}\ntopic {topic}\ncleansession false\n\
                 notifications false\nrestart_timeout 1\nkeepalive_interval 10\nremote_clientid bridge-{name}\n"
            )
        };
        let extra = connection("in", from.0, "# in 1 mid/ in/")
            + &connection("out", to.0, "# out 1 mid/ out/");
        let up = |broker: &Mosquitto, name: &str| broker.logged(&format!("as bridge-{name}"));
        let before = (up(from.1, "in"), up(to.1, "out"));
        let bridge = Mosquitto::with(Broker {
            extra,
            persistence: true,
            ..Broker::default()
        });
        wait_until(Duration::from_secs(10), "the bridge is connected", || {
            up(from.1, "in") > before.0 && up(to.1, "out") > before.1
        });
        std::thread::sleep(Duration::from_millis(300));
        Self(bridge)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }
}
