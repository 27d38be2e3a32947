//! Certificates that run out, are exchanged, or are another's: R22.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_tests::certificates::Certificates;
use windlass_tests::load::{Subscribe, Subscriber};
use windlass_tests::machine::holds_within;
use windlass_tests::manifest::{Manifest, publish_to};
use windlass_tests::mosquitto::{Broker, Mosquitto, Tls};
use windlass_tests::proxy::Proxy;
use windlass_tests::settings::START;
use windlass_tests::windlass::Windlass;

use crate::trial::Trial;

/// One broker with TLS, one host that reaches it through a proxy.
struct Pair {
    broker: Mosquitto,
    proxy: Proxy,
    far: Subscriber,
    windlass: Windlass,
}

impl Pair {
    fn new(tls: Tls, extra: &str, mut props: Value) -> Self {
        let broker = Mosquitto::with(Broker {
            tls: Some(tls),
            extra: extra.to_owned(),
            ..Broker::default()
        });
        let proxy = Proxy::start(broker.tls_port());
        let far = Subscriber::start(Subscribe::new(broker.port(), "far", "out", 1));
        props["server"] = json!(format!("ssl://127.0.0.1:{}", proxy.port()));
        props["clientid"] = json!("windlass-plant");
        let manifest = Manifest::new()
            .connection("plant", "mqtt", props)
            .mqtt_stream("demo", "plant", "in/#", 1, false)
            .rule("all", "SELECT * FROM demo", publish_to("plant", "out", 1));
        let windlass = Windlass::start(&manifest);
        Self {
            broker,
            proxy,
            far,
            windlass,
        }
    }

    fn state(&self, limit: u64, wanted: impl Fn(&str, &str) -> bool) -> (bool, String) {
        let there = holds_within(Duration::from_secs(limit), || {
            self.windlass
                .connection("plant")
                .is_some_and(|(status, err)| wanted(&status, &err))
        });
        let (status, err) = self.windlass.connection("plant").unwrap_or_default();
        (there, format!("{status}: {err}"))
    }

