//! Values as kube-proxy writes them.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

/// A duration as Go writes it: `1h3m`, `1.5s`, `0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// A duration that is not 0.
    pub(super) fn period(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Self(Duration::ZERO) => Err("0, but must be longer".to_owned()),
            period => Ok(period),
        }
    }
}

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let mut rest = text.strip_prefix('+').unwrap_or(text);
            if rest == "0" {
                return Some(Duration::ZERO);
            }
            let mut total = None;
            while !rest.is_empty() {
                let (number, tail) = rest.split_at(rest.find(|c| !is_of_number(c))?);
                let (unit, tail) = tail.split_at(tail.find(is_of_number).unwrap_or(tail.len()));
                let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
                let seconds = number.parse::<f64>().ok()? * seconds;
                let part = Duration::try_from_secs_f64(seconds).ok()?;
                total = Some(total.unwrap_or(Duration::ZERO).checked_add(part)?);
                rest = tail;
            }
            total
        };
        read().map(Self).ok_or_else(|| "not a duration such as 1h3m or 30s".to_owned())
    }
}

fn is_of_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("\u{b5}s", 1e-6),
    ("\u{3bc}s", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

/// Where a server listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listen {
    /// It does not.
    Nowhere,
    /// At an address, on its usual port if none is given.
    At(IpAddr, Option<u16>),
}

impl Listen {
    /// The address with its port.
    pub fn address(self, usual_port: u16) -> Option<SocketAddr> {
        match self {
            Self::Nowhere => None,
            Self::At(ip, port) => Some(SocketAddr::new(ip, port.unwrap_or(usual_port))),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "" | "0") {
            return Ok(Self::Nowhere);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(match address.port() {
                0 => Self::Nowhere,
                port => Self::At(address.ip(), Some(port)),
            });
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(ip) => Ok(Self::At(ip, None)),
            Err(_) => Err("not of the form IP or IP:PORT".to_owned()),
        }
    }
}

/// How clients that are pods of this node are told from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalMode {
    /// By the ranges of all pods.
    ClusterCidr,
    /// By the ranges of this node's pods.
    NodeCidr,
    /// By the bridge that they come in by.
    BridgeInterface,
    /// By the name of the interface that they come in by.
    InterfaceNamePrefix,
}

impl FromStr for LocalMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ClusterCIDR" => Ok(Self::ClusterCidr),
            "NodeCIDR" => Ok(Self::NodeCidr),
            "BridgeInterface" => Ok(Self::BridgeInterface),
            "InterfaceNamePrefix" => Ok(Self::InterfaceNamePrefix),
            _ => {
                Err("not one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"
                    .to_owned())
            }
        }
    }
}

/// How to print logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not one of text, json".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("15m", 900_000),
            ("1h3m", 3_780_000),
            ("1.5s", 1500),
            (".5s", 500),
            ("250ms", 250),
            ("+2m30s", 150_000),
            ("24h0m0s", 86_400_000),
        ] {
            let expected = GoDuration(Duration::from_millis(millis));
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "5", "-5s", "1d", "s", "1h3", "one second", ".s", "1..5s", "9e99h"] {
            assert!(text.parse::<GoDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn listening_addresses_have_a_usual_port() {
        for (text, address) in [
            ("0.0.0.0", Some("0.0.0.0:10256")),
            ("127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("::", Some("[::]:10256")),
            ("[::1]", Some("[::1]:10256")),
            ("[::1]:99", Some("[::1]:99")),
            ("", None),
            ("0", None),
            ("0.0.0.0:0", None),
        ] {
            let listen: Listen = text.parse().expect(text);
            let expected = address.map(|address| address.parse().expect("an address"));
            assert_eq!(listen.address(10256), expected, "{text}");
        }
        for text in ["eth0", "1.2.3.4:http", "1.2.3.4:99999", ":10256", "10256"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
