//! Loading, pinning, attaching and cleaning up, against the running kernel.
//!
//! Every test runs in a thread with a network namespace and a mount namespace of its own, so that
//! nothing it does outlives it. Without root or kernel programs the tests say so and pass.

mod sandbox;

use datapath_common::{
    Addr, Address, AddressKind, Backend, BackendList, Be16, Config, ConfigFlags, Frontend,
    FrontendFlags, FrontendKey, FrontendKind, LpmKey, MemberKey, Protocol, Route, RouteKind,
    Service, SlotKey, SourceRangeKey, Timeouts,
};
use datapath_user::{
    datapath::{Datapath, Error, Options, Xdp, cleanup, watch_pod_devices},
    plan::{Change, Tables},
    show::{FlowFilter, Format, Show, ShowError},
};
use sandbox::in_sandbox;
use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

/// How many maps are pinned.
const MAPS: u32 = 20;

#[test]
fn maps_and_links_outlive_the_agent_and_are_taken_over() {
    in_sandbox(|sandbox| {
        let (device, options) = (sandbox.device("veth0"), sandbox.options());
        let mut first = Datapath::load(&options).expect("load");
        first.apply(&Change { put: tables(3), ..Change::default() }).expect("apply");
        first.attach_pod(&device).expect("attach");
        first.attach_sockets().expect("attach sockets");
        let links = sandbox.links();
        assert_eq!(links.len(), 10, "{links:?}");
        let programs = sandbox.programs_on(&device);
        drop(first);
        assert_eq!(sandbox.programs_on(&device), programs, "the links outlive the agent");

        let mut second = Datapath::load(&options).expect("load again");
        assert_eq!(second.dump().expect("dump"), tables(3));
        assert_eq!(sandbox.programs_on(&device), programs, "loading touches nothing attached");
        second.attach_pod(&device).expect("attach again");
        second.attach_sockets().expect("attach sockets again");
        assert_eq!(sandbox.links(), links, "the links are the same");
        let swapped = sandbox.programs_on(&device);
        assert_eq!(swapped.len(), programs.len());
        assert!(swapped.iter().all(|id| !programs.contains(id)), "{programs:?} {swapped:?}");
        second.attach_pod(&device).expect("attach once more");
        assert_eq!(sandbox.programs_on(&device), swapped, "attaching is idempotent");
    });
}

#[test]
fn not_a_packet_is_lost_while_programs_are_swapped() {
    in_sandbox(|sandbox| {
        let (device, options) = (sandbox.device("veth0"), sandbox.options());
        let mut traffic = sandbox.traffic();
        for _ in 0..20 {
            let mut datapath = Datapath::load(&options).expect("load");
            datapath.attach_pod(&device).expect("attach");
        }
        let (sent, answered) = traffic.finish();
        assert!(sent > 100, "only {sent} packets in all the time");
        assert_eq!(sent, answered);
    });
}

#[test]
fn an_agent_without_tcx_links_uses_filters_and_swaps_them() {
    in_sandbox(|sandbox| {
        let device = sandbox.device("veth0");
        let options = Options { force_clsact: true, ..sandbox.options() };
        // The kernel halts a device for a moment while it gets its first clsact qdisc.
        Datapath::load(&options).expect("load").attach_pod(&device).expect("attach");
        let mut traffic = sandbox.traffic();
        let mut ids = Vec::new();
        for _ in 0..10 {
            let mut datapath = Datapath::load(&options).expect("load");
            datapath.attach_pod(&device).expect("attach");
            ids.push(sandbox.tc_filters("veth0"));
        }
        let (sent, answered) = traffic.finish();
        assert_eq!(sent, answered);
        assert!(ids.iter().all(|filters| filters.matches("datapath/").count() == 2), "{ids:?}");
        assert!(sandbox.links().is_empty(), "no links");

        // A kernel that has learned tcx takes over, and back.
        let mut datapath = Datapath::load(&sandbox.options()).expect("load");
        datapath.attach_pod(&device).expect("attach");
        assert!(!sandbox.tc_filters("veth0").contains("datapath/"));
        assert_eq!(sandbox.links().len(), 2);
        let mut datapath = Datapath::load(&options).expect("load");
        datapath.attach_pod(&device).expect("attach");
        assert!(sandbox.links().is_empty());
        assert!(sandbox.programs_on(&device).is_empty());
        sandbox.run("tc filter del dev veth0 ingress");
        assert_eq!(datapath.ensure().expect("ensure").links, 1);
        assert!(sandbox.tc_filters("veth0").contains("datapath/from_pod"));
        assert_eq!(datapath.detach_others(&[]).expect("detach"), 2);
        assert!(!sandbox.run("tc qdisc show dev veth0").contains("clsact"));
    });
}

