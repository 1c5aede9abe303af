//! Source ports of our own: no node port, and none that the kernel gives to a socket of the node.

use super::{NotSet, Sysctls};
use std::{
    fmt::{self, Display},
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};
use tracing::warn;

/// Ports from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, included.
    pub last: u16,
}

impl PortRange {
    /// Whether the port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn ports(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (first, last) = text.split_once('-')?;
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (0 < first && first <= last).then_some(Self { first, last })
        };
        read().ok_or_else(|| "not of the form FIRST-LAST".to_owned())
    }
}

/// Why the ports cannot be ours.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// Node ports would be taken for answers.
    #[error(
        "--masquerade-ports {ours} overlaps the node ports {node_ports} \
         (--service-node-port-range)"
    )]
    NodePorts {
        /// Ours.
        ours: PortRange,
        /// The cluster's.
        node_ports: PortRange,
    },
    /// Sockets of the node would get them too.
    #[error(
        "--masquerade-ports {ours} overlaps the ports that the kernel gives to sockets \
         (net.ipv4.ip_local_port_range {local}), and they cannot be reserved: {not_set}"
    )]
    Sockets {
        /// Ours.
        ours: PortRange,
        /// The kernel's.
        local: PortRange,
        /// Why they cannot be kept from sockets.
        not_set: NotSet,
    },
}

/// Keeps `ours` from the node's sockets (`ip_local_reserved_ports`), and remembers in `state_dir`
/// what to take back. Fails where they clash; that they cannot be reserved matters only if the
/// kernel would give them out.
pub(super) fn reserve(
    ours: PortRange,
    node_ports: PortRange,
    sysctls: &Sysctls,
    state_dir: &Path,
) -> Result<Option<NotSet>, PortsError> {
    if ours.overlaps(node_ports) {
        return Err(PortsError::NodePorts { ours, node_ports });
    }
    let mut reserved = Ports::reserved(sysctls);
    reserved.remove(&Ports::remembered(state_dir));
    let mut added = Ports::none();
    for port in ours.ports().filter(|port| !reserved.has(*port)) {
        added.set(port);
    }
    reserved.add(&added);
    // First what to take back: whatever happens in between can be undone.
    if let Err(error) = added.remember(state_dir) {
        warn!(%error, "the reserved ports will stay reserved when we are gone");
    }
    let Err(not_set) = sysctls.set(RESERVED, &reserved) else { return Ok(None) };
    match local_ports(sysctls).filter(|local| ours.overlaps(*local)) {
        Some(local) => Err(PortsError::Sockets { ours, local, not_set }),
        None => Ok(Some(not_set)),
    }
}

/// Gives the ports back that are reserved for us, if they are.
pub fn release(state_dir: &Path) -> Result<(), NotSet> {
    release_in(&Sysctls::of_node(), state_dir)
}

fn release_in(sysctls: &Sysctls, state_dir: &Path) -> Result<(), NotSet> {
    let ours = Ports::remembered(state_dir);
    if ours.is_empty() {
        return Ok(());
    }
    let mut reserved = Ports::reserved(sysctls);
    reserved.remove(&ours);
    sysctls.set(RESERVED, &reserved)
}

fn local_ports(sysctls: &Sysctls) -> Option<PortRange> {
    let text = sysctls.get("ipv4/ip_local_port_range").ok()?;
    let (first, last) = text.split_once(char::is_whitespace)?;
    Some(PortRange { first: first.parse().ok()?, last: last.trim().parse().ok()? })
}

/// A set of ports, written as the kernel writes it: `1024,61000-65535`.
struct Ports(Vec<bool>);

impl Ports {
    fn none() -> Self {
        Self(vec![false; 1 << 16])
    }

    fn reserved(sysctls: &Sysctls) -> Self {
        Self::parse(&sysctls.get(RESERVED).unwrap_or_default())
    }

    fn remembered(state_dir: &Path) -> Self {
        Self::parse(&fs::read_to_string(Self::file(state_dir)).unwrap_or_default())
    }

    fn remember(&self, state_dir: &Path) -> io::Result<()> {
        fs::create_dir_all(state_dir)?;
        fs::write(Self::file(state_dir), format!("{self}\n"))
    }

    fn file(state_dir: &Path) -> PathBuf {
        state_dir.join("reserved-ports")
    }

