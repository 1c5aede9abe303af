//! Following devices, addresses, routes and neighbours of the running kernel.

mod sandbox;

use datapath_user::datapath::devices::{Selection, Snapshot, View, watch};
use sandbox::in_sandbox;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::{sync::watch::Receiver, time::timeout};

#[test]
fn pods_come_and_go() {
    in_sandbox(|sandbox| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut watcher = watch().await.expect("watch");
            let view = until(&mut watcher, |view| view.pod_devices.len() == 1).await;
            assert!(view.host_addresses.contains(&ip("10.9.0.1")));
            assert!(view.pods.is_empty(), "a subnet is no pod");

            let pid = sandbox.pod_pid();
            sandbox.run(&format!("ip link add vethpod type veth peer name eth1 netns {pid}"));
            until(&mut watcher, |view| view.pod_devices.len() == 2).await;

            sandbox.run("ip addr add 10.10.3.1/32 dev vethpod");
            sandbox.run("ip -6 addr add fd00:10:10:3::1/128 dev vethpod nodad");
            sandbox.run("ip link set vethpod up");
            sandbox.run("ip route add 10.10.3.2/32 dev vethpod scope host");
            sandbox.run("ip -6 route add fd00:10:10:3::2/128 dev vethpod");
            sandbox.run("ip neigh add 10.10.3.2 lladdr 02:00:00:00:00:07 dev vethpod");
            let view = until(&mut watcher, |view| {
                view.pods.len() == 2
                    && view.pods.get(&ip("10.10.3.2")).is_some_and(|pod| pod.mac[5] == 7)
            })
            .await;
            assert_eq!(view.pods[&ip("10.10.3.2")].gateway, Some(ip("10.10.3.1")));
            assert_eq!(view.pods[&ip("fd00:10:10:3::2")].gateway, Some(ip("fd00:10:10:3::1")));

            // The kernel drops routes with a device that goes down, but not those of host scope; of
            // IPv4 routes it says nothing.
            sandbox.run("ip route add 10.10.3.3/32 dev vethpod");
            until(&mut watcher, |view| view.pods.len() == 3).await;
            sandbox.run("ip link set vethpod down");
            until(&mut watcher, |view| view.pods.is_empty()).await;
            sandbox.run("ip link set vethpod up");
            until(&mut watcher, |view| view.pods.keys().eq([&ip("10.10.3.2")])).await;
            sandbox.run("ip link del vethpod");
            until(&mut watcher, |view| view.pod_devices.len() == 1).await;
        });
    });
}

#[test]
fn routes_of_other_nodes_are_known_and_replaced() {
    in_sandbox(|sandbox| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut watcher = watch().await.expect("watch");
            let device = sandbox.device("veth0").index;
            let prefix = "10.10.1.0/24".parse().expect("a prefix");
            for gateway in ["10.9.0.2", "10.9.0.3"] {
                sandbox.run(&format!("ip route replace 10.10.1.0/24 via {gateway}"));
                let other = if gateway == "10.9.0.2" { "10.9.0.3" } else { "10.9.0.2" };
                until_snapshot(&mut watcher, |snapshot| {
                    snapshot.routes_via(prefix, ip(gateway), device)
                        && !snapshot.routes_via(prefix, ip(other), device)
                })
                .await;
            }
            sandbox.run("ip route add default via 10.9.0.2");
            let view = until(&mut watcher, |view| !view.uplinks.is_empty()).await;
            assert_eq!(view.uplinks[0].name, "veth0");
            assert!(view.pod_devices.is_empty(), "an uplink is no pod's interface");
        });
    });
}

async fn until(watcher: &mut Receiver<Arc<Snapshot>>, wanted: impl Fn(&View) -> bool) -> View {
    let selection = Selection::default();
    until_snapshot(watcher, |snapshot| wanted(&snapshot.view(&selection))).await.view(&selection)
}

async fn until_snapshot(
    watcher: &mut Receiver<Arc<Snapshot>>,
    wanted: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let reached = watcher.wait_for(|snapshot| wanted(snapshot));
    let snapshot = timeout(Duration::from_secs(30), reached).await.expect("reached in time");
    Arc::clone(&snapshot.expect("the watcher runs"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
