//! `windlass demo`: the manifest in `demo/demo.yaml`, in a folder of its own, with what it needs there:
//! two connectors in C (built from `guests/c`; `tests/run` says when they are not current) and a table.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

use super::folder::Folder;
use super::logs::Logs;
use super::output;
use super::session::{self, Session, Work};
use crate::config::{Manifest, ManifestError, Source};
use crate::host::PUSH_ADDRESS;

const MANIFEST: &str = include_str!("../../demo/demo.yaml");
/// Connectors that do not come with the host, and the manifest's names for them.
const CONNECTORS: [(&str, &[u8]); 2] = [
    ("checksum.wasm", include_bytes!("../../demo/checksum.wasm")),
    ("frames.wasm", include_bytes!("../../demo/frames.wasm")),
];
const TABLE: &str = "CREATE TABLE IF NOT EXISTS readings \
                     (id INTEGER PRIMARY KEY, machine TEXT, temperature REAL)";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// End by itself after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Where HTTP pushes are taken; a port that is taken, or 0: any free one
    #[arg(long, value_name = "ADDR", default_value_t = PUSH_ADDRESS)]
    push: SocketAddr,
    /// Keep everything in this folder, instead of one that is removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// One JSON object per line on stdout: changes of state, and counters every second
    #[arg(long)]
    pub(super) json: bool,
    /// Print the demo's manifest and end: a start for one of your own
    #[arg(long, conflicts_with_all = ["seconds", "push", "data", "json"])]
    manifest: bool,
}

pub(super) async fn demo(arguments: Arguments, logs: &Logs) -> anyhow::Result<ExitCode> {
    if arguments.manifest {
        output::say(MANIFEST.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = match &arguments.data {
        Some(folder) => Folder::given(folder),
        None => Folder::temporary("windlass-demo")?,
    };
    furnish(folder.path()).await?;
    let mut manifest = match manifest(folder.path()) {
        Ok(manifest) => manifest,
        Err(errors) => return Ok(session::refuse(&errors)),
    };
    manifest.push.address = Some(free(arguments.push));
    let title = format!(
        "Windlass {} demo, in {}",
        env!("CARGO_PKG_VERSION"),
        folder.path().display(),
    );
    let session = Session {
        manifest,
        data_dir: folder.path().join("data"),
        json: arguments.json,
        title,
        rows: true,
        lasts: arguments.seconds.map(Duration::from_secs),
        work: Work::Run,
        hint: Some(curl),
    };
    session::run(session, logs).await
}

/// Puts into the folder what the manifest names: connectors, table, a place for files.
async fn furnish(folder: &Path) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(folder.join("files"))?;
        std::fs::write(folder.join("demo.yaml"), MANIFEST)?;
        for (name, component) in CONNECTORS {
            std::fs::write(folder.join(name), component)?;
        }
        Ok(())
    };
    let shown = folder.display();
    write().with_context(|| format!("the demo's folder {shown} cannot be filled"))?;
    let database = SqliteConnectOptions::new()
        .filename(folder.join("demo.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let made = async {
        let mut database = database.connect().await?;
        sqlx::query(TABLE).execute(&mut database).await?;
        sqlx::Connection::close(database).await
    };
    made.await
        .with_context(|| format!("the table of the demo cannot be made in {shown}"))
}

/// The demo's manifest; what it names is in `folder`.
fn manifest(folder: &Path) -> Result<Manifest, Vec<ManifestError>> {
    let source = Source {
        name: "demo.yaml".to_owned(),
        text: MANIFEST.to_owned(),
        base: folder.to_owned(),
    };
    let (manifest, errors) = Manifest::parse(&[source], &|name| std::env::var(name).ok());
    if errors.is_empty() {
        Ok(manifest)
    } else {
        Err(errors)
    }
}

/// Where pushes are to arrive: as asked, or at any free port where that one is taken.
fn free(asked: SocketAddr) -> SocketAddr {
    match TcpListener::bind(asked) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            output::complain(&format!(
                "{asked} is taken by another program: pushes arrive at another port"
            ));
            SocketAddr::new(asked.ip(), 0)
        }
        // Whatever else is wrong with it stands in the connection's status.
        Ok(_) | Err(_) => asked,
    }
}

/// The command to try, with the address at which pushes arrive.
fn curl(address: &str) -> String {
    format!(r#"curl -d '{{"machine":"me","temperature":93}}' http://{address}/demo"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_manifest_is_sound_whatever_is_set() {
        let manifest = manifest(Path::new("/somewhere")).unwrap();
        assert!(manifest.warnings.is_empty(), "{:?}", manifest.warnings);
        assert_eq!(manifest.files.root, Some(PathBuf::from("/somewhere/files")));
        let ids: Vec<_> = manifest.rules.iter().map(|rule| rule.id.as_str()).collect();
        assert_eq!(ids, ["hot", "store", "pushed", "alarms", "upstream"]);
        assert_eq!(manifest.connections.len(), 2);
        let named: Vec<_> = manifest
            .connectors
            .iter()
            .map(|def| def.path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(named, CONNECTORS.map(|(name, _)| name));
    }

    #[tokio::test]
    async fn a_folder_that_was_used_before_is_used_again_with_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        furnish(folder.path()).await.unwrap();
        let file = folder.path().join("demo.db");
        let options = SqliteConnectOptions::new().filename(&file);
        let mut database = options.connect().await.unwrap();
        let insert = "INSERT INTO readings (machine, temperature) VALUES ('press', 93)";
        sqlx::query(insert).execute(&mut database).await.unwrap();
        furnish(folder.path()).await.unwrap();
        let rows = sqlx::query("SELECT * FROM readings");
        assert_eq!(rows.fetch_all(&mut database).await.unwrap().len(), 1);
    }

    #[test]
    fn a_port_that_is_taken_becomes_any_free_one_and_the_command_names_the_real_one() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(free(address).port(), 0);
        drop(taken);
        assert_eq!(free(address), address);
        assert_eq!(
            curl("127.0.0.1:7"),
            r#"curl -d '{"machine":"me","temperature":93}' http://127.0.0.1:7/demo"#
        );
    }
}
