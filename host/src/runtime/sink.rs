//! A sink in use: writes, and everything that must happen to its instances between writes.

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;
use wasmtime::Store;
use wasmtime::component::Instance as Made;

use super::connector::{Connector, Linked};
use super::error::GuestError;
use super::instance::{Ended, Export, Instance, Use, account, run};
use super::restarts::Restarts;
use super::state::State;
use super::{GuestConfig, Runtime};
use crate::error::ConnectionError;
use crate::interfaces::bindings::exports::windlass::connector::sink;
use crate::interfaces::bindings::windlass::connector::types;
use crate::interfaces::{GuestStats, Phase, Role, from_guest};
use crate::message::{Batch, Rejection};

/// A sink in use. Its methods belong on [`Runtime::handle`].
pub struct SinkGuest {
    used: Use,
    instance: Option<Instance<sink::Guest>>,
    restarts: Restarts,
}

impl fmt::Debug for SinkGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkGuest")
            .field("connector", &self.used.connector.name)
            .field("rule", &self.used.config.rule)
            .field("running", &self.instance.is_some())
            .finish_non_exhaustive()
    }
}

impl SinkGuest {
    /// A sink that has not started: no instance yet.
    #[must_use]
    pub fn new(runtime: &Runtime, connector: Arc<Connector>, config: GuestConfig) -> Self {
        let used = Use::new(runtime, connector, config, Role::Sink);
        Self {
            used,
            instance: None,
            restarts: Restarts::default(),
        }
    }

    /// Opens a new instance, in place of the present one if there is one.
    ///
    /// # Errors
    /// What the guest said, or why no instance runs.
    pub async fn open(&mut self) -> Result<(), GuestError> {
        self.put_away().await;
        self.instance = Some(self.start().await?);
        Ok(())
    }

    /// Writes a batch. Makes and opens an instance first if there is none, or if the present one is
    /// worn; after many failures it waits for that, 5 s at most.
    ///
    /// # Errors
    /// What the guest said, or how it failed: none of the batch is known to be written.
    ///
    /// # Cancel safety
    /// Dropped half-way, the batch may be written or not, and the instance is replaced.
    pub async fn write(&mut self, batch: Batch) -> Result<Vec<Rejection>, GuestError> {
        let mut instance = match self.instance.take() {
            Some(instance) => match instance.worn(&self.used) {
                Some(worn) => {
                    worn.count(&self.used.stats);
                    instance.close(&self.used).await;
                    self.start().await?
                }
                None => instance,
            },
            None => self.start().await?,
        };
        let len = batch.len();
        instance.meter.begin(Phase::Write);
        let Instance {
            meter,
            exports,
            calls,
            ..
        } = &mut instance;
        *calls += 1;
        let handle = match meter.host().lend(batch) {
            Ok(handle) => handle,
            Err(error) => return Err(self.lost(Phase::Write, &Ended::Failed(error), instance)),
        };
        let answer = {
            let call = exports.call_write(&mut meter.store, handle);
            run(
                &self.used.runtime,
                &meter.clock,
                self.used.limits().call_deadline,
                call,
            )
            .await
        };
        account(&self.used.stats, &meter.clock);
        let answer = match answer {
            Ok(answer) => answer,
            Err(ended) => return Err(self.lost(Phase::Write, &ended, instance)),
        };
        meter.end();
        self.instance = Some(instance);
        let rejected = answer.map_err(|error| self.used.said(Phase::Write, from_guest(error)))?;
        let out = rejected
            .iter()
            .find(|rejection| rejection.index as usize >= len);
        if let Some(out) = out {
            // Something was not written, and the guest does not know what.
            let sentence = format!("it rejected message {} of a batch of {len}", out.index);
            return Err(self.used.said(
                Phase::Write,
                ConnectionError::permanent("rejection-index", sentence),
            ));
        }
        Ok(rejected
            .into_iter()
            .map(|rejection| Rejection {
                index: rejection.index,
                error: from_guest(rejection.error),
            })
            .collect())
    }

    /// Closes the instance and drops it. The next `write` makes another.
    pub async fn put_away(&mut self) {
        if let Some(instance) = self.instance.take() {
            instance.close(&self.used).await;
        }
    }

    /// Closes the instance.
    pub async fn close(&mut self) {
        self.put_away().await;
    }

    /// There is an instance, which costs memory.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.instance.is_some()
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> Arc<GuestStats> {
        Arc::clone(&self.used.stats)
    }

    async fn start(&mut self) -> Result<Instance<sink::Guest>, GuestError> {
        self.restarts.pause().await;
        self.used.start(&mut self.restarts, None).await
    }

    /// The call did not come back: the instance goes.
    fn lost(&mut self, phase: Phase, ended: &Ended, instance: Instance<sink::Guest>) -> GuestError {
        self.restarts.failed(Instant::now(), rand::random());
        instance.lost(&self.used, phase, ended)
    }
}

impl Export for sink::Guest {
    const NAME: &'static str = "sink";

    fn load(
        linked: &Linked,
    ) -> Option<impl FnOnce(&mut Store<State>, &Made) -> wasmtime::Result<Self> + Send> {
        let indices = linked.sink.as_ref()?;
        Some(|store: &mut Store<State>, made: &Made| indices.load(store, made))
    }

    fn open(
        &self,
        store: &mut Store<State>,
        config: &str,
        _resume: Option<&str>,
    ) -> impl Future<Output = wasmtime::Result<Result<(), types::Error>>> + Send {
        self.call_open(store, config)
    }

    fn close(&self, store: &mut Store<State>) -> impl Future<Output = wasmtime::Result<()>> + Send {
        self.call_close(store)
    }
}
