//! Services.

use super::ObjectName;
use ipnet::IpNet;
use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

/// What `spec.type` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServiceType {
    /// Inside the cluster only.
    #[default]
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also on addresses of a load balancer.
    LoadBalancer,
    /// A DNS alias, never proxied.
    ExternalName,
}

/// What an internal or external traffic policy says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TrafficPolicy {
    /// Endpoints anywhere.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// How the backend of a new connection is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// Each is as likely as the others.
    #[default]
    Random,
    /// By the addresses and ports of the connection: every node chooses the same.
    Maglev,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Random, Self::Maglev];

    /// As flags and annotations spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Maglev => "maglev",
        }
    }
}

impl FromStr for Algorithm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.name() == text);
        known.ok_or("not one of random, maglev")
    }
}

/// How what comes from outside reaches a backend on another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forwarding {
    /// With this node's address as its source, so that the answers come back by this node.
    #[default]
    Snat,
    /// As it is, wrapped; that node answers the client itself (direct server return).
    Dsr,
}

impl Forwarding {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Snat, Self::Dsr];

    /// As flags and annotations spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Dsr => "dsr",
        }
    }
}

impl FromStr for Forwarding {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let known = Self::ALL.into_iter().find(|forwarding| forwarding.name() == text);
        known.ok_or("not one of snat, dsr")
    }
}

/// Transport protocol of a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One entry of `spec.ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// The name by which endpoints are joined; empty where the Service gives none.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the cluster address and of external addresses.
    pub port: NonZeroU16,
    /// The port of every node.
    pub node_port: Option<NonZeroU16>,
}

/// The fields of a Service that a proxy reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp` in seconds since 1970; of two claims to one address the older
    /// wins. 0 if the object does not say.
    pub created: i64,
    /// Value of the label `service.kubernetes.io/service-proxy-name`.
    pub proxy_name: Option<Box<str>>,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs`, at most one per family; empty if the Service is headless.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// Addresses of `status.loadBalancer.ingress` with ipMode VIP (or none).
    pub load_balancer_vips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Box<[IpNet]>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// Timeout of the session affinity by client address, in seconds.
    pub affinity: Option<u32>,
    /// How backends are chosen, by the annotation `datapath/lb-algorithm`.
    pub algorithm: Option<Algorithm>,
    /// How what comes from outside reaches other nodes, by the annotation `datapath/forwarding`.
    pub forwarding: Option<Forwarding>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<NonZeroU16>,
}

impl Service {
    /// A Service of type ClusterIP with default policies and nothing else.
    pub fn new(name: ObjectName) -> Self {
        Self {
            name,
            created: 0,
            proxy_name: None,
            kind: ServiceType::ClusterIp,
            cluster_ips: Box::default(),
            ports: Box::default(),
            external_ips: Box::default(),
            load_balancer_vips: Box::default(),
            source_ranges: Box::default(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity: None,
            algorithm: None,
            forwarding: None,
            health_check_node_port: None,
        }
    }

    /// Whether the external policy counts and is Local: kube-proxy reads it only on types that can
    /// be reached from outside (`ExternalPolicyLocal` in `pkg/api/v1/service/util.go`).
    pub fn is_external_local(&self) -> bool {
        let accessible = match self.kind {
            ServiceType::NodePort | ServiceType::LoadBalancer => true,
            ServiceType::ClusterIp => !self.external_ips.is_empty(),
            ServiceType::ExternalName => false,
        };
        accessible && self.external_policy == TrafficPolicy::Local
    }
}
