//! Flags and what becomes of them.

use super::{Cli, Command};
use crate::{
    agent::{self, Objects},
    plan::{LocalDetector, MasqueradeOutside, NodePortAddresses, Routing},
};
use clap::{CommandFactory, Parser};
use std::path::Path;

fn options(args: &[&str]) -> agent::Options {
    let args = ["datapath", "agent"].iter().chain(args);
    match Cli::try_parse_from(args).expect("arguments").command {
        Command::Agent(args) => args.options().expect("options").0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn flags_reach_the_agent() {
    let options = options(&[
        "--node-name=N1",
        "--source=/objects",
        "--cluster-cidr=10.10.0.0/16,fd00::/48",
        "--routing=native",
        "--socket-lb=off",
        "--healthz-bind-address=",
        "--nodeport-addresses=all",
        "--masquerade-ports=40000-40010",
        "--device=eth0,eth1",
        "--cni=on",
        "--cni-conf-dir=/net.d",
        "--masquerade-outside=on",
        "--non-masquerade-cidrs=10.0.0.0/8,fd00::/8",
        "--map-entries=FLOWS=1000,SLOTS=2000",
    ]);
    assert_eq!(options.plan.node.name(), "n1");
    assert!(matches!(options.objects, Objects::Folder(_)));
    let ranges = ["10.10.0.0/16", "fd00::/48"].map(|range| range.parse().expect("a range"));
    assert_eq!(options.plan.local, LocalDetector::Ranges(ranges.into()));
    assert_eq!(options.plan.routing, Routing::Native);
    assert_eq!(options.plan.node_port_addresses, NodePortAddresses::all());
    assert!(!options.datapath.socket_lb && options.health_address.is_none());
    assert_eq!(options.plan.masquerade_ports, (40000, 40010));
    assert_eq!(options.plan.masquerade_outside, MasqueradeOutside::On);
    let ranges = ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().expect("a range"));
    assert_eq!(options.plan.non_masquerade_cidrs, ranges);
    assert_eq!(options.kernel.devices, ["eth0", "eth1"]);
    assert!(options.cni.enabled && options.plan.sole_network);
    assert_eq!(options.cni.conf_dir, Path::new("/net.d"));
    let sizes = [("FLOWS".to_owned(), 1000), ("SLOTS".to_owned(), 2000)];
    assert_eq!(options.datapath.map_entries, sizes.into());
}

#[test]
fn wrong_values_are_refused() {
    for args in [
        "--routing=some",
        "--masquerade-outside=yes",
        "--masquerade-ports=9-1",
        "--nodeport-addresses=eth0",
    ] {
        assert!(Cli::try_parse_from(["datapath", "agent", args]).is_err(), "{args}");
    }
}

#[test]
fn a_wrong_size_of_a_map_is_an_error_that_names_it() {
    for (value, named) in [
        ("NOSUCH=16", "\"NOSUCH\" is not one of FRONTENDS"),
        ("COUNTERS=16", "\"COUNTERS\" is not one of"),
        ("FLOWS=0", "FLOWS: \"0\" is not a number"),
        ("FLOWS=many", "FLOWS: \"many\" is not a number"),
        ("FLOWS", "not of the form MAP=NUMBER"),
    ] {
        let args = ["datapath", "agent", "--map-entries", value];
        let error = Cli::try_parse_from(args).expect_err(value).to_string();
        assert!(error.contains(named), "{error}");
    }
}
