//! Who has a frontend that several claim.

use super::owner::{Claim, Owner};
use datapath_common::FrontendKey;
use std::collections::{BTreeSet, HashMap};

/// All claims. Nearly every frontend has one only.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<FrontendKey, Claim>,
    others: HashMap<FrontendKey, BTreeSet<Claim>>,
}

impl Claims {
    /// Who has `key`.
    pub(super) fn holder(&self, key: FrontendKey) -> Option<&Owner> {
        self.holders.get(&key).map(|claim| &claim.owner)
    }

    /// All frontends with those who have them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FrontendKey, &Owner)> {
        self.holders.iter().map(|(key, claim)| (*key, &claim.owner))
    }

    /// Adds a claim. Who loses by it, if anybody does.
    pub(super) fn add(&mut self, key: FrontendKey, claim: Claim) -> Option<Owner> {
        let Some(holder) = self.holders.get_mut(&key) else {
            self.holders.insert(key, claim);
            return None;
        };
        let loser = if claim < *holder { std::mem::replace(holder, claim) } else { claim };
        let name = loser.owner.clone();
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
