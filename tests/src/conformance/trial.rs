//! One case against one proxy.

use super::{
    Column,
    case::{Act, Case, Check, Step, find},
    place::{Address, Client, Entry, Target, Way},
    probe,
    world::{World, serve_sctp},
};
use crate::{
    Lab,
    manifest::{self, POD_PORT, PodSpec, merge},
    proto::{Ask, Proto, Verdict},
    service::Service,
    space::{Socket, lock, request},
    topology::{Family, NodeSpec},
};
use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// Addresses of the Services' ranges that the API server gives only to those who ask for them.
const FREE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 200, 1, 5)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x200, 1, 0, 0, 0, 5)),
];

/// A case under way.
#[derive(Debug)]
pub struct Trial<'a> {
    world: &'a World,
    column: Column,
    case: &'a Case,
    state: Mutex<State>,
    changed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<&'static str, (Service, u8)>,
    slices: BTreeMap<&'static str, BTreeSet<String>>,
    pods: Vec<String>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(world: &'a World, column: Column, case: &'a Case) -> Self {
        Self { world, column, case, state: Mutex::default(), changed: AtomicBool::new(false) }
    }

    /// Goes through the steps. What came of each that is no change: nothing if it was as it must be.
    pub(super) fn run(&self) -> Result<Vec<Result<(), String>>> {
        let mut results = Vec::new();
        for step in &self.case.steps {
            match step {
                Step::Act(act) => {
                    self.act(act).with_context(|| format!("{act:?}"))?;
                    self.changed.store(true, Ordering::Relaxed);
                }
                Step::Expect(expect) => {
                    self.settle()?;
                    results.push(probe::carry_out(self, expect));
                }
                Step::Check(check) => {
                    self.settle()?;
                    results.push(self.check(check));
                }
            }
        }
        Ok(results)
    }

    fn check(&self, check: &Check) -> Result<(), String> {
        let result = (check.body)(self);
        match (result, find(&check.unlike, self.column)) {
            (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
            (Err(error), None) => Err(format!("{error:#}")),
            (Ok(()), Some(unlike)) => {
                Err(format!("is so, although the table says otherwise: {}", unlike.reason))
            }
        }
    }

    fn act(&self, act: &Act) -> Result<()> {
        match act {
            Act::Service(name, spec) => self.create(name, spec),
            Act::Pods(pods) => self.create_pods(pods),
            Act::Patch(name, patch) => self.patch(name, patch),
            Act::Last(patch) => {
                let old = self.service("")?;
                self.patch("", patch)?;
                self.remember("", old);
                Ok(())
            }
            Act::Delete(name) => self.delete(name),
            Act::Slices(name, slices) => self.put_slices(name, slices),
            Act::Other(_, body) => body(self),
        }
    }

    /// Which proxy this is about.
    pub fn column(&self) -> Column {
        self.column
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.world.lab
    }

    /// Waits until all proxies have seen all changes.
    pub fn settle(&self) -> Result<()> {
        if self.changed.swap(false, Ordering::Relaxed) {
            self.world.settle()?;
        }
        Ok(())
    }

    /// Has all Nodes as they were, and seen so by their proxies.
    pub(super) fn settle_nodes(&self) -> Result<()> {
        self.world.settle_nodes()
    }

    /// The whole name of a Service or pod of the case.
    pub fn name(&self, short: &str) -> String {
        if short.is_empty() {
            self.case.name.to_owned()
        } else {
            format!("{}-{short}", self.case.name)
        }
    }

    /// A Service of the case.
    pub fn service(&self, name: &str) -> Result<Service> {
        let state = lock(&self.state);
        state.services.get(name).map(|(service, _)| service.clone()).context("no such Service")
    }

    /// Goes on with a Service as it was, to ask for addresses that it has given up.
    pub fn remember(&self, name: &'static str, old: Service) {
        if let Some((service, _)) = lock(&self.state).services.get_mut(name) {
            *service = old;
        }
    }

    /// Creates a Service: see [`Case::service`].
    pub fn create(&self, name: &'static str, spec: &Value) -> Result<()> {
        let number = self.world.next_entry();
        let mut object = manifest::service(&self.name(name), &json!({"ports": service_ports()}));
        let mut spec = spec.clone();
        if spec["selector"] == json!(true) {
            spec["selector"] = json!({"app": self.case.name});
        }
        if let Some(metadata) = take(&mut spec, "metadata") {
            merge(&mut object["metadata"], &metadata);
        }
        let mode = take(&mut spec, "ipMode");
        merge(&mut object["spec"], &fill_in(spec, number));
        let mut created = self.lab().api()?.create_services(vec![object])?;
        let service = Service::from(created.pop().context("no Service came back")?);
        let balanced = service.value()["spec"]["type"] == "LoadBalancer";
        lock(&self.state).services.insert(name, (service, number));
        if balanced { self.balance(name, mode.as_ref()) } else { Ok(()) }
    }

    /// Does what a cloud does for a load balancer: gives it addresses.
    fn balance(&self, name: &'static str, mode: Option<&Value>) -> Result<()> {
        let number = self.number(name)?;
        let ingress: Vec<_> = [Entry::Vip, Entry::AwayVip]
            .into_iter()
            .flat_map(|entry| Family::ALL.map(|family| entry.address(family, number)))
            .map(|ip| match mode {
                Some(mode) => json!({"ip": ip, "ipMode": mode}),
                None => json!({"ip": ip}),
            })
            .collect();
        self.patch(name, &json!({"status": {"loadBalancer": {"ingress": ingress}}}))
    }

    fn number(&self, name: &str) -> Result<u8> {
        lock(&self.state).services.get(name).map(|(_, number)| *number).context("no such Service")
    }

    /// Merges into a Service.
    pub fn patch(&self, name: &'static str, patch: &Value) -> Result<()> {
        let number = self.number(name)?;
        let mut patch = patch.clone();
        if let Some(spec) = take(&mut patch, "spec") {
            patch["spec"] = fill_in(spec, number);
        }
        let service = self.lab().patch_service(&self.name(name), &patch)?;
        lock(&self.state).services.insert(name, (service, number));
        self.changed.store(true, Ordering::Relaxed);
        if patch["spec"]["type"] == "LoadBalancer" { self.balance(name, None) } else { Ok(()) }
    }

    /// Deletes a Service. Its addresses stay known, so that they can be asked.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.changed.store(true, Ordering::Relaxed);
        self.lab().delete_service(&self.name(name))
    }

    /// The proxies have something new to see.
    pub(super) fn note_change(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Notes the names of a Service's slices; those from before come back.
    pub(super) fn replace_slices(
        &self,
        service: &'static str,
        names: BTreeSet<String>,
    ) -> BTreeSet<String> {
        lock(&self.state).slices.insert(service, names).unwrap_or_default()
    }

    /// Notes a slice beside them.
    pub(super) fn add_slice(&self, name: String) {
        lock(&self.state).slices.entry("raw").or_default().insert(name);
    }

    /// Makes pods with the case's label.
    pub fn create_pods(&self, pods: &[(&'static str, &'static NodeSpec)]) -> Result<()> {
        let specs = pods.iter().map(|(name, node)| {
            let mut spec = PodSpec::new(&self.name(name), node, self.case.name);
            spec.labels.push(("pod".to_owned(), (*name).to_owned()));
            spec
        });
        for pod in self.lab().create_pods(specs.collect())? {
            serve_sctp(self.lab(), &pod.spec.name)?;
            lock(&self.state).pods.push(pod.spec.name.clone());
        }
        Ok(())
    }

    /// Deletes a pod of the case.
    pub fn delete_pod(&self, name: &str) -> Result<()> {
        let name = self.name(name);
        lock(&self.state).pods.retain(|pod| *pod != name);
        self.lab().delete_pod(&name)
    }

    /// Where a target is.
    pub fn address(&self, target: Target, family: Family, proto: Proto) -> Result<SocketAddr> {
        let service = self.service(target.service)?;
        let node_port = || -> Result<u16> {
            let wanted = proto.to_string().to_uppercase();
            let ports = service.value()["spec"]["ports"].as_array().map(Vec::as_slice);
            let port = ports.unwrap_or_default().iter().find(|port| port["protocol"] == *wanted);
            let number = port.and_then(|port| port["nodePort"].as_u64()).context("no NodePort")?;
            Ok(u16::try_from(number)?)
        };
        let loopback = |family| match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        Ok(match target.address {
            Address::Cluster => service.at(family, target.port)?,
            Address::Node(node) => SocketAddr::new(node.address().get(family), node_port()?),
            Address::Loopback => SocketAddr::new(loopback(family), node_port()?),
            Address::Gateway(node) => SocketAddr::new(node.pod(1).get(family), node_port()?),
            Address::Entry(entry) => {
                let number = self.number(target.service)?;
                SocketAddr::new(entry.address(family, number), target.port)
            }
            Address::Free => SocketAddr::new(FREE[usize::from(family == Family::V6)], target.port),
        })
    }

    /// The request `what` to a target.
    pub fn question(&self, way: Way, target: Target, family: Family, what: &str) -> Result<Ask> {
        let to = self.address(target, family, way.proto)?;
        Ok(Ask { connected: way.connected, ..request(way.proto, to, what) })
    }

    /// Asks who answers.
    pub fn ask(&self, client: Client, way: Way, target: Target, family: Family) -> Result<Verdict> {
        let ask = self.question(way, target, family, way.who())?;
        self.lab().space(client.space)?.ask(&ask)
    }

    /// How many of `times` requests each backend answers; any other verdict is an error.
    pub fn counts(
        &self,
        client: Client,
        way: Way,
        target: Target,
        family: Family,
        times: u32,
    ) -> Result<BTreeMap<String, u32>> {
        let ask = self.question(way, target, family, way.who())?;
        let mut counts = BTreeMap::new();
        for (verdict, number) in self.lab().space(client.space)?.spread(&ask, times)? {
            let answer =
                verdict.answer().with_context(|| format!("{}: {verdict}", client.label))?;
            let name = answer.split_whitespace().next().unwrap_or_default();
            *counts.entry(name.to_owned()).or_default() += number;
        }
        Ok(counts)
    }

    /// The one backend that answers all of `times` requests. On a busy machine a datagram may be lost,
    /// and a new socket may get the port of an earlier flow, which stays where it is: so the requests
    /// are made again before that counts.
    pub fn only(
        &self,
        client: Client,
        way: Way,
        target: Target,
        family: Family,
        times: u32,
    ) -> Result<String> {
        let attempt = || {
            let mut counts = self.counts(client, way, target, family, times)?;
            ensure!(counts.len() == 1, "{} got {counts:?}", client.label);
            counts.pop_first().map(|(name, _)| name).context("no answer")
        };
        attempt().or_else(|_| attempt()).or_else(|_| attempt())
    }

    /// Opens a socket that stays open.
    pub fn open(&self, client: Client, way: Way, target: Target, family: Family) -> Result<Socket> {
        let ask = self.question(way, target, family, way.who())?;
        let socket = self.lab().space(client.space)?.open(&ask)?;
        socket.map_err(|verdict| anyhow!("{way} IP{family} from {}: {verdict}", client.label))
    }

    /// The same from a source port.
    pub fn open_from(
        &self,
        client: Client,
        way: Way,
        target: Target,
        family: Family,
        port: u16,
    ) -> Result<Socket> {
        let ask = Ask { source_port: port, ..self.question(way, target, family, way.who())? };
        let socket = self.lab().space(client.space)?.open(&ask)?;
        socket.map_err(|verdict| anyhow!("{way} IP{family} from {}: {verdict}", client.label))
    }

    /// Takes away what the case has made.
    pub(super) fn clear(&self) -> Result<()> {
        let State { services, slices, pods } = std::mem::take(&mut *lock(&self.state));
        let api = self.lab().api()?;
        for (name, _) in services {
            // Some cases delete their Services themselves.
            self.lab().delete_service(&self.name(name)).ok();
        }
        api.delete_slices(slices.into_values().flatten().collect())?;
        pods.iter().try_for_each(|pod| self.lab().delete_pod(pod))
    }
}

/// Port 80 over each protocol.
fn service_ports() -> Value {
    let port = |protocol: &str| {
        json!({
            "name": protocol.to_lowercase(), "port": 80, "targetPort": POD_PORT,
            "protocol": protocol,
        })
    };
    PROTOCOLS.map(port).to_vec().into()
}

pub(super) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Removes a field of an object.
fn take(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut()?.remove(field)
}

/// Puts addresses in where the table says only `true`.
fn fill_in(mut spec: Value, number: u8) -> Value {
    if spec["externalIPs"] == json!(true) {
        let addresses: Vec<_> = [Entry::External, Entry::AwayExternal]
            .into_iter()
            .flat_map(|entry| Family::ALL.map(|family| entry.address(family, number)))
            .collect();
        spec["externalIPs"] = json!(addresses);
    }
    spec
}
