//! One dial for every connection type that talks over a stream: TCP, TLS over it, WebSocket over
//! either. Gives one object to read from and write to. Knows no protocol above.
//!
//! Addresses are looked up at each attempt and all of them are tried, each a moment after the one
//! before, so that dead ones cost little (RFC 8305). Small writes leave at once (TCP_NODELAY), and on
//! Linux reads are acknowledged at once (TCP_QUICKACK): a broker with Nagle's algorithm on would
//! otherwise hold messages back for up to 40 ms.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, Stream as _, StreamExt as _};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::properties::nearest;
use super::tls::{self, TlsConfig};
use crate::error::ConnectionError;

/// The wait before the next address is tried beside those under way (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// The longest wait for a name: shorter than the least that a whole attempt has by default, so that the
/// status says which of the two it was that did not answer.
const RESOLVE: Duration = Duration::from_secs(4);
/// At most this many addresses of one name.
const ADDRESSES: usize = 16;

/// What a dial gives: bytes in, bytes out.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where to dial, from a URL. Its `Debug` and `Display` never show credentials: it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: bool,
    /// WebSocket: path and query of the request.
    websocket: Option<String>,
}

/// Scheme, over TLS, over WebSocket, port where none is named (0: it must be named).
const SCHEMES: [(&str, bool, bool, u16); 8] = [
    ("tcp", false, false, 0),
    ("mqtt", false, false, 1883),
    ("ssl", true, false, 0),
    ("tls", true, false, 0),
    ("mqtts", true, false, 8883),
    ("ws", false, true, 80),
    ("wss", true, true, 443),
    ("mqtt+ssl", true, false, 8883),
];

impl Endpoint {
    /// Reads `scheme://host:port`. `port` stands in where neither the URL nor its scheme has one;
    /// it is given without and with TLS.
    ///
    /// # Errors
    /// A sentence on what is wrong, without the user part of the URL.
    pub fn parse(text: &str, port: Option<(u16, u16)>) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let meant = if text.contains(':') {
                text
            } else {
                "host:1883"
            };
            return Err(format!(
                "has no scheme; write it as tcp://{}",
                meant.rsplit('@').next().unwrap_or(meant)
            ));
        };
        let lower = scheme.to_ascii_lowercase();
        let Some((_, tls, websocket, own)) = SCHEMES.iter().find(|(name, ..)| *name == lower)
        else {
            let names: Vec<_> = SCHEMES.iter().map(|(name, ..)| *name).collect();
            let hint = nearest(&lower, names.iter().copied())
                .map(|name| format!("did you mean \"{name}\"? "))
                .unwrap_or_default();
            return Err(format!(
                "has the scheme \"{scheme}\"; {hint}Allowed: {}",
                names.join(", ")
            ));
        };
        if rest
            .split('/')
            .next()
            .is_some_and(|authority| authority.contains('@'))
        {
            return Err("holds credentials; give them as properties of their own".to_owned());
        }
        let parsed = url::Url::parse(&format!("http://{rest}"))
            .map_err(|error| format!("is not a URL: {error}"))?;
        let host = match parsed.host() {
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            None => return Err("names no host".to_owned()),
        };
        // The parser drops 80, the default of the scheme it was given.
        let named = parsed.port().or_else(|| {
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            authority
                .rsplit_once(':')
                .filter(|(_, port)| *port == "80")
                .map(|_| 80)
        });
        let default = port.map(|(plain, secure)| if *tls { secure } else { plain });
        let port = named
            .or((*own > 0).then_some(*own))
            .or(default)
            .filter(|port| *port > 0);
        let Some(port) = port else {
            return Err("names no port".to_owned());
        };
        if !websocket && !matches!(parsed.path(), "" | "/") {
            return Err(format!(
                "has the path \"{}\"; only ws:// and wss:// have one",
                parsed.path()
            ));
        }
        let path = websocket.then(|| {
            let query = parsed
                .query()
                .map(|query| format!("?{query}"))
                .unwrap_or_default();
            format!("{}{query}", parsed.path())
        });
        Ok(Self {
            host,
            port,
            tls: *tls,
            websocket: path,
        })
    }

    /// Reads `scheme://host:port` of a protocol that has its own schemes, each without or with TLS;
    /// without one the text is `host:port`, in the clear. Without a port it is `port`.
    ///
    /// # Errors
    /// A sentence on what is wrong, without the user part of the URL.
    pub fn parse_own(
        text: &str,
        schemes: &[(&'static str, bool)],
        port: u16,
    ) -> Result<Self, String> {
        let (tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some((scheme, rest)) => {
                let lower = scheme.to_ascii_lowercase();
                let known = schemes.iter().find(|(name, _)| *name == lower);
                let Some((_, tls)) = known else {
                    let names: Vec<_> = schemes.iter().map(|(name, _)| *name).collect();
                    let hint = nearest(&lower, names.iter().copied())
                        .map(|name| format!("did you mean \"{name}\"? "))
                        .unwrap_or_default();
                    return Err(format!(
                        "has the scheme \"{scheme}\"; {hint}Allowed: {}",
                        names.join(", ")
                    ));
                };
                (*tls, rest)
            }
        };
        let plain = Self::parse(&format!("tcp://{rest}"), Some((port, port)))?;
        Ok(Self { tls, ..plain })
    }

    /// A plain TCP or TLS endpoint.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16, tls: bool) -> Self {
        Self {
            host: host.into(),
            port,
            tls,
            websocket: None,
        }
    }

    /// It is reached over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host's name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A WebSocket's whole URL, path and query included; None: it is something else.
    #[must_use]
    pub fn websocket_url(&self) -> Option<String> {
        let scheme = if self.tls { "wss" } else { "ws" };
        let path = self.websocket.as_ref()?;
        Some(format!("{scheme}://{self}{path}"))
    }
}