#[test]
fn a_new_pods_interface_is_attached_to_before_anybody_asks() {
    in_sandbox(|sandbox| {
        let options = sandbox.options();
        let mut datapath = Datapath::load(&options).expect("load");
        let pods = datapath.pod_attacher();
        let (attached, appeared) = std::sync::mpsc::channel();
        watch_pod_devices(move |device, _| {
            attached.send((device.name.clone(), pods.attach(device).is_ok())).expect("a test");
        })
        .expect("watch");
        // What was there before is not new, whatever happens to it.
        sandbox.run("ip link set veth0 mtu 1400");
        let pid = sandbox.pod_pid();
        // As the plugin ptp does: made in the pod's namespace, moved to the node's.
        let enter = format!("nsenter --net=/proc/{pid}/ns/net");
        sandbox.run(&format!("{enter} ip link add eth1 type veth peer name vethpod"));
        sandbox.run(&format!("{enter} ip link set vethpod netns {}", nix::unistd::gettid()));
        let seen = appeared.recv_timeout(Duration::from_secs(30)).expect("it appears");
        assert_eq!(seen, ("vethpod".to_owned(), true));
        let device = sandbox.device("vethpod");
        assert_eq!(sandbox.programs_on(&device).len(), 2);
        // An agent that has not seen it yet leaves it alone.
        assert_eq!(datapath.detach_others(&[]).expect("detach"), 0);
        assert_eq!(sandbox.programs_on(&device).len(), 2);
        datapath.attach_pod(&device).expect("attach");
        assert_eq!(datapath.detach_others(&[]).expect("detach"), 2);
        assert!(sandbox.programs_on(&device).is_empty());
        sandbox.run("ip link del vethpod");
        sandbox.run(&format!("ip link add vethpod type veth peer name eth1 netns {pid}"));
        let seen = appeared.recv_timeout(Duration::from_secs(30)).expect("the next one appears");
        assert_eq!(seen, ("vethpod".to_owned(), true));
        sandbox.run("ip link del vethpod");
        datapath.detach_others(&[]).expect("detach");
        assert!(sandbox.links().is_empty(), "nothing is kept for a device that is gone");
    });
}

#[test]
fn what_somebody_removes_is_repaired_and_counted() {
    in_sandbox(|sandbox| {
        let (device, options) = (sandbox.device("veth0"), sandbox.options());
        let mut datapath = Datapath::load(&options).expect("load");
        datapath.set_config(&config()).expect("config");
        datapath.apply(&Change { put: tables(2), ..Change::default() }).expect("apply");
        datapath.attach_uplink(&device).expect("attach");
        datapath.attach_sockets().expect("attach sockets");
        assert_eq!(datapath.ensure().expect("ensure").total(), 0);

        let root = options.bpffs.join("v1");
        fs::remove_file(root.join("maps/FRONTENDS")).expect("unpin");
        fs::remove_file(root.join("links/connect4-cgroup")).expect("unpin");
        let repairs = datapath.ensure().expect("ensure");
        assert_eq!((repairs.pins, repairs.links, repairs.entries), (2, 0, 0));

        cleanup(&options).expect("cleanup beside a live agent");
        assert!(sandbox.programs_on(&device).is_empty());
        let repairs = datapath.ensure().expect("ensure");
        assert_eq!((repairs.pins, repairs.links, repairs.entries), (MAPS, 10, 0));
        assert_eq!(sandbox.programs_on(&device).len(), 2);

        cleanup(&options).expect("cleanup beside a live agent");
        datapath.attach_uplink(&device).expect("an agent that attaches again before it looks");
        assert_eq!(datapath.ensure().expect("ensure").links, 10, "counts that too");

        fs::remove_dir_all(&root).expect("remove the folder");
        let repairs = datapath.ensure().expect("ensure");
        assert_eq!((repairs.pins, repairs.links), (MAPS + 10, 0));
        assert_eq!(Datapath::load(&options).expect("load").dump().expect("dump"), tables(2));
        assert_eq!(datapath.ensure().expect("ensure").total(), 0);

        sandbox.run("ip link del veth0");
        assert_eq!(datapath.ensure().expect("ensure").total(), 0, "a device that goes is no fault");
        assert_eq!(sandbox.links().len(), 8);
    });
}

