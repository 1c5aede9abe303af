//! Numbers that are never used twice at the same time.

use std::collections::HashSet;

/// Hands out numbers from 1 in rising order, so that one that was given back is not seen again for
/// a long time: something may still remember it.
#[derive(Debug)]
pub(super) struct Ids {
    next: u32,
    used: HashSet<u32>,
}

impl Ids {
    /// All of `used` are taken.
    pub(super) fn new(used: HashSet<u32>) -> Self {
        let next = used.iter().max().map_or(1, |max| max.wrapping_add(1).max(1));
        Self { next, used }
    }

    /// A number that nobody has.
    pub(super) fn take(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = self.next.wrapping_add(1).max(1);
            if self.used.insert(id) {
                return id;
            }
        }
    }

    /// Gives a number back.
    pub(super) fn release(&mut self, id: u32) {
        self.used.remove(&id);
    }

    /// Only these are taken from now on.
    pub(super) fn retain(&mut self, used: HashSet<u32>) {
        self.used = used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_and_skip_what_is_used() {
        let mut ids = Ids::new(HashSet::from([1, 3]));
        assert_eq!(ids.take(), 4);
        ids.release(4);
        assert_eq!(ids.take(), 5);
    }

    #[test]
    fn after_the_last_number_comes_the_first_free_one() {
        let mut ids = Ids::new(HashSet::from([u32::MAX, 1]));
        assert_eq!(ids.take(), 2);
    }
}
