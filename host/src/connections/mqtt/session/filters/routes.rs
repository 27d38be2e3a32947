//! From a topic to its takers, remembered per topic until a taker comes or goes.

use std::sync::Arc;

use bytes::Bytes;

use super::{Filters, TakerId};
use crate::connections::Inbox;
use crate::connections::mqtt::packet::SubscriptionIds;
use crate::connections::mqtt::topic;
use crate::message::Subject;

/// Topics whose takers are remembered.
const REMEMBERED: usize = 1024;

/// The takers of one topic.
#[derive(Debug)]
pub(in crate::connections::mqtt::session) struct Route {
    pub(in crate::connections::mqtt::session) subject: Subject,
    targets: Vec<Target>,
    /// One taker, one filter: nothing to decide.
    plain: bool,
}

#[derive(Debug)]
pub(in crate::connections::mqtt::session) struct Target {
    pub(in crate::connections::mqtt::session) inbox: Arc<Inbox>,
    taker: TakerId,
    filter: Arc<str>,
    subscription: u32,
    /// The first filter of this taker that takes the topic.
    first: bool,
}

impl Filters {
    /// The takers of a topic, remembered. None: the topic is not UTF-8.
    pub(in crate::connections::mqtt::session) fn route(
        &mut self,
        name: &Bytes,
    ) -> Option<Arc<Route>> {
        if let Some((last, route)) = &self.last
            && last == name
        {
            return Some(Arc::clone(route));
        }
        if let Some(route) = self.routes.get(name) {
            let route = Arc::clone(route);
            // A slice of its own, so that no read buffer is held by a topic.
            if let Some((key, _)) = self.routes.get_key_value(name) {
                self.last = Some((key.clone(), Arc::clone(&route)));
            }
            return Some(route);
        }
        let route = Arc::new(self.find(std::str::from_utf8(name).ok()?));
        if self.routes.len() >= REMEMBERED {
            self.routes.clear();
        }
        let key = Bytes::copy_from_slice(name);
        self.last = Some((key.clone(), Arc::clone(&route)));
        self.routes.insert(key, Arc::clone(&route));
        Some(route)
    }

    fn find(&self, name: &str) -> Route {
        let mut targets: Vec<Target> = Vec::new();
        for (key, filter) in &self.filters {
            let (pattern, _) = topic::pattern(key);
            let takes = if topic::is_wild(pattern) {
                topic::matches(pattern, name)
            } else {
                pattern == name
            };
            if !takes {
                continue;
            }
            for taker in &filter.takers {
                let Some(held) = self.takers.get(taker) else {
                    continue;
                };
                let first = !targets.iter().any(|target| target.taker == *taker);
                targets.push(Target {
                    inbox: Arc::clone(&held.inbox),
                    taker: *taker,
                    filter: Arc::clone(key),
                    subscription: filter.subscription,
                    first,
                });
            }
        }
        let plain = targets.len() == 1;
        Route {
            subject: name.into(),
            targets,
            plain,
        }
    }

    /// A retained message goes to those that wait for it; every other one to all.
    fn waits(&self, target: &Target) -> bool {
        self.filters
            .get(&target.filter)
            .is_some_and(|filter| filter.waiting.contains(&target.taker))
    }

    /// Anyone takes the topic at all.
    pub(in crate::connections::mqtt::session) fn takes(&self, route: &Route) -> bool {
        !route.targets.is_empty()
    }

    /// Who takes this message. Identifiers that no filter has come from an earlier run: then the
    /// topic alone decides.
    pub(in crate::connections::mqtt::session) fn chosen<'a>(
        &'a self,
        route: &'a Route,
        ids: &SubscriptionIds,
        retain: bool,
        chosen: &mut Vec<&'a Target>,
    ) {
        chosen.clear();
        if route.plain && !retain {
            chosen.extend(route.targets.iter());
            return;
        }
        let by_id = !ids.is_empty()
            && ids
                .iter()
                .all(|id| route.targets.iter().any(|target| target.subscription == id));
        for target in &route.targets {
            let takes = if by_id {
                ids.contains(target.subscription)
            } else {
                target.first || retain
            };
            let takes = takes && !chosen.iter().any(|other| other.taker == target.taker);
            if takes && (!retain || self.waits(target)) {
                chosen.push(target);
            }
        }
    }
}