#[test]
fn cleanup_leaves_nothing() {
    in_sandbox(|sandbox| {
        let (device, options) = (sandbox.device("veth0"), sandbox.options());
        let mut datapath = Datapath::load(&options).expect("load");
        datapath.attach_pod(&device).expect("attach");
        datapath.attach_sockets().expect("attach sockets");
        let removed = cleanup(&options).expect("cleanup with a live agent");
        assert_eq!(removed.len(), MAPS as usize + 10, "{removed:?}");
        assert!(sandbox.programs_on(&device).is_empty());
        assert!(!options.bpffs.join("v1").exists());
        drop(datapath);

        let clsact = Options { force_clsact: true, ..options.clone() };
        let mut datapath = Datapath::load(&clsact).expect("load");
        datapath.attach_pod(&device).expect("attach");
        drop(datapath);
        let removed = cleanup(&options).expect("cleanup with a dead agent");
        assert_eq!(removed.len(), MAPS as usize + 2, "{removed:?}");
        assert!(!sandbox.run("tc qdisc show dev veth0").contains("clsact"));
        assert!(cleanup(&options).expect("cleanup of nothing").is_empty());
    });
}

#[test]
fn a_device_has_the_programs_of_its_role_once() {
    in_sandbox(|sandbox| {
        let (device, options) = (sandbox.device("veth0"), sandbox.options());
        for options in [options.clone(), Options { force_clsact: true, ..options }] {
            let mut datapath = Datapath::load(&options).expect("load");
            datapath.attach_pod(&device).expect("attach");
            datapath.attach_uplink(&device).expect("it is an uplink after all");
            assert_eq!(datapath.ensure().expect("ensure").total(), 0);
            let links = if options.force_clsact {
                assert_eq!(sandbox.tc_filters("veth0").matches("datapath/").count(), 2);
                vec![]
            } else {
                assert_eq!(sandbox.programs_on(&device).len(), 2);
                vec!["from_uplink-veth0", "to_uplink-veth0"]
            };
            assert_eq!(sandbox.links(), links);
        }

        let mut datapath = Datapath::load(&sandbox.options()).expect("load");
        datapath.attach_pod(&device).expect("attach");
        for (old, new) in [("veth0", "veth1"), ("veth1", "eth0.7")] {
            sandbox.run(&format!("ip link set {old} down"));
            sandbox.run(&format!("ip link set {old} name {new}"));
            datapath.attach_pod(&sandbox.device(new)).expect("attach under the new name");
            assert_eq!(datapath.ensure().expect("ensure").total(), 0);
            assert_eq!(sandbox.programs_on(&sandbox.device(new)).len(), 2);
        }
        assert_eq!(sandbox.links(), ["from_pod-eth0%2e7", "to_pod-eth0%2e7"]);

        drop(datapath);
        sandbox.run("ip link set eth0.7 name veth2");
        let device = sandbox.device("veth2");
        let mut datapath = Datapath::load(&sandbox.options()).expect("load");
        datapath.attach_pod(&device).expect("attach");
        datapath.detach_others(&[device.index]).expect("detach");
        assert_eq!(sandbox.links(), ["from_pod-veth2", "to_pod-veth2"]);
        assert_eq!(sandbox.programs_on(&device).len(), 2);
    });
}