    fn connected(&self) {
        self.windlass.wait_connection("plant", "connected", START);
        self.windlass.wait_rule("all", "running", START);
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// R22: what becomes of a connection when certificates are not what they were.
pub(crate) fn certificates(trial: &mut Trial) {
    expiry(trial);
    rotated(trial);
    wrong(trial);
    aborted(trial);
}

/// The server's certificate runs out while the connection is up.
fn expiry(trial: &mut Trial) {
    const LIFE: Duration = Duration::from_secs(8);
    trial.did("the server's certificate runs out 8 s after it was made: the link stays, and after a cut it is refused");
    let certificates = Certificates::new();
    let made = Instant::now();
    let pair = Pair::new(
        certificates.server_until(LIFE),
        "",
        json!({ "rootCaRaw": certificates.authority() }),
    );
    pair.connected();
    trial.alive(pair.broker.port(), "in/1", &pair.far, 0);
    std::thread::sleep((LIFE + Duration::from_secs(3)).saturating_sub(made.elapsed()));
    let changes = pair.windlass.changes().len();
    trial.alive(pair.broker.port(), "in/1", &pair.far, 10);
    trial.check(
        "an established link",
        pair.windlass.changes().len() - changes,
        "no change",
        pair.windlass.changes().len() == changes,
    );
    pair.proxy.cut();
    let (there, state) = pair.state(10, |status, err| {
        status != "connected" && err.contains("expired")
    });
    trial.check("after a cut", state, "not connected, with `expired`", there);
}

/// The authority is another one: its file is replaced, and so is the client's certificate.
fn rotated(trial: &mut Trial) {
    trial.did("server, authority and the client's own certificate are replaced on disk, without a start of anything");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let write = |authority: &Certificates| {
        let own = authority.identity(&["windlass"]);
        for (name, text) in [
            ("ca.pem", authority.authority()),
            ("cert.pem", own.certificate),
            ("key.pem", own.key),
        ] {
            fs::write(path(name), text).expect("written");
        }
    };
    let (old, new) = (Certificates::new(), Certificates::new());
    write(&old);
    let name = |name: &str| path(name).display().to_string();
    let props = json!({ "rootCaPath": name("ca.pem"), "certificationPath": name("cert.pem"), "privateKeyPath": name("key.pem") });
    let mut pair = Pair::new(old.server(true), "", props);
    pair.connected();
    pair.broker.set_tls(new.server(true));
    pair.broker.restart();
    let (there, state) = pair.state(10, |status, err| status != "connected" && !err.is_empty());
    trial.check(
        "the server has a certificate of another authority",
        state,
        "not connected, with a reason",
        there,
    );
    write(&new);
    let begin = Instant::now();
    // Refused identities are tried every 30 to 60 s.
    let (there, state) = pair.state(75, |status, _| status == "connected");
    trial.check(
        "after the files were replaced",
        format!("{state} after {:.0} s", begin.elapsed().as_secs_f64()),
        "connected within 75 s",
        there,
    );
    if there {
        std::thread::sleep(Duration::from_millis(300));
        let far = Subscriber::start(Subscribe::new(pair.broker.port(), "far2", "out", 1));
        trial.alive(pair.broker.port(), "in/1", &far, 20);
    }
}

/// Another's name, a client certificate that has run out, TLS 1.0 and 1.1.
fn wrong(trial: &mut Trial) {
    trial.did("a certificate for another name; a client certificate that has run out; a server of TLS 1.1 alone");
    let certificates = Certificates::new();
    let trusts = || json!({ "rootCaRaw": certificates.authority() });
    let pair = Pair::new(
        certificates.server_as(&["elsewhere.test"], false),
        "",
        trusts(),
    );
    let (there, state) = pair.state(15, |status, err| status != "connected" && !err.is_empty());
    trial.check(
        "another's name",
        state,
        "not connected, with a reason",
        there,
    );
    drop(pair);

    let mut props = trusts();
    let own = certificates.expired(&["windlass"]);
    props["certificationRaw"] = json!(own.certificate);
    props["privateKeyRaw"] = json!(own.key);
    let pair = Pair::new(certificates.server(true), "", props);
    let (there, state) = pair.state(15, |status, err| status != "connected" && !err.is_empty());
    trial.check(
        "a client certificate that has run out",
        state,
        "not connected, with a reason",
        there,
    );
    drop(pair);

    let server = OldTls::start(&certificates);
    match server {
        Ok(server) => {
            let url = format!("ssl://127.0.0.1:{}", server.port);
            let mut props = trusts();
            props["server"] = json!(url);
            props["clientid"] = json!("c");
            let windlass = Windlass::start(&Manifest::new().connection("plant", "mqtt", props));
            let refused = holds_within(Duration::from_secs(15), || {
                windlass.connection("plant").is_some_and(|(status, err)| {
                    status != "connected" && err.to_lowercase().contains("tls")
                })
            });
            let (status, err) = windlass.connection("plant").unwrap_or_default();
            trial.check(
                "TLS 1.1 alone",
                format!("{status}: {err}"),
                "not connected, with a sentence on TLS",
                refused,
            );
        }
        Err(reason) => trial.note(format!("TLS 1.1 alone was not tried: {reason}")),
    }
}

/// A server of TLS 1.1 alone: `openssl s_server`, where it still can.
struct OldTls {
    port: u16,
    child: std::process::Child,
    _folder: tempfile::TempDir,
}

impl OldTls {
    fn start(certificates: &Certificates) -> Result<Self, String> {
        let binary = windlass_tests::machine::program("openssl").ok_or("openssl is not there")?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let own = certificates.identity(&["127.0.0.1"]);
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        fs::write(&cert, own.certificate).map_err(|error| error.to_string())?;
        fs::write(&key, own.key).map_err(|error| error.to_string())?;
        let port = windlass_tests::machine::free_port();
        let mut child = std::process::Command::new(binary)
            .args([
                "s_server",
                "-tls1_1",
                "-cipher",
                "ALL:@SECLEVEL=0",
                "-quiet",
                "-accept",
            ])
            .arg(format!("127.0.0.1:{port}"))
            .arg("-cert")
            .arg(&cert)
            .arg("-key")
            .arg(&key)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let up = holds_within(Duration::from_secs(5), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        if !up {
            drop(child.kill());
            drop(child.wait());
            return Err("this openssl does not serve TLS 1.1".to_owned());
        }
        Ok(Self {
            port,
            child,
            _folder: folder,
        })
    }
}

impl Drop for OldTls {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Handshakes that break off in the middle, again and again.
fn aborted(trial: &mut Trial) {
    let aborts = trial.pick(15, 50);
    trial.did(format!(
        "{aborts} handshakes that the server breaks off in their middle, then a good one"
    ));
    let certificates = Certificates::new();
    let pair = Pair::new(
        certificates.server(false),
        "",
        json!({ "rootCaRaw": certificates.authority() }),
    );
    pair.connected();
    let before = pair.windlass.usage();
    let dialled = pair.proxy.attempts().len();
    pair.proxy.throttle(2000);
    pair.proxy.cut();
    let begin = Instant::now();
    holds_within(Duration::from_secs(aborts * 3), || {
        // A few hundred bytes of the handshake are through.
        std::thread::sleep(Duration::from_millis(100));
        pair.proxy.cut();
        pair.proxy.attempts().len() as u64 >= dialled as u64 + aborts
    });
    pair.proxy.throttle(0);
    let tries = pair.proxy.attempts().len() - dialled;
    let (there, state) = pair.state(15, |status, _| status == "connected");
    trial.check(
        "after handshakes that broke off",
        format!(
            "{state} after {tries} attempts in {:.0} s",
            begin.elapsed().as_secs_f64()
        ),
        "connected",
        there,
    );
    std::thread::sleep(Duration::from_millis(300));
    trial.alive(pair.broker.port(), "in/1", &pair.far, 30);
    trial.grown(&pair.windlass, before, 8);
}
