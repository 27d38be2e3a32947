//! A real MariaDB: data of its own in a temporary folder, on a free port, stopped, killed, started
//! again with what it has. It ends with its owner.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificates::Identity;
use crate::machine::{as_user, free_port, open_folder, private_file, program};
use crate::process::{Process, listens};

/// The account that the data belong to, where these tests are root's.
const ACCOUNT: &str = "mysql";
/// The password of its administrator.
pub const PASSWORD: &str = "geheim-my";

/// A running (or just stopped) MariaDB with the database `t` and the administrator `ann`.
#[derive(Debug)]
pub struct MariaDb {
    process: Process,
    folder: TempDir,
    port: u16,
    /// It speaks TLS, and nothing else.
    tls: bool,
}

fn tool(names: &[&str]) -> PathBuf {
    names
        .iter()
        .find_map(|name| program(name))
        .expect("MariaDB is not installed: `apt-get install mariadb-server`, or run tests/run")
}

/// The `mariadb` client on the database `t` of the server on this port.
#[must_use]
pub fn client(port: u16) -> Command {
    let mut client = Command::new(tool(&["mariadb", "mysql"]));
    client
        .args(["--no-defaults", "-h", "127.0.0.1", "-u", "ann", "-N", "-B"])
        .arg(format!("-P{port}"))
        .arg(format!("-p{PASSWORD}"))
        .args(["-D", "t"]);
    client
}

impl MariaDb {
    /// Makes the data folder and starts the server.
    ///
    /// # Panics
    /// MariaDB is not installed, or does not come up within 30 s.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// The same, for clients that speak TLS only, under this certificate.
    ///
    /// # Panics
    /// As [`MariaDb::start`].
    #[must_use]
    pub fn with_tls(identity: &Identity) -> Self {
        Self::start_with(Some(identity))
    }

    fn start_with(identity: Option<&Identity>) -> Self {
        let folder = open_folder("mariadb-", ACCOUNT);
        let made = as_user(ACCOUNT, &tool(&["mariadb-install-db", "mysql_install_db"]))
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            // Several at once may use up what the kernel has for native I/O.
            .args(["--skip-test-db", "--innodb-use-native-aio=0"])
            .arg(format!(
                "--datadir={}",
                folder.path().join("data").display()
            ))
            .stdin(Stdio::null())
            .output()
            .expect("mariadb-install-db can be started");
        assert!(
            made.status.success(),
            "mariadb-install-db: {}{}",
            String::from_utf8_lossy(&made.stdout),
            String::from_utf8_lossy(&made.stderr)
        );
        // One statement a line.
        let first = format!(
            "CREATE DATABASE IF NOT EXISTS t;\n\
             CREATE USER IF NOT EXISTS ann@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON *.* TO ann@'127.0.0.1' WITH GRANT OPTION;\n"
        );
        std::fs::write(folder.path().join("first.sql"), first).expect("a file of SQL");
        if let Some(Identity { certificate, key }) = identity {
            private_file(&folder.path().join("server.crt"), certificate, ACCOUNT);
            private_file(&folder.path().join("server.key"), key, ACCOUNT);
        }
        let mut mariadb = Self {
            process: Process::new("mariadbd", folder.path().join("log")),
            folder,
            port: free_port(),
            tls: identity.is_some(),
        };
        mariadb.up();
        mariadb
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `dburl` of a connection to it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mysql://ann:{PASSWORD}@127.0.0.1:{}/t", self.port)
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The `mariadb` client on the database `t`, ready for a statement on its standard input.
    #[must_use]
    pub fn client(&self) -> Command {
        let mut client = client(self.port);
        if self.tls {
            client.args(["--ssl", "--skip-ssl-verify-server-cert"]);
        }
        client
    }

    /// Runs SQL with the client; answers what it printed, columns with tabs between them.
    ///
    /// # Panics
    /// The client fails.
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        let done = self
            .client()
            .args(["-e", sql])
            .stdin(Stdio::null())
            .output()
            .expect("the client can be started");
        assert!(
            done.status.success(),
            "mariadb: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it in order (SIGTERM).
    pub fn stop(&mut self) {
        self.process.stop("TERM", Duration::from_secs(15));
    }

    /// Starts it (again) on what it has.
    ///
    /// # Panics
    /// It does not come up.
    pub fn up(&mut self) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut server = as_user(ACCOUNT, &tool(&["mariadbd", "mysqld"]));
        server.arg("--no-defaults");
        if self.tls {
            server
                .arg(format!("--ssl-cert={}", path("server.crt")))
                .arg(format!("--ssl-key={}", path("server.key")))
                .arg("--require-secure-transport=ON");
        }
        server
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--socket={}", path("socket")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--init-file={}", path("first.sql")))
            .arg(format!("--port={}", self.port))
            .args([
                "--bind-address=127.0.0.1",
                "--innodb-flush-log-at-trx-commit=0",
            ])
            .args([
                "--innodb-buffer-pool-size=64M",
                "--skip-name-resolve",
                "--character-set-server=utf8mb4",
                "--innodb-use-native-aio=0",
            ]);
        let (port, mut client) = (self.port, self.client());
        client.args(["-e", "SELECT 1"]).stdin(Stdio::null());
        self.process
            .start(&mut server, Duration::from_secs(30), || {
                listens(port) && client.output().is_ok_and(|done| done.status.success())
            });
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_started_again_has_what_was_written() {
        let mut mariadb = MariaDb::start();
        assert_eq!(
            mariadb.sql("CREATE TABLE x (a int); INSERT INTO x VALUES (7)"),
            ""
        );
        mariadb.stop();
        assert!(!listens(mariadb.port()));
        mariadb.up();
        assert_eq!(mariadb.sql("SELECT a, 'x' FROM x"), "7\tx");
    }
}
