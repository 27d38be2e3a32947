//! A real mosquitto: started on a free port in a folder of its own, stopped, killed, restarted on
//! the same port with or without what it had stored. It ends with its owner.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::machine::{free_port, is_root, program, signal, wait_until};
use crate::process::{Process, installed, listens};

/// How the broker is set up. The default is anonymous, without persistence, and without the limits
/// that would make the broker lose messages of its own accord.
#[derive(Clone, Debug, Default)]
pub struct Broker {
    /// `persistence true`: sessions and queues survive a restart, if they were saved.
    pub persistence: bool,
    /// `max_inflight_messages`; mosquitto's own default is 20.
    pub max_inflight: Option<u32>,
    /// `max_queued_messages`; 0 is without limit. mosquitto's default of 1000 **drops** QoS 1.
    pub max_queued: u32,
    /// Names and passwords; none: everybody may connect.
    pub users: Vec<(String, String)>,
    /// A second listener with TLS, from this certificate.
    pub tls: Option<Tls>,
    /// Further lines of the configuration file.
    pub extra: String,
}

/// What a listener with TLS needs.
#[derive(Clone, Debug)]
pub struct Tls {
    /// PEM of the authority that signed the certificates.
    pub authority: String,
    /// PEM of the server's certificate.
    pub certificate: String,
    /// PEM of its key.
    pub key: String,
    /// Clients must show a certificate of the authority too.
    pub require_certificate: bool,
}

/// A running (or just stopped) mosquitto.
#[derive(Debug)]
pub struct Mosquitto {
    process: Process,
    folder: TempDir,
    broker: Broker,
    port: u16,
    tls_port: Option<u16>,
}

