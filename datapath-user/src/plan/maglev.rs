//! Tables by which all nodes choose the same backend for a packet (Eisenbud et al., "Maglev", NSDI
//! 2016, 3.4): each backend has a preference among the entries that follows from its address and port
//! alone, and backends take turns at claiming the best entry that is still free.

use super::compile::Target;
use datapath_common::{MAGLEV_SIZE, mix};
use std::sync::Arc;

/// For each entry, which of `targets` it leads to. They must be in an order that all nodes agree on;
/// of more than there are entries, the last ones go without.
pub(super) fn table(targets: &[Target]) -> Arc<[u16]> {
    const FREE: u16 = u16::MAX;
    let targets = &targets[..targets.len().min(MAGLEV_SIZE)];
    let mut preferences: Vec<_> = targets.iter().map(Preference::of).collect();
    let mut entries = vec![FREE; MAGLEV_SIZE];
    let mut left = if targets.is_empty() { 0 } else { MAGLEV_SIZE };
    while left > 0 {
        for (index, preference) in (0..).zip(&mut preferences).take(left) {
            let entry = preference.find(|entry| entries[*entry] == FREE);
            entries[entry.expect("a preference goes on")] = index;
        }
        left = left.saturating_sub(preferences.len());
    }
    entries.into()
}

/// All entries, the best first: steps of one length, round and round.
struct Preference {
    next: usize,
    step: usize,
}

impl Preference {
    fn of((addr, port): &Target) -> Self {
        let [a, b, c, d] = addr.0.map(u64::from);
        // Neighbours differ in few bits: after two rounds more their preferences have nothing in common.
        let words = [a << 32 | b, c << 32 | d, port.0.into(), 0, 0];
        let hash = words.into_iter().fold(0, mix);
        let below = |hash: u64, bound: usize| {
            usize::try_from(hash % bound as u64).expect("less than a table's size")
        };
        Self { next: below(hash, MAGLEV_SIZE), step: 1 + below(mix(hash, 1), MAGLEV_SIZE - 1) }
    }
}

impl Iterator for Preference {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let entry = self.next;
        self.next = (entry + self.step) % MAGLEV_SIZE;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{endpoint, plan_with, service, slice},
        *,
    };
    use crate::{
        model::{
            Algorithm::{self, Maglev, Random},
            Event,
        },
        plan::Settings,
    };
    use datapath_common::{Addr, Be16, FrontendFlags};
    use std::{collections::BTreeSet, net::Ipv4Addr};

    /// Targets of a slice of pods.
    fn targets(count: usize) -> Vec<Target> {
        let target = |address| (Addr::from(Ipv4Addr::from(address)), Be16::new(8080));
        (0x0a0a_0102..).take(count).map(target).collect()
    }

    fn backends(targets: &[Target]) -> Vec<Target> {
        table(targets).iter().map(|index| targets[usize::from(*index)]).collect()
    }

    /// What need not move when a backend comes or goes moves for less than two percent of the packets,
    /// and every backend gets its share to one percent of the table.
    #[test]
    fn a_change_moves_little_more_than_it_must() {
        for count in [2, 3, 5, 10, 20, 50, 100] {
            let all = targets(count);
            let with = backends(&all);
            for target in &all {
                let share = with.iter().filter(|found| *found == target).count();
                let fair = MAGLEV_SIZE / count;
                assert!(share.abs_diff(fair) * 100 < MAGLEV_SIZE, "{share} for {fair}");
            }
            for gone in all.iter().step_by(1 + count / 10) {
                let fewer: Vec<_> = all.iter().copied().filter(|target| target != gone).collect();
                let without = backends(&fewer);
                let pairs = with.iter().zip(&without);
                let moved = pairs.filter(|(with, now)| with != now && *with != gone).count();
                assert!(moved * 100 < MAGLEV_SIZE * 2, "{moved} entries of {count} backends");
            }
        }
    }

    #[test]
    fn a_service_says_otherwise_than_the_node() {
        let cases: [(Algorithm, Option<Algorithm>, usize); 4] = [
            (Random, None, 0),
            (Maglev, None, 1),
            (Random, Some(Maglev), 1),
            (Maglev, Some(Random), 0),
        ];
        for (of_node, of_service, tables) in cases {
            let mut settings = Settings::new("n1");
            settings.algorithm = of_node;
            let mut service = service("web", &["10.200.1.10"]);
            service.algorithm = of_service;
            let slice = slice("web-1", "web", &[endpoint("10.10.1.2", 1)]);
            let planned = plan_with(settings, [Event::Service(service), Event::Slice(slice)]);
            assert_eq!(planned.maglev.len(), tables, "{of_node:?} {of_service:?}");
            let mut frontends = planned.frontends.values().filter(|found| found.service != 0);
            let flagged = frontends.all(|found| found.flags.has(FrontendFlags::MAGLEV));
            assert_eq!(flagged, tables == 1, "{of_node:?} {of_service:?}");
        }
    }

    #[test]
    fn there_are_tables_of_any_number_of_backends() {
        assert!(table(&[]).iter().all(|index| *index == u16::MAX), "nothing to lead to");
        assert!(table(&targets(1)).iter().all(|index| *index == 0));
        let used: BTreeSet<u16> = table(&targets(MAGLEV_SIZE + 5)).iter().copied().collect();
        assert_eq!(used.len(), MAGLEV_SIZE, "one entry each");
    }
}
