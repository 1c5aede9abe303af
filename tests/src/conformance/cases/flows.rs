//! Section 1.10: flows that outlive their endpoint, and large messages.

use super::super::{
    KUBE_PROXY,
    case::{Case, case, otherwise, reach, refused},
    place::{
        CLUSTER_IP, CONNECTED_UDP, Client, EXTERNAL_IP, FAR, NEAR, NODE, NODE_PORT, OUTSIDE_CLIENT,
        POD, TCP, Target, UDP, VIP, Way,
    },
    trial::Trial,
};
use crate::{proto::Verdict, space::Socket, suite::eventually, topology::Family};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use std::{thread, time::Duration};

/// How long a datagram client may have to ask again after its endpoint has gone.
const MOVE: Duration = Duration::from_mins(1);
/// How long an answer may take while it is asked again and again.
const SHORT: Duration = Duration::from_millis(300);

pub(super) fn cases() -> Vec<Case> {
    [datagrams(), ended(), frontends(), connections(), large()].into_iter().flatten().collect()
}

/// Who asks what: each client by the frontend that it would use.
const CLIENTS: [(Client, Target); 5] = [
    (POD, CLUSTER_IP),
    (NODE, CLUSTER_IP),
    (POD, EXTERNAL_IP),
    (OUTSIDE_CLIENT, NODE_PORT),
    (OUTSIDE_CLIENT, VIP),
];
const DATAGRAMS: &[Way] = &[UDP, CONNECTED_UDP];

