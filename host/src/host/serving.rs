//! A host that is served: what is defined lies in its store and is changed through REST. The same
//! machine as one that runs a manifest, with the catalog in place of the manifest.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{Host, HostConfig, StartError, arranged};
use crate::api::auth::AuthConfig;
use crate::api::system::View;
use crate::api::{self, ApiConfig, ListeningApi};
use crate::catalog::{Catalog, Imported, Parts};
use crate::config::ekuiper::{Bundle, read_export};
use crate::config::{Manifest, Rest};
use crate::connections::dataport::DataPort;
use crate::snapshot::{Change, Snapshot};

/// How a host is to be served.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// As for every host.
    pub host: HostConfig,
    /// Settings (`files`, `push`, `rest`, `limits`), and definitions that are taken in at the start.
    pub manifest: Manifest,
    /// eKuiper's `etc`: its connections and conf keys are taken in when they have changed since the
    /// last start.
    pub etc: Option<Bundle>,
}

/// What only a host that is served has.
pub(super) struct Served {
    catalog: Catalog,
    port: DataPort,
    listening: ListeningApi,
    stop: CancellationToken,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("address", &self.listening.address)
            .finish_non_exhaustive()
    }
}

impl Served {
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            push: self.port.address().map(|address| address.to_string()),
            ..self.catalog.snapshot()
        }
    }

    /// Takes no more requests, and waits for those under way.
    pub(super) async fn stop(&self, limit: Duration) {
        self.stop.cancel();
        self.listening.ended(limit).await;
    }
}

/// What REST sees of the host.
struct Shown {
    catalog: Catalog,
    port: DataPort,
    changes: broadcast::Sender<Change>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl View for Shown {
    fn snapshot(&self, _tenant: &str) -> Snapshot {
        Snapshot {
            push: self.port.address().map(|address| address.to_string()),
            ..self.catalog.snapshot()
        }
    }

    fn changes(&self, _tenant: &str) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

impl Host {
    /// Brings back what is in the data folder, takes in the manifest, and serves REST.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn serve(config: ServeConfig) -> Result<Self, StartError> {
        let ServeConfig {
            host: config,
            manifest,
            etc,
        } = config;
        let (mut host, _) = Self::build(&config, &manifest, false).await?;
        let catalog = Catalog::new(Parts {
            store: host.store.clone(),
            pool: host.pool.clone(),
            engine: Arc::clone(&host.engine),
            runtime: host.runtime.clone(),
            spills: Arc::clone(&host.spills),
            progress: Arc::clone(&config.progress),
            folder: config.data_dir.join("connectors"),
            keep: true,
        });
        let restored = match catalog.restore().await {
            Ok(restored) => restored,
            Err(error) => {
                // Its definitions come back with the disk; what runs and is defined now must not be
                // written over them.
                host.end(Duration::ZERO).await;
                return Err(error.into());
            }
        };
        tracing::info!(
            connections = restored.connections,
            streams = restored.streams,
            rules = restored.rules,
            broken = restored.broken,
            "what was defined is back"
        );
        if let Err(errors) = take_in(&catalog, etc, &config.data_dir).await {
            host.end(Duration::ZERO).await;
            return Err(errors);
        }
        if let Err(errors) = catalog.apply(&manifest).await {
            host.end(Duration::ZERO).await;
            return Err(StartError::Config(arranged(errors)));
        }
        let stop = host.over.child_token();
        let view = Arc::new(Shown {
            catalog: catalog.clone(),
            port: host.port.clone(),
            changes: host.changes.clone(),
        });
        let router = api::routes(view, &catalog, host.leave.clone());
        let listening = match api::serve(api_config(&manifest.rest), router, stop.clone()).await {
            Ok(listening) => listening,
            Err(error) => {
                host.end(Duration::ZERO).await;
                return Err(error.into());
            }
        };
        host.served = Some(Served {
            catalog: catalog.clone(),
            port: host.port.clone(),
            listening,
            stop,
        });
        let (engine, pool, over) = (
            Arc::clone(&host.engine),
            host.pool.clone(),
            host.over.clone(),
        );
        host.tasks.spawn(async move {
            let back = async {
                catalog.start_restored(&restored.run).await;
                pool.rules_started();
                engine.sources_opened().await;
            };
            tokio::select! {
                () = back => pool.takers_known(),
                () = over.cancelled() => {}
            }
        });
        host.resend();
        Ok(host)
    }

    /// Where REST listens, if it is served.
    #[must_use]
    pub fn rest_address(&self) -> Option<SocketAddr> {
        Some(self.served.as_ref()?.listening.address)
    }
}

/// The file in the data folder whose definitions are taken in when it is new or has changed, as in
/// eKuiper.
const INIT: &str = "init.json";
/// Bytes of it that are read at most.
const LARGEST_INIT: u64 = 64 * 1024 * 1024;

/// Takes in what eKuiper's files say.
async fn take_in(catalog: &Catalog, etc: Option<Bundle>, data: &Path) -> Result<(), StartError> {
    if let Some(bundle) = etc {
        for remark in &bundle.remarks {
            tracing::warn!(what = %remark, "etc");
        }
        tell("etc", catalog.import_if_new("etc", bundle).await?);
    }
    let init = data.join(INIT);
    let known = tokio::fs::metadata(&init).await;
    if !known.is_ok_and(|known| known.is_file() && known.len() <= LARGEST_INIT) {
        return Ok(());
    }
    let read = tokio::fs::read_to_string(&init).await;
    let text = match read {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%error, "{INIT} cannot be read");
            return Ok(());
        }
    };
    match read_export(INIT, &text) {
        Ok(bundle) => tell(INIT, catalog.import_if_new(INIT, bundle).await?),
        Err(errors) => {
            // It lies in the data folder: nothing there keeps the host from starting.
            for error in errors {
                tracing::error!(%error, "{INIT} is not taken in");
            }
        }
    }
    Ok(())
}

fn tell(place: &str, imported: Option<Imported>) {
    let Some(imported) = imported else { return };
    for ((section, id), why) in &imported.failed {
        tracing::error!(place, section = section.key(), id, why, "not taken in");
    }
    tracing::info!(
        place,
        failed = imported.failed.len(),
        "its definitions were taken in"
    );
}

fn api_config(rest: &Rest) -> ApiConfig {
    let mut config = ApiConfig {
        tls: rest.tls.clone(),
        auth: rest.keys.clone().map(|keys| AuthConfig { keys }),
        names: rest.names.clone(),
        origins: rest.origins.clone(),
        ..ApiConfig::default()
    };
    if let Some(address) = rest.address {
        config.address = address;
    }
    let count = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok());
    if let Some(connections) = count(rest.max_connections) {
        config.limits.connections = connections;
    }
    if let Some(bytes) = count(rest.max_body_bytes) {
        config.limits.body_bytes = bytes;
    }
    config
}
