//! Who has a frontend that several Services claim.

use crate::model::ObjectName;
use datapath_common::FrontendKey;
use std::collections::{BTreeSet, HashMap};

/// A Service's claim; of two the smaller wins: the older Service, then the smaller name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Claim {
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) service: ObjectName,
}

/// All claims. Nearly every frontend has one only.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<FrontendKey, Claim>,
    others: HashMap<FrontendKey, BTreeSet<Claim>>,
}

impl Claims {
    /// The Service that has `key`.
    pub(super) fn holder(&self, key: FrontendKey) -> Option<&ObjectName> {
        self.holders.get(&key).map(|claim| &claim.service)
    }

    /// All frontends with the Services that have them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FrontendKey, &ObjectName)> {
        self.holders.iter().map(|(key, claim)| (*key, &claim.service))
    }

    /// Adds a claim. The Service that loses by it, if there is one.
    pub(super) fn add(&mut self, key: FrontendKey, claim: Claim) -> Option<ObjectName> {
        let Some(holder) = self.holders.get_mut(&key) else {
            self.holders.insert(key, claim);
            return None;
        };
        let loser = if claim < *holder { std::mem::replace(holder, claim) } else { claim };
        let name = loser.service.clone();
        self.others.entry(key).or_default().insert(loser);
        Some(name)
    }

    /// Takes a claim back; the best of the others takes its place.
    pub(super) fn remove(&mut self, key: FrontendKey, claim: &Claim) {
        let others = self.others.get_mut(&key);
        if self.holders.get(&key) == Some(claim) {
            match others.and_then(BTreeSet::pop_first) {
                Some(next) => self.holders.insert(key, next),
                None => self.holders.remove(&key),
            };
        } else if let Some(others) = others {
            others.remove(claim);
        }
        if self.others.get(&key).is_some_and(BTreeSet::is_empty) {
            self.others.remove(&key);
        }
    }
}
