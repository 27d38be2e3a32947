//! Clocks that jump, and a host that is suspended: R21. The jumps are libfaketime's: the time of day
//! alone jumps, as with `date -s`, and the monotonic clock goes on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use windlass_tests::httpd::{Httpd, Reply};
use windlass_tests::load::{Publish, Subscribe, Subscriber};
use windlass_tests::machine::{holds_within, signal};
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::Mosquitto;
use windlass_tests::proxy::Proxy;
use windlass_tests::settings::wait_ready;
use windlass_tests::windlass::Windlass;

use crate::trial::{Counted, Trial};

/// The library, where packages put it.
fn library() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
        "/usr/local/lib",
    ];
    folders
        .iter()
        .map(|folder| Path::new(folder).join("faketime/libfaketime.so.1"))
        .find(|file| file.is_file())
}

/// R21: the time of day jumps by hours and days; then the host is stopped and goes on.
pub(crate) fn jumps(trial: &mut Trial) {
    const JUMPS: [&str; 8] = ["+1h", "-1h", "+1d", "-1d", "+0", "-30d", "+30d", "+0"];
    let (jumps, suspended) = trial.pick((16, 12), (100, 60));
    let Some(library) = library() else {
        return trial.cannot("libfaketime is not there: apt-get install faketime");
    };
    trial.did(format!(
        "{jumps} jumps of the time of day (1 h, 1 day, 30 days, forward and back) at 200 messages/s, MQTT to MQTT, \
         with an OAuth token that is good for an hour; then SIGSTOP for {suspended} s"
    ));
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
    let tokens = Httpd::start(|_| Reply::text(200, r#"{"access_token":"one","expires_in":3600}"#));
    let api = Httpd::start(|_| Reply::status(204));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("time");
    let set = |offset: &str| std::fs::write(&file, format!("{offset}\n")).expect("written");
    set("+0");
    let oauth = json!({ "clientCredentials": { "url": tokens.url("/token"), "clientId": "a", "clientSecret": "b" } });
    let rest =
        json!([{ "rest": { "connectionSelector": "api", "method": "post", "sendSingle": true } }]);
    let manifest = Manifest::new()
        .connection(
            "plant",
            "mqtt",
            json!({ "server": proxy.url(), "clientid": "windlass-plant", "enableClientSession": true, "keepAlive": "10s" }),
        )
        .connection("api", "http", json!({ "url": api.url("/in"), "oauth": oauth, "maxInFlight": 1 }))
        .mqtt_stream("demo", "plant", "in/#", 1, true)
        .rule("all", "SELECT * FROM demo", publish_to("plant", "out", 1))
        .rule("posts", "SELECT * FROM demo", rest);
    let mut windlass = Windlass::prepare(&manifest)
        .variable("LD_PRELOAD", &library.display().to_string())
        .variable("FAKETIME_TIMESTAMP_FILE", &file.display().to_string())
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    windlass.up();
    wait_ready(&windlass, &["plant", "api"], &["all", "posts"]);
    trial.alive(broker.port(), "in/1", &far, 0);
    let before = windlass.usage();
    let changes = windlass.changes().len();
    let fetched = tokens.count();
    let publisher = Publish {
        first: 10,
        ..Publish::new(broker.port(), "in/1", 1)
    }
    .rate(200)
    .start();
    let mut longest = 0.0_f64;
    for jump in 0..jumps {
        set(JUMPS[jump % JUMPS.len()]);
        let mark = far.ledger().mark();
        std::thread::sleep(Duration::from_millis(500));
        longest = longest.max(far.ledger().since(mark).worst_ms());
    }
    set("+0");
    let lost = windlass.changes().len() - changes;
    trial.check(
        "changes of the connections' states",
        lost,
        "none",
        lost == 0,
    );
    trial.check(
        "longest on the way during the jumps",
        format!("{longest:.0} ms"),
        "5000 ms at most: no timer waits for a day",
        longest <= 5000.0,
    );
    let fetches = tokens.count() - fetched;
    trial.check(
        "tokens fetched, of one that is good for an hour",
        fetches,
        "no more than there were jumps forward",
        fetches <= jumps,
    );

    // Suspended: longer than the broker waits for a sign of life (1.5 times the keep-alive) in the long form.
    let dialled = proxy.attempts().len();
    signal(windlass.pid(), "STOP");
    std::thread::sleep(Duration::from_secs(suspended));
    signal(windlass.pid(), "CONT");
    let begin = Instant::now();
    let back = holds_within(Duration::from_secs(5), || {
        windlass
            .connection("plant")
            .is_some_and(|(status, _)| status == "connected")
            && begin.elapsed() > Duration::from_secs(2)
    });
    let attempts = proxy.attempts().len() - dialled;
    trial.check(
        "connected within 5 s of going on",
        format!("{back}, {attempts} attempts"),
        "true, 3 attempts at most",
        back && attempts <= 3,
    );
    let sent = publisher.stop();
    let expected: Vec<u64> = (10..10 + sent.sent).collect();
    let count = Counted::new("through jumps and suspension", sent.sent, &expected)
        .acknowledged(sent.acknowledged.len() as u64)
        .bound(2048);
    trial.delivered(&far, count, Duration::from_secs(30));
    trial.alive(broker.port(), "in/1", &far, 30 + sent.sent);
    trial.grown(&windlass, before, 8);
}