#[test]
fn xdp_is_attached_in_its_mode_swapped_and_removed() {
    in_sandbox(|sandbox| {
        let (device, options) = (sandbox.device("veth0"), sandbox.options());
        let with = |xdp| Options { xdp, ..options.clone() };
        let tc = ["from_uplink-veth0", "to_uplink-veth0"];
        // A pair is given no native program unless that is asked for.
        for (xdp, pin, shown) in [
            (Xdp::Auto, "xdp_generic-veth0", "xdpgeneric"),
            (Xdp::Native, "xdp_native-veth0", " xdp "),
            (Xdp::Generic, "xdp_generic-veth0", "xdpgeneric"),
        ] {
            let mut programs = Vec::new();
            for _ in 0..2 {
                let mut datapath = Datapath::load(&with(xdp)).expect("load");
                datapath.attach_uplink(&device).expect("attach");
                assert_eq!(sandbox.links(), [tc[0], tc[1], pin], "{xdp}");
                assert_eq!(datapath.ensure().expect("ensure").total(), 0, "{xdp}");
                programs.push(sandbox.xdp("veth0"));
            }
            assert!(programs.iter().all(|text| text.contains(shown)), "{xdp}: {programs:?}");
            assert_ne!(programs[0], programs[1], "the link is given the new program");
        }

        let show = Show {
            bpffs: options.bpffs.clone(),
            state_dir: options.bpffs.join("no-names"),
            format: Format::Table,
        };
        let status = text(|out| show.status(out));
        assert!(status.contains("veth0        xdp generic  xdp_uplink"), "{status}");
        let mut datapath = Datapath::load(&with(Xdp::Auto)).expect("load");
        datapath.attach_uplink(&device).expect("attach");
        assert_eq!(datapath.xdp(), [("veth0".to_owned(), "xdp generic")]);
        fs::remove_file(options.bpffs.join("v1/links/xdp_generic-veth0")).expect("unpin");
        assert_eq!(datapath.ensure().expect("ensure").pins, 1);

        let elsewhere = options.bpffs.join("elsewhere");
        for (xdp, problem) in [
            (Xdp::Auto, None),
            (Xdp::Generic, Some("--xdp=generic on veth0: ")),
            (Xdp::Native, Some("--xdp=native on veth0: ")),
        ] {
            let options = Options { bpffs: elsewhere.clone(), ..with(xdp) };
            let mut second = Datapath::load(&options).expect("load");
            let attached = second.attach_uplink(&device);
            let error = attached.err().map(|error| error.to_string());
            let said = |part: &str| error.as_ref().is_some_and(|error| error.contains(part));
            assert!(problem.map_or(error.is_none(), said), "{xdp}: {error:?}");
            assert!(second.xdp().is_empty(), "{xdp} beside another's program");
        }
        cleanup(&Options { bpffs: elsewhere, ..options.clone() }).expect("cleanup");

        datapath.attach_pod(&device).expect("it is a pod's after all");
        assert_eq!(sandbox.links(), ["from_pod-veth0", "to_pod-veth0"]);
        datapath.attach_uplink(&device).expect("attach");
        drop(datapath);
        let mut datapath = Datapath::load(&with(Xdp::Off)).expect("load");
        datapath.attach_uplink(&device).expect("attach");
        assert_eq!(sandbox.links(), tc, "an agent without XDP takes it away");
        drop(datapath);
        let mut datapath = Datapath::load(&with(Xdp::Generic)).expect("load");
        datapath.attach_uplink(&device).expect("attach");
        datapath.detach_others(&[]).expect("detach");
        assert!(sandbox.links().is_empty());
        assert!(!sandbox.xdp("veth0").contains("xdp"));
        datapath.attach_uplink(&device).expect("attach");
        assert_eq!(cleanup(&options).expect("cleanup").len(), MAPS as usize + 3);
        assert!(!sandbox.xdp("veth0").contains("xdp"));
    });
}

#[test]
fn a_bpf_file_system_is_mounted_and_unmounted_again() {
    in_sandbox(|sandbox| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bpffs = folder.path().join("bpf");
        let options = Options { bpffs: bpffs.clone(), ..sandbox.options() };
        drop(Datapath::load(&options).expect("load"));
        assert!(bpffs.join("v1/maps/CONFIG").exists());
        drop(Datapath::load(&options).expect("load again, on the same mount"));
        let removed = cleanup(&options).expect("cleanup");
        assert_eq!(removed.len(), MAPS as usize + 1, "{removed:?}");
        assert!(!bpffs.exists());

        let options = Options { bpffs: "/proc".into(), ..sandbox.options() };
        let error = Datapath::load(&options).expect_err("must not hide what is there");
        assert!(matches!(error, Error::NoBpffs { .. }), "{error}");
        assert!(Path::new("/proc/self/status").exists());
    });
}

