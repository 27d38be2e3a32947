//! Which connection types there are. To add one: its `pub mod` line in `connections/mod.rs`, and its
//! line in the list at the end of this file.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::properties::nearest;
use super::{Carries, ConfigError, Connection, ConnectionType, Context, Properties, Property};

/// A [`ConnectionType`] without its type: what the list holds.
pub trait AnyConnectionType: Send + Sync + fmt::Debug {
    /// [`ConnectionType::NAME`].
    fn name(&self) -> &'static str;
    /// [`ConnectionType::ALIASES`].
    fn aliases(&self) -> &'static [&'static str];
    /// [`ConnectionType::PROPERTIES`].
    fn properties(&self) -> &'static [Property];
    /// [`ConnectionType::build`].
    ///
    /// # Errors
    /// All mistakes in the properties.
    fn build(
        &self,
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>>;
    /// [`ConnectionType::exclusive_endpoint`].
    fn exclusive_endpoint(&self, properties: &Properties) -> Option<String>;
    /// [`ConnectionType::ENDPOINT`].
    fn endpoint_properties(&self) -> &'static [&'static str];
    /// [`ConnectionType::MESSAGE_ID_HEADER`].
    fn message_id_header(&self) -> &'static str;
    /// [`ConnectionType::CARRIES`].
    fn carries(&self) -> Option<Carries>;
    /// [`ConnectionType::identity`].
    fn identity(&self, properties: &Properties) -> Option<String>;
    /// [`ConnectionType::divide`].
    ///
    /// # Errors
    /// All mistakes in what it looks at.
    fn divide(&self, properties: &mut Properties) -> Result<Properties, Vec<ConfigError>>;
}

/// The erased twin of a connection type.
pub struct Erased<T>(PhantomData<fn() -> T>);

impl<T> Erased<T> {
    /// The only value.
    pub const NEW: Self = Self(PhantomData);
}

impl<T: ConnectionType> fmt::Debug for Erased<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::NAME)
    }
}

impl<T: ConnectionType> AnyConnectionType for Erased<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }
    fn aliases(&self) -> &'static [&'static str] {
        T::ALIASES
    }
    fn properties(&self) -> &'static [Property] {
        T::PROPERTIES
    }
    fn build(
        &self,
        properties: &Properties,
        context: Context,
    ) -> Result<Arc<dyn Connection>, Vec<ConfigError>> {
        T::build(properties, context)
    }
    fn exclusive_endpoint(&self, properties: &Properties) -> Option<String> {
        T::exclusive_endpoint(properties)
    }
    fn endpoint_properties(&self) -> &'static [&'static str] {
        T::ENDPOINT
    }
    fn message_id_header(&self) -> &'static str {
        T::MESSAGE_ID_HEADER
    }
    fn carries(&self) -> Option<Carries> {
        T::CARRIES
    }
    fn identity(&self, properties: &Properties) -> Option<String> {
        T::identity(properties)
    }
    fn divide(&self, properties: &mut Properties) -> Result<Properties, Vec<ConfigError>> {
        T::divide(properties)
    }
}

/// The types that a pool knows.
#[derive(Clone, Copy, Debug)]
pub struct Registry {
    types: &'static [&'static dyn AnyConnectionType],
}

impl Registry {
    /// A registry of these types.
    #[must_use]
    pub const fn of(types: &'static [&'static dyn AnyConnectionType]) -> Self {
        Self { types }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'static dyn AnyConnectionType> + use<> {
        self.types.iter().copied()
    }

    /// The type of that name or alias, without regard to case.
    ///
    /// # Errors
    /// A mistake at `/typ` with the nearest name and the list of all.
    pub fn get(&self, typ: &str) -> Result<&'static dyn AnyConnectionType, ConfigError> {
        let same = |name: &&str| name.eq_ignore_ascii_case(typ);
        let found = self
            .iter()
            .find(|any| same(&any.name()) || any.aliases().iter().any(same));
        found.ok_or_else(|| {
            let names: Vec<_> = self.iter().map(AnyConnectionType::name).collect();
            let all = self
                .iter()
                .flat_map(|any| any.aliases().iter().copied().chain([any.name()]));
            let hint = match nearest(typ, all) {
                Some(meant) => format!("did you mean \"{meant}\"? "),
                None => String::new(),
            };
            let typ: String = typ.chars().take(60).collect();
            let sentence = format!(
                "unknown connection type \"{typ}\"; {hint}Allowed: {}",
                names.join(", ")
            );
            ConfigError::new("/typ", sentence)
        })
    }

    /// Divides what a source or an action gives into the properties of its connection and the rest,
    /// which is the connector's. Both keep the spelling of their names.
    #[must_use]
    pub fn split(typ: &dyn AnyConnectionType, all: Properties) -> (Properties, Properties) {
        let known = typ.properties();
        all.into_iter()
            .partition(|(name, _)| known.iter().any(|p| p.name.eq_ignore_ascii_case(name)))
    }
}

/// The types that this program is built with.
impl Default for Registry {
    fn default() -> Self {
        BUILT_IN
    }
}

/// One line per connection type: `folder::Type,`.
macro_rules! connection_types {
    ($($folder:ident::$kind:ident,)*) => {
        const BUILT_IN: Registry = Registry::of(&[$(&Erased::<super::$folder::$kind>::NEW,)*]);
    };
}

connection_types! {
    edgex::Edgex,
    http::HttpServer,
    httppush::HttpPush,
    mqtt::Mqtt,
    nats::Nats,
    nng::Nng,
    redis::Redis,
    sql::SqlDatabase,
    websocket::WebSocket,
}
