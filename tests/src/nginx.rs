//! A real nginx: started on free ports in a folder of its own, HTTP and HTTPS (with HTTP/2), stopped,
//! killed, started again. It ends with its owner.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::machine::{free_port, is_root};
use crate::mosquitto::Tls;
use crate::process::{Process, installed, listens};

/// A running (or just stopped) nginx. It answers 204 to everything, but for what `extra` says.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    folder: TempDir,
    port: u16,
    tls_port: u16,
}

impl Nginx {
    /// Starts one that keeps each body in its log, if `logs`; with TLS from this certificate; `extra` are
    /// further lines of its `server`.
    ///
    /// # Panics
    /// nginx is not installed, or does not come up within 10 s.
    #[must_use]
    pub fn start(logs: bool, tls: Option<&Tls>, extra: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("nginx-")
            .tempdir()
            .expect("a temporary folder");
        let mut nginx = Self {
            process: Process::new("nginx", folder.path().join("error.log")),
            folder,
            port: free_port(),
            tls_port: free_port(),
        };
        nginx.write(logs, tls, extra);
        nginx.up();
        nginx
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path on it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The same with TLS, under this name.
    #[must_use]
    pub fn tls_url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.tls_port)
    }

    /// What was asked: a line for each request with protocol, method, target, status and body.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }

    /// Ends it: master and workers.
    pub fn stop(&mut self) {
        self.process.stop("TERM", Duration::from_secs(10));
    }

    /// Starts it (again) on its ports.
    ///
    /// # Panics
    /// It does not come up.
    pub fn up(&mut self) {
        let (folder, port) = (self.folder.path(), self.port);
        let mut command = Command::new(installed("nginx", "nginx"));
        command
            .arg("-p")
            .arg(folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .arg("-e")
            .arg(folder.join("error.log"));
        let limit = Duration::from_secs(10);
        self.process.start(&mut command, limit, || listens(port));
    }

    fn write(&self, logs: bool, tls: Option<&Tls>, extra: &str) {
        let folder = self.folder.path();
        let path = |name: &str| folder.join(name).display().to_string();
        let mut listen = format!("listen 127.0.0.1:{};", self.port);
        if let Some(tls) = tls {
            for (name, pem) in [
                ("cert.pem", &tls.certificate),
                ("key.pem", &tls.key),
                ("ca.pem", &tls.authority),
            ] {
                std::fs::write(folder.join(name), pem).expect("a PEM file can be written");
            }
            listen.push_str(&format!(
                "listen 127.0.0.1:{} ssl http2; ssl_certificate {}; ssl_certificate_key {};",
                self.tls_port,
                path("cert.pem"),
                path("key.pem")
            ));
            if tls.require_certificate {
                listen.push_str(&format!(
                    "ssl_client_certificate {}; ssl_verify_client on;",
                    path("ca.pem")
                ));
            }
        }
        let access = if logs {
            format!(
                "log_format body escape=none '$server_protocol $request_method $request_uri $status $request_body'; access_log {} body;",
                path("access.log")
            )
        } else {
            "access_log off;".to_owned()
        };
        let user = if is_root() { "user root;" } else { "" };
        // A body is read (and stands in the log) only where it goes on to somebody: here to itself.
        let text = format!(
            "{user} daemon off; worker_processes 1; pid {pid}; error_log {error};
             events {{ worker_connections 1024; }}
             http {{
               client_body_temp_path {body}; proxy_temp_path {proxy}; fastcgi_temp_path {fast};
               uwsgi_temp_path {uwsgi}; scgi_temp_path {scgi};
               client_body_buffer_size 1m; client_body_in_single_buffer on; keepalive_requests 1000000;
               {access}
               upstream self {{ server unix:{socket}; keepalive 64; }}
               server {{ listen unix:{socket}; keepalive_requests 1000000; access_log off; location / {{ return 204; }} }}
               server {{ {listen} {extra} location / {{ {what} }} }}
             }}",
            pid = path("pid"),
            error = path("error.log"),
            body = path("body"),
            proxy = path("proxy"),
            fast = path("fast"),
            uwsgi = path("uwsgi"),
            scgi = path("scgi"),
            socket = path("self.sock"),
            what = if logs {
                "proxy_pass http://self; proxy_http_version 1.1; proxy_set_header Connection \"\";"
            } else {
                "return 204;"
            },
        );
        std::fs::write(folder.join("nginx.conf"), text).expect("the configuration can be written");
    }

    /// Its folder: configuration, logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::holds_within;
    use crate::pusher::Client;

    #[test]
    fn it_keeps_what_it_was_sent_and_comes_back() {
        let mut nginx = Nginx::start(true, None, "");
        let mut client = Client::new(nginx.port);
        assert_eq!(
            client.post("/a", b"{\"seq\":1}").expect("an answer").status,
            204
        );
        nginx.stop();
        assert!(client.post("/a", b"").is_err());
        nginx.up();
        assert_eq!(client.post("/b", b"{}").expect("an answer").status, 204);
        let there = holds_within(Duration::from_secs(5), || {
            nginx.log().contains("HTTP/1.1 POST /a 204 {\"seq\":1}\n") && nginx.log().contains("/b")
        });
        assert!(there, "{}", nginx.log());
    }
}