#[test]
fn ten_thousand_services_are_applied_in_batches() {
    in_sandbox(|sandbox| {
        let mut datapath = Datapath::load(&sandbox.options()).expect("load");
        let desired = tables(10_000);
        let change = Change::between(&Tables::default(), &desired);
        let start = Instant::now();
        datapath.apply(&change).expect("apply");
        let took = start.elapsed();
        eprintln!("10,000 services x 10 endpoints: {took:?}");
        assert!(took.as_millis() < 1000, "{took:?}");
        assert_eq!(datapath.dump().expect("dump"), desired);
        assert_eq!(datapath.service_stats().expect("stats").len(), 10_000);

        let change = Change::between(&desired, &Tables::default());
        datapath.apply(&change).expect("remove");
        assert_eq!(datapath.dump().expect("dump"), Tables::default());
        assert_eq!(datapath.service_stats().expect("stats").len(), 0);
        datapath.apply(&change).expect("removing what is not there");
    });
}

#[test]
fn a_pin_of_another_shape_is_an_error_that_names_it() {
    in_sandbox(|sandbox| {
        let options = sandbox.options();
        drop(Datapath::load(&options).expect("load"));
        let maps = options.bpffs.join("v1/maps");
        fs::rename(maps.join("SLOTS"), maps.join("BACKENDS")).expect("swap the pins");
        let error = Datapath::load(&options).expect_err("another shape");
        assert!(matches!(&error, Error::IncompatibleMap { name, .. } if name == "BACKENDS"));
    });
}

#[test]
fn sizes_are_chosen_when_maps_are_created() {
    in_sandbox(|sandbox| {
        let mut options = sandbox.options();
        options.map_entries.insert("BACKENDS".into(), 16);
        let mut datapath = Datapath::load(&options).expect("load");
        let error = datapath.apply(&Change { put: tables(4), ..Change::default() });
        assert!(matches!(error, Err(Error::Full { name: "BACKENDS", max: 16 })), "{error:?}");
        options.map_entries.insert("NOSUCH".into(), 16);
        assert!(
            matches!(Datapath::load(&options), Err(Error::NotSizable(name)) if name == "NOSUCH")
        );
    });
}

#[test]
fn flows_are_swept_in_the_kernel() {
    in_sandbox(|sandbox| {
        let mut datapath = Datapath::load(&sandbox.options()).expect("load");
        datapath.set_config(&config()).expect("config");
        datapath.sweep().expect("sweep");
        assert!(datapath.flows().expect("flows").is_empty());
        assert!(!datapath.counters().expect("counters").is_empty());
    });
}

#[test]
fn a_folder_that_is_no_cgroup2_is_refused() {
    in_sandbox(|sandbox| {
        let options = Options { cgroup_root: Some("/proc".into()), ..sandbox.options() };
        let mut datapath = Datapath::load(&options).expect("load");
        let error = datapath.attach_sockets().expect_err("no cgroup2");
        assert!(matches!(error, Error::NotCgroup2(folder) if folder == Path::new("/proc")));
    });
}