    fn parse(text: &str) -> Self {
        let mut ports = Self::none();
        for part in text.trim().split(',') {
            let range = match part.parse::<u16>() {
                Ok(port) => PortRange { first: port, last: port },
                Err(_) => match part.parse() {
                    Ok(range) => range,
                    Err(_) => continue,
                },
            };
            range.ports().for_each(|port| ports.set(port));
        }
        ports
    }

    fn has(&self, port: u16) -> bool {
        self.0[usize::from(port)]
    }

    fn set(&mut self, port: u16) {
        self.0[usize::from(port)] = true;
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(port, more)| *port |= more);
    }

    fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(port, less)| *port &= !less);
    }

    fn is_empty(&self) -> bool {
        !self.0.contains(&true)
    }
}

impl Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut port = 0;
        let mut separator = "";
        while let Some(first) = (port..self.0.len()).find(|port| self.0[*port]) {
            let end = (first..self.0.len()).find(|port| !self.0[*port]).unwrap_or(self.0.len());
            match end - 1 {
                last if last == first => write!(f, "{separator}{first}")?,
                last => write!(f, "{separator}{first}-{last}")?,
            }
            (port, separator) = (end, ",");
        }
        Ok(())
    }
}

const RESERVED: &str = "ipv4/ip_local_reserved_ports";

#[cfg(test)]
mod tests {
    use super::*;

    const NODE_PORTS: PortRange = PortRange { first: 30000, last: 32767 };
    const OURS: PortRange = PortRange { first: 61000, last: 65535 };

    /// A node's settings in a folder.
    struct Node(tempfile::TempDir);

    impl Node {
        fn new(reserved: &str, local: &str) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir(folder.path().join("ipv4")).expect("a folder");
            fs::write(folder.path().join(RESERVED), format!("{reserved}\n")).expect("a setting");
            let file = folder.path().join("ipv4/ip_local_port_range");
            fs::write(file, format!("{local}\n")).expect("a setting");
            Self(folder)
        }

        fn sysctls(&self) -> Sysctls {
            Sysctls::in_folder(self.0.path())
        }

        fn state(&self) -> PathBuf {
            self.0.path().join("state")
        }

        fn reserve(&self, ours: PortRange) -> Result<Option<NotSet>, PortsError> {
            reserve(ours, NODE_PORTS, &self.sysctls(), &self.state())
        }

        fn reserved(&self) -> String {
            self.sysctls().get(RESERVED).expect("a setting")
        }

        fn release(&self) {
            release_in(&self.sysctls(), &self.state()).expect("released");
        }
    }

    #[test]
    fn what_was_reserved_before_stays_reserved() {
        for (before, with_ours) in [
            ("", "61000-65535"),
            ("8080,9148-9150", "8080,9148-9150,61000-65535"),
            ("60999,65535", "60999-65535"),
            ("61000-65535", "61000-65535"),
        ] {
            let node = Node::new(before, "32768\t60999");
            for _ in 0..2 {
                assert!(node.reserve(OURS).expect("no clash").is_none());
                assert_eq!(node.reserved(), with_ours);
            }
            node.release();
            assert_eq!(node.reserved(), before);
        }
    }

    #[test]
    fn another_range_takes_the_place_of_ours() {
        let node = Node::new("8080", "32768\t60999");
        node.reserve(OURS).expect("no clash");
        node.reserve("62000-62999".parse().expect("a range")).expect("no clash");
        assert_eq!(node.reserved(), "8080,62000-62999");
    }

    #[test]
    fn clashes_are_named() {
        let node = Node::new("", "32768\t60999");
        let error = node.reserve("32000-33000".parse().expect("a range")).expect_err("node ports");
        let text = error.to_string();
        assert!(text.contains("32000-33000") && text.contains("30000-32767"), "{text}");
        assert_eq!(node.reserved(), "", "nothing is touched");
        // The kernel would give our ports out, but may be told not to.
        let node = Node::new("", "1024\t65535");
        assert!(node.reserve(OURS).expect("reserved").is_none());
        fs::remove_file(node.0.path().join(RESERVED)).expect("removed");
        let error = node.reserve(OURS).expect_err("it cannot be told");
        let text = error.to_string();
        assert!(text.contains("61000-65535") && text.contains("1024-65535"), "{text}");
        // It would not give them out.
        let node = Node::new("", "32768\t60999");
        fs::remove_file(node.0.path().join(RESERVED)).expect("removed");
        assert!(node.reserve(OURS).expect("no clash").is_some());
    }
}