/// Host and port, for an operator's status.
impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How to dial.
#[derive(Clone, Copy, Debug)]
pub struct Dial<'a> {
    /// For endpoints over TLS.
    pub tls: &'a TlsConfig,
    /// Protocols offered in the TLS handshake.
    pub alpn: &'a [&'a [u8]],
    /// `Sec-WebSocket-Protocol`, which the server must answer with.
    pub websocket_protocol: &'a str,
    /// The largest WebSocket message taken in.
    pub websocket_limit: usize,
    /// How long written bytes may stay unacknowledged before the kernel gives the link up (Linux).
    pub user_timeout: Option<Duration>,
    /// The kernel asks a silent peer after this long, and then three times a quarter of it apart: for
    /// protocols that have no ping of their own.
    pub probe: Option<Duration>,
}

/// Dials once. No deadline of its own: the caller has one.
///
/// # Errors
/// `disconnected`; the address stands in the cause only. Slow where the other side's identity or
/// certificate is the reason.
///
/// # Cancel safety
/// Nothing stays behind when it is dropped.
pub async fn dial(endpoint: &Endpoint, how: &Dial<'_>) -> Result<Box<dyn Stream>, ConnectionError> {
    let stream = open(endpoint, how).await?;
    websocket(endpoint, how, stream).await
}

/// The stream alone, TCP or TLS over it, also where the endpoint is a WebSocket's: for a type
/// that speaks it by itself. As [`dial`] in everything else.
///
/// # Errors
/// As [`dial`].
pub async fn open(endpoint: &Endpoint, how: &Dial<'_>) -> Result<Box<dyn Stream>, ConnectionError> {
    let tcp = tcp(endpoint, how).await?;
    if !endpoint.tls {
        return Ok(Box::new(tcp));
    }
    let name = how.tls.server_name(&endpoint.host)?;
    Ok(Box::new(
        secure(tcp, name, how.tls.client(how.alpn)?).await?,
    ))
}

