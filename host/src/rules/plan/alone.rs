//! One use of a connector outside any rule: the same checks of its properties and connections, by the
//! same planner.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::guest::Given;
use super::{GuestPlan, Planner, Role};
use crate::config::{Manifest, ManifestError, pointer_to};
use crate::connections::pool::Pool;
use crate::rules::output::Addressed;
use crate::runtime::{Connector, Runtime};

/// A connector ready to be used by itself.
#[derive(Debug)]
pub struct Alone {
    /// Configuration and connections.
    pub guest: GuestPlan,
    /// Of a sink: the properties that are rendered for each message.
    pub dynamic: Vec<Addressed>,
    /// What is accepted and should be looked at.
    pub warnings: Vec<ManifestError>,
}

/// Checks the properties of one source or sink, called `name` in sentences, and the connections of
/// the manifest. Mistakes in `props` are at `/config/<property>`.
///
/// # Errors
/// All mistakes.
pub fn alone(
    manifest: &Manifest,
    runtime: &Runtime,
    pool: &Pool,
    connector: Arc<Connector>,
    name: &str,
    role: Role,
    mut props: Map<String, Value>,
) -> Result<Alone, Vec<ManifestError>> {
    const CONFIG: &str = "/config";
    let mut planner = Planner::new(manifest, runtime, pool, &());
    planner.connections();
    let at = |name: &str| pointer_to(CONFIG, name);
    let divided = planner.divided(&connector, name, &mut props, &at);
    let dynamic = match role {
        Role::Sink => planner.rendered(&connector, &props, CONFIG),
        Role::Source => None,
    };
    let guest = planner.guest(connector, name, role, Given { props, divided }, CONFIG, &at);
    match guest {
        Some(guest) if planner.errors.is_empty() => Ok(Alone {
            guest,
            dynamic: dynamic.unwrap_or_default(),
            warnings: planner.warnings,
        }),
        _ => Err(planner.errors),
    }
}
