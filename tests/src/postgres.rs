//! A real PostgreSQL: a cluster of its own in a temporary folder, on a free port, stopped, killed,
//! started again with what it has. It ends with its owner.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificates::Identity;
use crate::machine::{as_user, free_port, open_folder, private_file, program};
use crate::process::{Process, listens};

/// The account that the cluster belongs to, where these tests are root's: `initdb` refuses root.
const ACCOUNT: &str = "postgres";
/// The password of its superuser.
pub const PASSWORD: &str = "geheim-pg";

/// A running (or just stopped) PostgreSQL with the database `postgres` and the superuser `ann`.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    folder: TempDir,
    port: u16,
    /// It speaks TLS, and nothing else.
    tls: bool,
}

fn tool(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(name));
    versions
        .filter(|file| file.is_file())
        .max()
        .or_else(|| program(name))
        .expect("PostgreSQL is not installed: `apt-get install postgresql`, or run tests/run")
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Panics
    /// PostgreSQL is not installed, or does not come up within 20 s.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same, for clients that speak TLS only, under this certificate.
    ///
    /// # Panics
    /// As [`Postgres::start`].
    #[must_use]
    pub fn with_tls(identity: &Identity) -> Self {
        Self::start_with(Some(identity))
    }

    fn start_with(identity: Option<&Identity>) -> Self {
        let folder = open_folder("postgres-", ACCOUNT);
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).expect("the password can be written");
        let made = as_user(ACCOUNT, &tool("initdb"))
            .args(["-U", "ann", "-A", "scram-sha-256", "-E", "UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync", "--pwfile"])
            .arg(&password)
            .arg("-D")
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .output()
            .expect("initdb can be started");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut postgres = Self {
            process: Process::new("postgres", folder.path().join("log")),
            folder,
            port: free_port(),
            tls: identity.is_some(),
        };
        if let Some(Identity { certificate, key }) = identity {
            private_file(&postgres.data().join("server.crt"), certificate, ACCOUNT);
            private_file(&postgres.data().join("server.key"), key, ACCOUNT);
            let rules = "hostssl all all 127.0.0.1/32 scram-sha-256\n";
            private_file(&postgres.data().join("pg_hba.conf"), rules, ACCOUNT);
        }
        postgres.up();
        postgres
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `dburl` of a connection to it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://ann:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs SQL with psql; answers what it printed, values only, columns with `|` between them.
    ///
    /// # Panics
    /// psql fails.
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        let done = Command::new(tool("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .arg(self.url())
            .stdin(Stdio::null())
            .output()
            .expect("psql can be started");
        assert!(
            done.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// Ends it at once but in order (SIGINT): sessions are cut off, data are kept.
    pub fn stop(&mut self) {
        self.process.stop("INT", Duration::from_secs(10));
    }

    /// Starts it (again) on what it has.
    ///
    /// # Panics
    /// It does not come up.
    pub fn up(&mut self) {
        let port = self.port.to_string();
        let mut command = as_user(ACCOUNT, &tool("postgres"));
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &port, "-h", "127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            .args(["-c", "max_connections=50", "-c", "fsync=off"])
            .args(["-c", if self.tls { "ssl=on" } else { "ssl=off" }]);
        let (port, url) = (self.port, self.url());
        self.process
            .start(&mut command, Duration::from_secs(20), || {
                listens(port) && answers(&url)
            });
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

fn answers(url: &str) -> bool {
    Command::new(tool("psql"))
        .args(["-X", "-c", "SELECT 1"])
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|done| done.status.success())
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_started_again_has_what_was_written() {
        let mut postgres = Postgres::start();
        assert_eq!(
            postgres.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (7)"),
            ""
        );
        postgres.stop();
        assert!(!listens(postgres.port()));
        postgres.up();
        assert_eq!(postgres.sql("SELECT a, 'x' FROM t"), "7|x");
    }
}
