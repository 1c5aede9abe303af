//! Names for the commands: maps hold addresses, so the agent writes down beside them whose they are. Two
//! files in the state folder, replaced as a whole; they outlive the agent as the maps do.

use crate::model::{Dirty, Model, Node, ObjectName, Pod};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};
use tracing::warn;

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its name.
    pub name: String,
    /// Whether it is the one that the file is on.
    pub own: bool,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its pods' ranges.
    pub blocks: Vec<IpNet>,
}

/// A Pod of this node with a network of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodEntry {
    /// Namespace and name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What the commands know of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// All Nodes, by name.
    pub nodes: Vec<NodeEntry>,
    /// This node's Pods, by name.
    pub pods: Vec<PodEntry>,
}

impl Roster {
    /// What was last written; nothing where nothing was.
    pub fn read(state_dir: &Path) -> Self {
        Self { nodes: read(&state_dir.join(NODES)), pods: read(&state_dir.join(PODS)) }
    }

    /// This node.
    pub fn own(&self) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.own)
    }

    /// The node that has this address or range.
    pub fn node_of(&self, range: IpNet) -> Option<&NodeEntry> {
        let has = |node: &&NodeEntry| {
            let mut addresses = node.addresses.iter();
            node.blocks.contains(&range) || addresses.any(|address| IpNet::from(*address) == range)
        };
        self.nodes.iter().find(has)
    }

    /// The pod that has this address.
    pub fn pod_of(&self, address: IpAddr) -> Option<&PodEntry> {
        self.pods.iter().find(|pod| pod.addresses.contains(&address))
    }
}

/// Writes what [`Roster::read`] reads.
#[derive(Clone, Debug)]
pub struct RosterWriter {
    state_dir: PathBuf,
    node: ObjectName,
}

impl RosterWriter {
    /// For the node of this name.
    pub fn new(state_dir: &Path, node: ObjectName) -> Self {
        Self { state_dir: state_dir.to_owned(), node }
    }

    /// Writes what has changed.
    pub fn follow(&self, model: &Model, dirty: &Dirty) {
        let mut results = Vec::new();
        if dirty.nodes {
            let entry = |node: &Node| NodeEntry {
                name: node.name.to_string(),
                own: node.name == self.node,
                addresses: node.addresses().collect(),
                blocks: node.pod_cidrs.iter().map(IpNet::trunc).collect(),
            };
            results.push(self.write(NODES, &model.nodes().map(entry).collect::<Vec<_>>()));
        }
        if !dirty.pods.is_empty() {
            let here = model.pods().filter(|pod| {
                pod.node.as_deref() == Some(self.node.name()) && !pod.host_network && !pod.ended
            });
            let entry = |pod: &Pod| PodEntry {
                name: pod.name.to_string(),
                addresses: pod.addresses.to_vec(),
            };
            results.push(self.write(PODS, &here.map(entry).collect::<Vec<_>>()));
        }
        for error in results.into_iter().filter_map(Result::err) {
            warn!(folder = %self.state_dir.display(), %error, "names could not be written down");
        }
    }

    fn write<T: Serialize>(&self, name: &str, entries: &[T]) -> io::Result<()> {
        fs::create_dir_all(&self.state_dir)?;
        let path = self.state_dir.join(name);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(entries)?)?;
        fs::rename(&new, &path)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = fs::read(path).unwrap_or_default();
    // A file of another version tells nothing; the agent writes it anew.
    serde_json::from_slice(&text).unwrap_or_default()
}

const NODES: &str = "nodes.json";
const PODS: &str = "pods.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Event;

    #[test]
    fn names_are_found_by_what_maps_hold() {
        let folder = tempfile::tempdir().expect("a folder");
        let state_dir = folder.path().join("state");
        assert_eq!(Roster::read(&state_dir), Roster::default());
        let mut model = Model::default();
        for (name, last) in [("n1", 1), ("n2", 2)] {
            let mut node = Node::new(name);
            node.v4 = Some([172, 18, 0, last].into());
            node.pod_cidrs = [format!("10.10.{last}.0/24").parse().expect("a range")].into();
            model.apply(Event::Node(node));
        }
        for (name, node, host_network) in
            [("here", "n1", false), ("there", "n2", false), ("on-host", "n1", true)]
        {
            let mut pod = Pod::new(ObjectName::namespaced("ns", name));
            pod.node = Some(node.into());
            pod.addresses = [[10, 10, 1, 7].into()].into();
            pod.host_network = host_network;
            model.apply(Event::Pod(pod));
        }
        let writer = RosterWriter::new(&state_dir, ObjectName::cluster("n1"));
        let dirty = model.take_dirty();
        writer.follow(&model, &dirty);
        let roster = Roster::read(&state_dir);
        assert_eq!(roster.own().map(|node| node.name.as_str()), Some("n1"));
        let node_of = |range: &str| {
            roster.node_of(range.parse().expect("a range")).map(|node| node.name.as_str())
        };
        assert_eq!(node_of("10.10.2.0/24"), Some("n2"));
        assert_eq!(node_of("172.18.0.2/32"), Some("n2"));
        assert_eq!(node_of("10.10.2.0/25"), None);
        let pods: Vec<_> = roster.pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(pods, ["ns/here"]);
        assert!(roster.pod_of([10, 10, 1, 7].into()).is_some());
    }
}
