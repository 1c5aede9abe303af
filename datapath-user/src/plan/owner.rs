//! What a row of `SERVICES` belongs to.

use crate::model::{ObjectName, Protocol};
use datapath_common::Service;
use std::{cmp::Ordering, fmt};

/// An object that has frontends. A host port gives way to every Service.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Owner {
    /// A Service.
    Service(ObjectName),
    /// A Pod with host ports.
    Pod(ObjectName),
}

impl Owner {
    /// The text by which one of its ports is found again after a restart.
    pub(super) fn label_text(&self, port: &str, protocol: Protocol) -> String {
        let tail = match port {
            "" => format!("/{protocol}"),
            port => format!(":{port}/{protocol}"),
        };
        let mut text = self.to_string();
        // The names of Services always fit; of a Pod's the end tells more than the middle.
        let room = LABEL - tail.len();
        if text.len() > room {
            let end = text.len() - END;
            text.replace_range(room - END - 1..end, "~");
        }
        text + &tail
    }

    /// The same as it stands in `SERVICES`.
    pub(super) fn label(&self, port: &str, protocol: Protocol) -> Service {
        let mut label = [0; LABEL];
        for (to, from) in label.iter_mut().zip(self.label_text(port, protocol).bytes()) {
            *to = from;
        }
        Service { label }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "{name}"),
            Self::Pod(name) => write!(f, "pod {name}"),
        }
    }
}

/// A claim to a frontend; of two the smaller wins: that of a Service, then that of the older object,
/// then that of the smaller name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Claim {
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) owner: Owner,
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |claim: &Self| (matches!(claim.owner, Owner::Pod(_)), claim.created);
        rank(self).cmp(&rank(other)).then_with(|| self.owner.cmp(&other.owner))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Bytes of a label, and of a name too long for it how many at its end are kept.
const LABEL: usize = 192;
const END: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_the_owner_and_the_port() {
        let service = Owner::Service(ObjectName::namespaced("ns", "a"));
        let pod = Owner::Pod(ObjectName::namespaced("ns", "a"));
        assert_eq!(service.label_text("", Protocol::Tcp), "ns/a/TCP");
        assert_eq!(service.label_text("http", Protocol::Tcp), "ns/a:http/TCP");
        assert_eq!(pod.label_text("[::1]:53", Protocol::Udp), "pod ns/a:[::1]:53/UDP");
    }

    #[test]
    fn long_names_keep_their_end() {
        let name = format!("{}-{}", "x".repeat(245), "abcde");
        let pod = Owner::Pod(ObjectName::namespaced("ns", &name));
        let text = pod.label_text("8080", Protocol::Tcp);
        assert_eq!(text.len(), LABEL);
        assert!(text.starts_with("pod ns/xxx") && text.ends_with("x-abcde:8080/TCP"), "{text}");
    }

    #[test]
    fn services_come_before_host_ports_and_age_before_names() {
        let claim = |created, owner: fn(ObjectName) -> Owner, name: &str| Claim {
            created,
            owner: owner(ObjectName::namespaced("ns", name)),
        };
        let mut claims = [
            claim(1, Owner::Pod, "a"),
            claim(2, Owner::Service, "b"),
            claim(1, Owner::Service, "c"),
            claim(2, Owner::Service, "a"),
        ];
        claims.sort();
        let names = claims.map(|claim| claim.owner.to_string());
        assert_eq!(names, ["ns/c", "ns/a", "ns/b", "pod ns/a"]);
    }
}