impl Mosquitto {
    /// Starts one with the default setting.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Broker::default())
    }

    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// mosquitto is not installed, or does not come up within 10 s.
    #[must_use]
    pub fn with(broker: Broker) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("mosquitto-")
            .tempdir()
            .expect("a temporary folder");
        let tls_port = broker.tls.is_some().then(free_port);
        let mut mosquitto = Self {
            process: Process::new("mosquitto", folder.path().join("log")),
            folder,
            broker,
            port: free_port(),
            tls_port,
        };
        mosquitto.up();
        mosquitto
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens with TLS.
    ///
    /// # Panics
    /// It was set up without.
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("this broker was set up without TLS")
    }

    /// The server property of a connection to it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Its process.
    ///
    /// # Panics
    /// It is stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its folder: configuration, log, database.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All it has logged, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// How often its log says so.
    #[must_use]
    pub fn logged(&self, words: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }

    /// Makes it write its sessions and queues to disk now (SIGUSR1), and waits until it has.
    pub fn save(&self) {
        let database = self.database();
        let before = std::fs::metadata(&database)
            .and_then(|file| file.modified())
            .ok();
        signal(self.pid(), "USR1");
        wait_until(
            Duration::from_secs(5),
            "mosquitto has saved its database",
            || {
                std::fs::metadata(&database)
                    .and_then(|file| file.modified())
                    .ok()
                    != before
            },
        );
    }

    /// Ends it in order (SIGTERM): with persistence it saves first.
    pub fn stop(&mut self) {
        self.process.stop("TERM", Duration::from_secs(10));
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Shows another certificate from its next start on.
    pub fn set_tls(&mut self, tls: Tls) {
        self.broker.tls = Some(tls);
    }

    /// Up again on the same port, with what it has on disk.
    pub fn restart(&mut self) {
        self.kill();
        self.up();
    }

    /// Up again on the same port, with nothing: all its sessions are gone.
    pub fn restart_empty(&mut self) {
        self.kill();
        if self.database().exists() {
            std::fs::remove_file(self.database()).expect("the broker's database can be removed");
        }
        self.up();
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("mosquitto.db")
    }

    /// Starts the process and waits until it listens.
    fn up(&mut self) {
        let config = self.folder.path().join("mosquitto.conf");
        std::fs::write(&config, self.config()).expect("the configuration can be written");
        let port = self.port;
        let mut command = Command::new(installed("mosquitto", "mosquitto"));
        command.arg("-c").arg(&config);
        let limit = Duration::from_secs(10);
        self.process.start(&mut command, limit, || listens(port));
    }

    fn config(&self) -> String {
        let folder = self.folder.path().display();
        let mut text = String::new();
        let mut line =
            |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").expect("a string takes all");
        // Left to itself it would become the user `mosquitto` and could not enter this folder.
        if is_root() {
            line(format_args!("user root"));
        }
        line(format_args!(
            "log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\nlog_type information"
        ));
        line(format_args!(
            "max_queued_messages {}",
            self.broker.max_queued
        ));
        if let Some(max) = self.broker.max_inflight {
            line(format_args!("max_inflight_messages {max}"));
        }
        line(format_args!("persistence {}", self.broker.persistence));
        if self.broker.persistence {
            line(format_args!("persistence_location {folder}/"));
        }
        if self.broker.users.is_empty() {
            line(format_args!("allow_anonymous true"));
        } else {
            self.write_passwords();
            line(format_args!(
                "allow_anonymous false\npassword_file {folder}/passwords"
            ));
        }
        line(format_args!("{}", self.broker.extra));
        line(format_args!("listener {} 127.0.0.1", self.port));
        if let (Some(tls), Some(port)) = (&self.broker.tls, self.tls_port) {
            for (name, pem) in [
                ("ca.pem", &tls.authority),
                ("cert.pem", &tls.certificate),
                ("key.pem", &tls.key),
            ] {
                std::fs::write(self.folder.path().join(name), pem)
                    .expect("a PEM file can be written");
            }
            line(format_args!("listener {port} 127.0.0.1"));
            line(format_args!(
                "cafile {folder}/ca.pem\ncertfile {folder}/cert.pem\nkeyfile {folder}/key.pem"
            ));
            line(format_args!(
                "require_certificate {}",
                tls.require_certificate
            ));
        }
        text
    }

    fn write_passwords(&self) {
        let file = self.folder.path().join("passwords");
        std::fs::write(&file, "").expect("the password file can be written");
        for (user, password) in &self.broker.users {
            let binary =
                program("mosquitto_passwd").expect("mosquitto_passwd comes with mosquitto");
            let done = Command::new(binary)
                .arg("-b")
                .arg(&file)
                .args([user, password])
                .output();
            assert!(
                done.is_ok_and(|output| output.status.success()),
                "mosquitto_passwd failed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::Certificates;
    use crate::load::{Publish, Subscribe, Subscriber};

    #[test]
    fn a_broker_killed_after_a_save_keeps_the_session_and_one_restarted_empty_has_lost_it() {
        let mut broker = Mosquitto::with(Broker {
            persistence: true,
            ..Broker::default()
        });
        let subscriber = || {
            Subscriber::start(Subscribe {
                clean: false,
                ..Subscribe::new(broker_port(), "far", "t", 1)
            })
        };
        static PORT: std::sync::OnceLock<u16> = std::sync::OnceLock::new();
        fn broker_port() -> u16 {
            *PORT.get().expect("set")
        }
        PORT.set(broker.port()).expect("set once");
        drop(subscriber());
        let sent = Publish {
            count: Some(10),
            ..Publish::new(broker.port(), "t", 1)
        }
        .start()
        .join();
        assert_eq!(sent.acknowledged.len(), 10);
        broker.save();
        broker.restart();
        let far = subscriber();
        assert!(far.session_present());
        far.wait_for(10, Duration::from_secs(5));
        assert_eq!(far.ledger().lost(0..10), [0u64; 0]);
        drop(far);
        broker.restart_empty();
        assert!(!subscriber().session_present());
    }

    #[test]
    fn a_broker_with_users_refuses_others_and_says_so_in_its_log() {
        let users = vec![("ann".to_owned(), "secret".to_owned())];
        let broker = Mosquitto::with(Broker {
            users,
            ..Broker::default()
        });
        let attempt = |login: Option<(&str, &str)>| {
            crate::load::dial(broker.port(), "someone", true, login).map(|(_, _, session)| session)
        };
        assert!(attempt(Some(("ann", "secret"))).is_ok());
        assert!(attempt(None).is_err());
        assert!(attempt(Some(("ann", "wrong"))).is_err());
        wait_until(Duration::from_secs(5), "it logged both", || {
            broker.logged("not authorised") >= 2
        });
    }

    #[test]
    fn a_broker_with_tls_comes_up() {
        let certificates = Certificates::new();
        let broker = Mosquitto::with(Broker {
            tls: Some(certificates.server(false)),
            ..Broker::default()
        });
        assert_ne!(broker.tls_port(), broker.port());
        assert!(listens(broker.tls_port()));
    }

    #[test]
    fn the_tools_count_no_fault_where_there_is_none() {
        let broker = Mosquitto::start();
        for qos in [0, 1, 2] {
            let far = Subscriber::start(Subscribe::new(broker.port(), "far", "in/#", qos));
            let load = Publish {
                count: Some(3000),
                window: 20,
                ..Publish::new(broker.port(), "in/1", qos)
            };
            let sent = load.start().join();
            far.wait_for(3000, Duration::from_secs(10));
            let ledger = far.ledger();
            assert_eq!(sent.sent, 3000);
            assert_eq!(ledger.lost(0..3000), [0u64; 0], "QoS {qos}");
            assert_eq!(
                (ledger.duplicates(), ledger.out_of_order(), ledger.corrupt()),
                (0, 0, 0),
                "QoS {qos}"
            );
            assert_eq!(ledger.arrived(), 3000);
        }
    }
}
