//! Clients whose connection goes on as something else after its request (WebSocket): whoever serves the
//! request answers 101 and gets the bytes. The connection keeps its place, and ends with the listener.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Place;

/// How long the answer may take to be sent.
const ANSWERED: Duration = Duration::from_secs(10);
/// How long whoever has the connection may take to end when the listener does.
const GRACE: Duration = Duration::from_secs(2);

/// A client's connection, as a request that asks for an upgrade knows it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) place: Arc<Place>,
    /// The listener ends.
    pub(super) stop: CancellationToken,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// The bytes of a connection that has been taken over.
pub type Stream = TokioIo<Upgraded>;

/// This connection cannot become anything else (HTTP/2, or nothing was asked for).
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this connection cannot be upgraded")]
pub struct NotUpgradable;

/// Takes over the connection that this request came on, once its answer (101, which the caller gives) has
/// been sent. `then` runs in a task of the listener, and is cut off two seconds after that has ended.
///
/// # Errors
/// It cannot be; answer something else.
pub fn take_over<F, Fut>(request: &mut Request<Incoming>, then: F) -> Result<(), NotUpgradable>
where
    F: FnOnce(Stream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let client = request.extensions_mut().remove::<Client>();
    let client = client.filter(|_| request.version() == Version::HTTP_11);
    let Client { place, stop } = client.ok_or(NotUpgradable)?;
    let upgraded = hyper::upgrade::on(request);
    let tasks = place.listener.0.tasks.clone();
    tasks.spawn(async move {
        let stream = match timeout(ANSWERED, upgraded).await {
            Ok(Ok(upgraded)) => TokioIo::new(upgraded),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client went before its upgrade");
                return;
            }
            Err(_elapsed) => return,
        };
        // From here on whoever has it decides how long it may be silent.
        place.keep();
        tokio::select! {
            () = then(stream) => {}
            () = async { stop.cancelled().await; sleep(GRACE).await } => {}
        }
        drop(place);
    });
    Ok(())
}
