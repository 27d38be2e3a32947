//! A WebSocket that this host dials. Reconnecting is the supervisor's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context as TaskContext;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::config::Dialling;
use super::wire::{self, Moved, Next, Side, Wire};
use super::{frames, subscribe};
use crate::connections::outbox::Outbox;
use crate::connections::takers::Takers;
use crate::connections::transport::{self, Dial, Stream};
use crate::connections::{
    Connection, Context, Inbox, Messaging, PublishOptions, SubscribeOptions, SubscriptionGuard,
};
use crate::error::ConnectionError;
use crate::message::{Batch, Rejection};

/// What is written must arrive within this (Linux), where nothing is said of keeping alive.
const UNANSWERED: Duration = Duration::from_secs(30);

type Link = Wire<Box<dyn Stream>>;

/// A connection that dials.
#[derive(Debug)]
pub(super) struct Client {
    config: Dialling,
    warnings: Vec<String>,
    shared: Arc<Shared>,
    link: tokio::sync::Mutex<Option<Link>>,
}

/// What a connection shares with its link.
#[derive(Debug)]
struct Shared {
    context: Context,
    takers: Arc<Takers>,
    outbox: Outbox<Message>,
    /// The present link has carried a message.
    useful: AtomicBool,
    closing: AtomicBool,
    close: AtomicWaker,
}

/// The link's side of it, while it lasts.
struct Linked<'a>(&'a Shared);

impl Side for Linked<'_> {
    fn next(&mut self, cx: &TaskContext<'_>) -> Next {
        self.0.close.register(cx.waker());
        if self.0.closing.load(Ordering::Acquire) {
            return Next::Close(CloseCode::Normal, "");
        }
        match self.0.outbox.take(cx) {
            Some(message) => Next::Frame(message),
            None => Next::Nothing,
        }
    }

    fn written(&mut self) {
        if self.0.outbox.written(&self.0.context.traffic) {
            self.0.useful.store(true, Ordering::Relaxed);
        }
    }

    fn moving(&mut self) {
        self.0.outbox.moving();
    }

    fn arrived(&mut self, payload: Bytes) {
        self.0.useful.store(true, Ordering::Relaxed);
        self.0.takers.give(payload, &self.0.context.traffic);
    }
}

/// Whatever becomes of it: without a link there is none.
impl Drop for Linked<'_> {
    fn drop(&mut self) {
        self.0.outbox.down();
    }
}

impl Client {
    pub(super) fn new(config: Dialling, context: Context, warnings: Vec<String>) -> Self {
        Self {
            config,
            warnings,
            shared: Arc::new(Shared {
                context,
                takers: Arc::default(),
                outbox: Outbox::default(),
                useful: AtomicBool::new(false),
                closing: AtomicBool::new(false),
                close: AtomicWaker::new(),
            }),
            link: tokio::sync::Mutex::new(None),
        }
    }

    async fn dial(&self) -> Result<Link, ConnectionError> {
        let Dialling {
            common,
            endpoint,
            tls,
            headers,
            ..
        } = &self.config;
        let keep_alive = common.keep_alive;
        let how = Dial {
            tls,
            alpn: &[b"http/1.1"],
            websocket_protocol: "",
            websocket_limit: common.most,
            user_timeout: Some(if keep_alive.is_zero() {
                UNANSWERED
            } else {
                keep_alive.mul_f32(1.4)
            }),
            probe: None,
        };
        let url = endpoint.websocket_url().unwrap_or_default();
        let mut request = url
            .into_client_request()
            .map_err(transport::handshake_failed)?;
        for (name, value) in headers {
            request.headers_mut().append(name, value.clone());
        }
        if !common.sub_protocols.is_empty() {
            let offered = HeaderValue::from_str(&common.sub_protocols.join(", "));
            let offered = offered.map_err(|error| {
                ConnectionError::misconfigured("websocket", "the sub-protocols are no header")
                    .caused_by(error)
            })?;
            request
                .headers_mut()
                .insert(SEC_WEBSOCKET_PROTOCOL, offered);
        }
        let stream = transport::open(endpoint, &how).await?;
        let settings = wire::settings(common.most);
        let (socket, _answer) =
            client_async_with_config(request, Moved::new(stream), Some(settings))
                .await
                .map_err(transport::handshake_failed)?;
        Ok(Wire::new(socket, keep_alive, common.most))
    }
}

#[async_trait]
impl Connection for Client {
    async fn connect(&self) -> Result<(), ConnectionError> {
        let mut held = self.link.lock().await;
        *held = None;
        self.shared.closing.store(false, Ordering::Release);
        self.shared.useful.store(false, Ordering::Relaxed);
        let limit = self.config.connect_timeout;
        let link = timeout(limit, self.dial()).await.map_err(|_elapsed| {
            ConnectionError::disconnected("timeout", "the server does not answer the handshake")
        })??;
        *held = Some(link);
        Ok(())
    }

    async fn lost(&self) -> ConnectionError {
        let mut held = self.link.lock().await;
        let Some(link) = held.as_mut() else {
            return ConnectionError::disconnected("closed", "there is no link");
        };
        let mut side = Linked(&self.shared);
        self.shared.outbox.up();
        let error = link.run(&mut side).await.error();
        drop(side);
        *held = None;
        if error.code == "too-large" {
            let context = &self.shared.context;
            context.traffic.refused.fetch_add(1, Ordering::Relaxed);
            context.refused.refused("", Bytes::new(), &error);
        }
        error
    }

    async fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.close.wake();
        // Where `lost` is driven it says goodbye first.
        self.link.lock().await.take();
    }

    fn dial_timeout(&self) -> Duration {
        self.config.connect_timeout + Duration::from_secs(1)
    }

    fn was_useful(&self) -> bool {
        self.shared.useful.load(Ordering::Relaxed)
    }

    fn peer(&self) -> Option<String> {
        Some(self.config.endpoint.to_string())
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn messaging(&self) -> Option<&dyn Messaging> {
        Some(self)
    }
}

#[async_trait]
impl Messaging for Client {
    fn subscribe(
        &self,
        filters: &[String],
        options: &SubscribeOptions,
        inbox: Arc<Inbox>,
    ) -> Result<Box<dyn SubscriptionGuard>, ConnectionError> {
        subscribe(
            &self.config.common,
            &self.shared.takers,
            filters,
            options,
            inbox,
        )
    }

    async fn publish(
        &self,
        batch: &Batch,
        options: &PublishOptions,
    ) -> Result<Vec<Rejection>, ConnectionError> {
        let make = frames(&self.config.common, options)?;
        self.shared.outbox.publish(batch, make).await
    }
}