fn datagrams() -> Vec<Case> {
    vec![
        case(
            "1.10",
            "udp-moves",
            "A UDP client with an open socket follows when its endpoint goes",
        )
        .service(json!({"type": "LoadBalancer", "externalIPs": true}))
        .endpoints(&[NEAR])
        .expect(&[POD, OUTSIDE_CLIENT], VIP, super::super::case::masked(&[NEAR]))
        .check(
            "it is answered by the next endpoint, on the same socket and port",
            |trial| {
                let sockets = open_all(trial, DATAGRAMS)?;
                for (socket, _) in &sockets {
                    ensure!(served(socket)?.0 == "near", "not served at first");
                }
                trial.set_endpoints("", &[FAR])?;
                trial.settle()?;
                for (socket, label) in &sockets {
                    eventually(MOVE, || {
                        let (name, _) = name(socket)?;
                        ensure!(name == "far", "still {name}");
                        Ok(())
                    })
                    .with_context(|| label.clone())?;
                }
                Ok(())
            },
        ),
        case(
            "1.10",
            "udp-keeps-its-port",
            "A pod's socket has the same source port after it has moved",
        )
        .service(json!({}))
        .endpoints(&[NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .check("the new endpoint sees the port that the old one saw", |trial| {
            // Other cases use this client and these endpoints as well, but not these ports.
            let mut sockets = Vec::new();
            for (port, family) in (16_000..).step_by(10).zip(Family::ALL) {
                for (port, way) in (port..).zip(DATAGRAMS) {
                    let socket = trial.open_from(POD, *way, CLUSTER_IP, family, port)?;
                    let first = served(&socket)?;
                    ensure!(first == ("near".to_owned(), port), "{port}: at first {first:?}");
                    sockets.push((socket, port));
                }
            }
            trial.set_endpoints("", &[FAR])?;
            trial.settle()?;
            for (socket, port) in &sockets {
                eventually(MOVE, || {
                    let (name, seen) = name(socket)?;
                    ensure!(name == "far" && seen == *port, "{port}, then {name} sees {seen}");
                    Ok(())
                })?;
            }
            Ok(())
        }),
    ]
}

/// Nobody is left to answer.
fn ended() -> Vec<Case> {
    const STUCK: &str =
        "kube-proxy 1.36 leaves UDP flows with the old pod then (kubernetes #139628)";
    const FORGOTTEN: &str =
        "kube-proxy 1.36 forgets the UDP flows of a deleted Service (kubernetes PR #141371)";
    let all = json!({"type": "LoadBalancer", "externalIPs": true});
    vec![
        case(
            "1.10",
            "udp-zero-endpoints",
            "A Service without endpoints answers to no flow of before",
        )
        .service(all.clone())
        .endpoints(&[NEAR])
        .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
        .check("the old endpoint gets no more datagrams", |trial| {
            let sockets = open_all(trial, DATAGRAMS)?;
            sockets.iter().try_for_each(|(socket, _)| served(socket).map(drop))?;
            trial.set_endpoints("", &[])?;
            trial.settle()?;
            silent(trial, &sockets)
        })
        .but(KUBE_PROXY, otherwise(), STUCK)
        .endpoints(&[FAR])
        .expect(&[POD, NODE], CLUSTER_IP, reach(&[FAR])),
        case("1.10", "udp-service-deleted", "A deleted Service answers to no flow of before")
            .service(all)
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .check("the old endpoint gets no more datagrams", |trial| {
                let sockets = open_all(trial, DATAGRAMS)?;
                sockets.iter().try_for_each(|(socket, _)| served(socket).map(drop))?;
                trial.delete("")?;
                trial.settle()?;
                silent(trial, &sockets)
            })
            .but(KUBE_PROXY, otherwise(), FORGOTTEN),
        case(
            "1.10",
            "udp-endpoints-appear",
            "A client that asked before there were endpoints is served",
        )
        .service(json!({"type": "LoadBalancer", "externalIPs": true}))
        .endpoints(&[])
        .expect(&[POD], CLUSTER_IP, refused())
        .check("the socket that asked in vain is answered", |trial| {
            let sockets = open_all(trial, DATAGRAMS)?;
            for (socket, _) in &sockets {
                socket.ask_within("who", Duration::from_millis(20))?;
            }
            trial.set_endpoints("", &[NEAR])?;
            trial.settle()?;
            for (socket, label) in &sockets {
                served(socket).with_context(|| label.clone())?;
            }
            Ok(())
        }),
    ]
}

fn frontends() -> Vec<Case> {
    const LEFT: &str =
        "kube-proxy 1.36 looks only for flows by the frontends that a Service has now";
    vec![
        case("1.10", "udp-frontend-removed", "A deleted node port answers to no flow of before")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR])
            .expect(&[OUTSIDE_CLIENT], NODE_PORT, super::super::case::masked(&[NEAR]))
            .check("the endpoint gets no more datagrams by it", |trial| {
                let sockets = open_from(trial, &[(OUTSIDE_CLIENT, NODE_PORT)], DATAGRAMS)?;
                sockets.iter().try_for_each(|(socket, _)| served(socket).map(drop))?;
                trial.patch("", &json!({"spec": {"type": "ClusterIP"}}))?;
                trial.settle()?;
                silent(trial, &sockets)
            })
            .but(KUBE_PROXY, otherwise(), LEFT),
    ]
}

fn connections() -> Vec<Case> {
    vec![
        case("1.10", "tcp-stays", "A TCP connection outlives its endpoint's place in the Service")
            .service(json!({"type": "LoadBalancer", "externalIPs": true}))
            .endpoints(&[NEAR])
            .expect(&[POD], CLUSTER_IP, reach(&[NEAR]))
            .check(
                "open connections go on: endpoint replaced, none left, Service deleted",
                |trial| {
                    let sockets = open_all(trial, &[TCP])?;
                    stay(&sockets, "at first")?;
                    trial.set_endpoints("", &[FAR])?;
                    trial.settle()?;
                    stay(&sockets, "another endpoint in its place")?;
                    trial.set_endpoints("", &[])?;
                    trial.settle()?;
                    stay(&sockets, "no endpoint")?;
                    trial.delete("")?;
                    trial.settle()?;
                    stay(&sockets, "no Service")
                },
            ),
        case("1.10", "tcp-new-connections", "New connections go to the endpoints of now")
            .service(json!({"type": "NodePort"}))
            .endpoints(&[NEAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR]))
            .endpoints(&[FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[FAR]))
            .endpoints(&[])
            .expect(&[POD, NODE], CLUSTER_IP, refused())
            .endpoints(&[NEAR, FAR])
            .expect(&[POD, NODE], CLUSTER_IP, reach(&[NEAR, FAR])),
    ]
}