#[test]
fn the_commands_answer_while_no_agent_runs() {
    in_sandbox(|sandbox| {
        let (device, options) = (sandbox.device("veth0"), sandbox.options());
        let show = |format| Show {
            bpffs: options.bpffs.clone(),
            state_dir: options.bpffs.join("no-names"),
            format,
        };
        let error = show(Format::Table).status(&mut Vec::new()).expect_err("nothing there");
        assert!(error.to_string().contains("not installed"), "{error}");
        let mut datapath = Datapath::load(&options).expect("load");
        datapath.set_config(&config()).expect("config");
        datapath.apply(&Change { put: tables(3), ..Change::default() }).expect("apply");
        datapath.attach_pod(&device).expect("attach");
        datapath.attach_sockets().expect("attach sockets");
        drop(datapath);

        let status = text(|out| show(Format::Table).status(out));
        assert!(status.contains("ports 3, frontends 3, backends 30"), "{status}");
        assert!(status.contains("veth0        tcx     from_pod to_pod"), "{status}");
        let services = text(|out| show(Format::Table).service_list(out));
        assert!(services.contains("service-3"), "{services}");
        let service = text(|out| show(Format::Table).service_show("default/service-2", out));
        assert!(service.contains("ClusterIP  10.200.0.2:80  10 backends"), "{service}");
        let error = show(Format::Table).service_show("default/no", &mut Vec::new());
        assert!(matches!(error, Err(ShowError::NoService(_))));
        let routes = text(|out| show(Format::Table).route_list(out));
        let is_remote = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.starts_with(&["10.10.0.0/24", "remote", "-", "10.10.0.0"])
        };
        assert!(routes.lines().any(is_remote), "{routes}");
        let maps = text(|out| show(Format::Table).map_list(out));
        assert!(maps.contains("FRONTENDS"), "{maps}");
        let none = FlowFilter::default();
        assert!(text(|out| show(Format::Table).flow_list(&none, out)).starts_with("PROTO"));
        let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        let maps = json(text(|out| show(Format::Json).map_list(out)));
        assert_eq!(maps[1]["name"], "FRONTENDS");
        assert_eq!(maps[1]["entries"], 3);
        let status = json(text(|out| show(Format::Json).status(out)));
        assert_eq!(status["attachments"].as_array().map(Vec::len), Some(10));
        eprintln!("{}", text(|out| show(Format::Table).status(out)));
        eprintln!("{}", text(|out| show(Format::Table).map_list(out)));
        eprintln!("{services}\n{service}\n{routes}");
    });
}

fn text(print: impl Fn(&mut Vec<u8>) -> Result<(), ShowError>) -> String {
    let mut out = Vec::new();
    print(&mut out).expect("something to show");
    String::from_utf8(out).expect("text")
}

/// `services` services of ten backends each, and one entry in each of the other maps.
fn tables(services: u32) -> Tables {
    let mut tables = Tables::default();
    for id in 1..=services {
        let mut label = [0; 192];
        let text = format!("default/service-{id}:http/TCP");
        label[..text.len()].copy_from_slice(text.as_bytes());
        tables.services.insert(id, Service { label });
        let list = BackendList { id, count: 10 };
        for index in 0..10 {
            let backend = id * 10 + index;
            let addr = Ipv4Addr::from(0x0a0a_0000 + backend).into();
            let (port, protocol) = (Be16::new(8080), Protocol::TCP);
            let value = Backend { addr, port, protocol, pad: 0, service: id };
            tables.backends.insert(backend, value);
            tables.slots.insert(SlotKey { list: id, index }, backend);
        }
        let addr: Addr = Ipv4Addr::from(0x0ac8_0000 + id).into();
        let key = FrontendKey::new(addr, Be16::new(80), Protocol::TCP);
        tables.frontends.insert(key, frontend(id, list));
    }
    tables.members.insert(MemberKey { list: 1, backend: 10 });
    let net: Addr = Ipv4Addr::new(10, 10, 0, 0).into();
    let range = SourceRangeKey { prefix_len: 32 + 112, service: 1, addr: net };
    tables.source_ranges.insert(range);
    tables.local_clients.insert(LpmKey::new(net, 16));
    tables.local_devices.insert(2);
    tables.non_masquerade.insert(LpmKey::new(net, 16));
    let kind = RouteKind::REMOTE;
    let route = Route { next_hop: net, device: 2, mtu: 1500, kind, pad: 0 };
    tables.routes.insert(LpmKey::new(net, 24), route);
    tables.routes.insert(LpmKey::new(net, 16), Route { kind: RouteKind::LOCAL, ..route });
    let kind = AddressKind::POD;
    tables.addresses.insert(net, Address { gateway: net, device: 2, mac: [2; 6], kind, flags: 0 });
    tables
}

fn frontend(service: u32, list: BackendList) -> Frontend {
    Frontend {
        service,
        inside: list,
        outside: list,
        affinity: 0,
        flags: FrontendFlags::MASQUERADE_OUTSIDE,
        kind: FrontendKind::CLUSTER_IP,
        pad: 0,
    }
}

fn config() -> Config {
    Config {
        host_netns: 0,
        node_v4: Ipv4Addr::new(10, 9, 0, 1).into(),
        node_v6: Addr::UNSPECIFIED_V6,
        uplink: 2,
        flags: ConfigFlags::default(),
        port_min: 61_000,
        port_max: 65_535,
        uplink_mac: [0; 6],
        pad: [0; 2],
        timeouts: Timeouts::DEFAULT,
    }
}