/// TLS over a stream that [`open`] gave, for a type that makes one configuration for many dials or
/// wants to know what the handshake agreed on.
///
/// # Errors
/// As [`dial`].
pub async fn secure<S: Stream>(
    stream: S,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<S>, ConnectionError> {
    let connector = TlsConnector::from(config);
    connector.connect(name, stream).await.map_err(|error| {
        tls::explain(&error).unwrap_or_else(|| {
            ConnectionError::disconnected("tls", "the TLS handshake failed").caused_by(error)
        })
    })
}

/// Why a WebSocket's handshake failed, in the words of a status. Slow where the server understood and
/// said no, or is none.
#[must_use]
pub fn handshake_failed(error: WsError) -> ConnectionError {
    let slow = match &error {
        // In TLS 1.3 a server that refuses this client says so in place of its first answer.
        WsError::Io(error) => match tls::explain(error) {
            Some(explained) => return explained,
            None => false,
        },
        WsError::Http(response) => response.status().is_client_error(),
        // A server that goes down in the middle is no other server.
        WsError::Protocol(ProtocolError::HandshakeIncomplete) => false,
        WsError::Protocol(_) => true,
        _ => false,
    };
    let error = ConnectionError::disconnected("websocket", "the WebSocket handshake failed")
        .caused_by(error);
    if slow { error.slow() } else { error }
}

async fn websocket(
    endpoint: &Endpoint,
    how: &Dial<'_>,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, ConnectionError> {
    let Some(url) = endpoint.websocket_url() else {
        return Ok(stream);
    };
    let mut request = url.into_client_request().map_err(handshake_failed)?;
    let protocol = HeaderValue::from_str(how.websocket_protocol).map_err(|error| {
        ConnectionError::misconfigured("websocket", "the WebSocket protocol is no header")
            .caused_by(error)
    })?;
    if !protocol.is_empty() {
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(how.websocket_limit))
        .max_frame_size(Some(how.websocket_limit))
        .read_buffer_size(8 * 1024)
        .write_buffer_size(8 * 1024);
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(config))
        .await
        .map_err(handshake_failed)?;
    Ok(Box::new(WebSocket {
        socket,
        rest: Bytes::new(),
    }))
}

async fn tcp(endpoint: &Endpoint, how: &Dial<'_>) -> Result<Quick, ConnectionError> {
    let unresolved = "the server's name cannot be resolved";
    let lookup = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port));
    let found = tokio::time::timeout(RESOLVE, lookup)
        .await
        .map_err(|_| {
            ConnectionError::disconnected("resolve", unresolved)
                .caused_by(format!("no name server answered within {RESOLVE:?}"))
        })?
        .map_err(|error| ConnectionError::disconnected("resolve", unresolved).caused_by(error))?;
    let mut addresses: VecDeque<SocketAddr> = found.take(ADDRESSES).collect();
    let mut attempts = FuturesUnordered::new();
    let mut last = None;
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.push(async move { (address, TcpStream::connect(address).await) });
        } else if attempts.is_empty() {
            break;
        }
        let next = attempts.next();
        let ended = if addresses.is_empty() {
            next.await
        } else {
            match tokio::time::timeout(STAGGER, next).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some((_, Ok(stream))) => {
                prepare(&stream, how);
                return Ok(Quick(stream));
            }
            Some((address, Err(error))) => last = Some(format!("{address}: {error}")),
            None => {}
        }
    }
    let cause = last.unwrap_or_else(|| "the name has no address".to_owned());
    Err(ConnectionError::disconnected("connect", "the server cannot be reached").caused_by(cause))
}

/// What a system refuses here is no reason to do without the link.
fn prepare(stream: &TcpStream, how: &Dial<'_>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY refused");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(how.user_timeout) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT refused");
    }
    if let Some(silent) = how.probe {
        let keep_alive = TcpKeepalive::new()
            .with_time(silent)
            .with_interval(silent / 4)
            .with_retries(3);
        if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keep_alive) {
            tracing::debug!(%error, "SO_KEEPALIVE refused");
        }
    }
}

/// A TCP stream that has each read acknowledged at once. Linux forgets the wish by itself, so it is
/// said after every read.
#[derive(Debug)]
struct Quick(TcpStream);

impl AsyncRead for Quick {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.0).poll_read(cx, buf));
        #[cfg(target_os = "linux")]
        if buf.filled().len() > before {
            // A socket that just gave bytes takes this option, or the next read says why not.
            drop(SockRef::from(&self.0).set_tcp_quickack(true));
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Quick {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Binary WebSocket messages as a stream of bytes (MQTT 6: packets are not aligned to messages).
struct WebSocket<S> {
    socket: WebSocketStream<S>,
    rest: Bytes,
}

fn broken(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<S: Stream> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::other(
                        "the server sent text where only bytes may come",
                    )));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = self.rest.len().min(buf.remaining());
        let part = self.rest.split_to(count);
        buf.put_slice(&part);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for WebSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(broken)?;
        let message = Message::Binary(Bytes::copy_from_slice(buf));
        Pin::new(&mut self.socket)
            .start_send(message)
            .map_err(broken)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(broken)
    }
}

#[cfg(test)]
mod tests;