fn large() -> Vec<Case> {
    vec![
        case("1.10", "large-requests", "Requests beyond one packet: 2,000 bytes, UDP in fragments")
            .service(json!({"type": "LoadBalancer", "externalIPs": true}))
            .endpoints(&[NEAR, FAR])
            .expect(&[OUTSIDE_CLIENT], VIP, super::super::case::masked(&[NEAR, FAR]))
            .check("they arrive and come back whole", echoes),
    ]
}

/// A socket of each client, way and family, with what it is called.
fn open_all(trial: &Trial<'_>, ways: &[Way]) -> Result<Vec<(Socket, String)>> {
    open_from(trial, &CLIENTS, ways)
}

/// The same of these clients.
fn open_from(
    trial: &Trial<'_>,
    clients: &[(Client, Target)],
    ways: &[Way],
) -> Result<Vec<(Socket, String)>> {
    let mut sockets = Vec::new();
    for &(client, target) in clients {
        for family in Family::ALL {
            for way in ways {
                let label = format!("{} to {target} by {way} IP{family}", client.label);
                let socket = trial.open(client, *way, target, family);
                sockets.push((socket.with_context(|| label.clone())?, label));
            }
        }
    }
    Ok(sockets)
}

/// Who answers on a datagram socket, and which port it sees.
fn name(socket: &Socket) -> Result<(String, u16)> {
    let verdict = socket.ask_within("who", SHORT)?;
    let Some((name, client)) = verdict.answer().and_then(|answer| answer.split_once(' ')) else {
        bail!("{verdict}");
    };
    Ok((name.to_owned(), client.parse::<std::net::SocketAddr>()?.port()))
}

/// The same once there is an answer: on a busy machine one may be late, or a datagram lost.
fn served(socket: &Socket) -> Result<(String, u16)> {
    eventually(MOVE, || name(socket))
}

/// No socket is answered any more, soon.
fn silent(trial: &Trial<'_>, sockets: &[(Socket, String)]) -> Result<()> {
    // kube-proxy leaves them as they are, however long it takes.
    let patience = if trial.column().is_ours() { MOVE } else { Duration::from_secs(4) };
    thread::scope(|scope| {
        let tasks: Vec<_> = sockets
            .iter()
            .map(|(socket, label)| {
                scope.spawn(move || {
                    eventually(patience, || match socket.ask_within("who", SHORT)? {
                        Verdict::Answer(name) => bail!("{label}: {name} answers"),
                        _ => Ok(()),
                    })
                })
            })
            .collect();
        tasks.into_iter().try_for_each(|task| match task.join() {
            Ok(result) => result,
            Err(_panic) => bail!("panicked, see above"),
        })
    })
}

fn stay(sockets: &[(Socket, String)], when: &str) -> Result<()> {
    for (socket, label) in sockets {
        let verdict = socket.ask("/hostname")?;
        ensure!(verdict.answer() == Some("near"), "{label}, {when}: {verdict}");
    }
    Ok(())
}

/// Requests of 2,000 bytes by every frontend.
pub(super) fn echoes(trial: &Trial<'_>) -> Result<()> {
    trial.everywhere(&[TCP, UDP, CONNECTED_UDP], |family, way| {
        CLIENTS.iter().try_for_each(|(client, target)| {
            // Again where a busy machine has been too slow.
            let once = || echo(trial, *client, way, *target, family);
            (0..4).try_for_each(|_| eventually(MOVE, once))
        })
    })
}

fn echo(trial: &Trial<'_>, client: Client, way: Way, target: Target, family: Family) -> Result<()> {
    let text = "l".repeat(2000);
    let (what, expected) = if way == TCP {
        (format!("/length/{text}"), "2008".to_owned())
    } else {
        (format!("echo {text}"), text)
    };
    let verdict =
        trial.lab().space(client.space)?.ask(&trial.question(way, target, family, &what)?)?;
    ensure!(
        verdict.answer() == Some(expected.as_str()),
        "{} to {target}: {:.60}",
        client.label,
        verdict.to_string()
    );
    Ok(())
}
