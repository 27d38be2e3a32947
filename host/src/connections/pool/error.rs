//! Why the pool says no. Where eKuiper has a sentence for it, it is that sentence.

use crate::connections::ConfigError;
use crate::error::ConnectionError;

/// A refusal by the pool; nothing has changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// The id is not one that a user may choose.
    #[error("{0}")]
    InvalidId(String),
    /// There is one of that id.
    #[error("connection {0} already been created")]
    Exists(String),
    /// There is none of that id in this tenant.
    #[error("connection {0} not existed")]
    Unknown(String),
    /// It belongs to a rule.
    #[error("internal connection {0} can't be edit")]
    Anonymous(String),
    /// Rules use it. The names are in order and without repetition.
    #[error("connection {id} can't be dropped due to rule references [{}]", users.join(" "))]
    InUse {
        /// The connection.
        id: String,
        /// The rules.
        users: Vec<String>,
    },
    /// A connection in use cannot become one of another type.
    #[error("connection {id} is used by [{}]: its typ {from} can't be changed to {to}", users.join(" "))]
    TypeInUse {
        /// The connection.
        id: String,
        /// Its type.
        from: &'static str,
        /// The type asked for.
        to: &'static str,
        /// The rules.
        users: Vec<String>,
    },
    /// Another connection is the same client to the same server, or owns the same endpoint. The
    /// other's id, unless it is another tenant's.
    #[error("{}", same_client(other.as_deref()))]
    SameClient {
        /// The one that was first.
        other: Option<String>,
    },
    /// Rules share the one connection of an exclusive endpoint, and it is there with other properties.
    #[error("{}", otherwise(users, names))]
    Otherwise {
        /// The rules that use it.
        users: Vec<String>,
        /// The properties whose values differ.
        names: Vec<String>,
    },
    /// The type or the properties have mistakes: all of them.
    #[error("{}", sentences(.0))]
    Invalid(Vec<ConfigError>),
    /// It was dialled for a check and could not be reached.
    #[error("{}", .0.report())]
    Dial(ConnectionError),
    /// The host is going down.
    #[error("the host is stopping")]
    Stopping,
}

impl PoolError {
    /// The mistakes with their places, where there are some.
    #[must_use]
    pub fn mistakes(&self) -> &[ConfigError] {
        match self {
            Self::Invalid(mistakes) => mistakes,
            _ => &[],
        }
    }
}

fn same_client(other: Option<&str>) -> String {
    match other {
        Some(id) => format!(
            "connection {id} is already this client to this server; use it with connectionSelector, or choose another client id or endpoint"
        ),
        None => "this client id is already in use at this server; choose another".to_owned(),
    }
}

/// What two definitions of one connection must be, and are not.
#[must_use]
pub fn otherwise(users: &[String], names: &[String]) -> String {
    format!(
        "{} uses the same endpoint with another value of {}: give both the same, or make one connection of it and name that with connectionSelector",
        users.join(" and "),
        names.join(", ")
    )
}

fn sentences(mistakes: &[ConfigError]) -> String {
    let texts: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
