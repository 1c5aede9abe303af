//! Nodes and ranges of Service addresses.

use super::ObjectName;
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Address family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a range.
    pub const fn of_net(range: IpNet) -> Self {
        match range {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// The address that stands for all of the family's.
    pub const fn wildcard(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// As Kubernetes spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The fields of a Node that a proxy reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name.
    pub name: ObjectName,
    /// Its first IPv4 address, internal ones before external ones.
    pub v4: Option<Ipv4Addr>,
    /// Its first IPv6 address, likewise.
    pub v6: Option<Ipv6Addr>,
    /// Its other addresses of type `InternalIP`.
    pub further_addresses: Box<[IpAddr]>,
    /// `spec.podCIDRs`, and further blocks of its pods' addresses.
    pub pod_cidrs: Box<[IpNet]>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Whether load balancers should send it no new work: it is being deleted, or carries the taint
    /// `ToBeDeletedByClusterAutoscaler`.
    pub leaving: bool,
}

impl Node {
    /// A node of which only the name is known.
    pub fn new(name: &str) -> Self {
        Self {
            name: ObjectName::cluster(name),
            v4: None,
            v6: None,
            further_addresses: Box::default(),
            pod_cidrs: Box::default(),
            zone: None,
            leaving: false,
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        Family::ALL.into_iter().filter_map(|family| self.address(family))
    }

    /// Its address of one family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }
}

/// A ServiceCIDR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceCidr {
    /// Its name.
    pub name: ObjectName,
    /// Ranges set aside for cluster addresses.
    pub cidrs: Box<[IpNet]>,
}
