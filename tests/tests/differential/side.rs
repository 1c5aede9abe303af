//! A lab with one kind of proxy, and the objects of a history in its API server.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{core::v1::Service as ServiceObject, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, PostParams},
    core::NamespaceResourceScope,
};
use lab::{
    Lab, Node,
    manifest::PodSpec,
    proto::{Op, Proto},
    proxy::Kind,
    semantics::{
        Detector, Deviation, NodePorts, Proxy,
        facts::{Cluster, Name, Object, Service, Slice, Step, Type},
        history::{BALANCED, EXTERNAL, POD_PORTS, PODS},
    },
    space::request,
    suite::eventually,
    topology::{NODES, OUTSIDE, POD_RANGES, SERVICE_RANGES},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::{
    fmt::{Debug, Write as _},
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

/// How long a proxy may take to follow a batch of changes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the label of a node may take to reach the proxies: nothing else tells.
const LABEL: Duration = Duration::from_millis(500);
/// The Service that changes last in every batch.
const SENTINEL: &str = "sentinel";
const SENTINEL_IPS: [&str; 2] = ["10.200.1.250", "fd00:10:200:1::fa"];

/// One of the two that are compared.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) lab: Lab,
    deviations: &'static [Deviation],
    /// How many batches were taken.
    batches: u16,
}

impl Side {
    /// A lab with this kind of proxy on each node.
    pub(crate) fn up(
        name: &'static str,
        kinds: [Kind; NODES.len()],
        deviations: &'static [Deviation],
    ) -> Result<Self> {
        let lab = Lab::builder().up()?;
        let mut pods = Vec::new();
        for spec in &NODES {
            for index in PODS {
                let name = format!("pod-{}-{index}", spec.short());
                pods.push(PodSpec::new(&name, spec, "pod").serving(&POD_PORTS));
            }
            let name = format!("host-{}", spec.short());
            pods.push(PodSpec::new(&name, spec, "host").on_host_network());
        }
        lab.create_pods(pods)?;
        route_outside(&lab)?;
        allow_errors(&lab)?;
        let side = Self { name, lab, deviations, batches: 0 };
        side.write_sentinel(0)?;
        for (node, kind) in side.lab.nodes().iter().zip(kinds) {
            side.lab.start_proxy(node, kind)?;
        }
        side.lab.nodes().iter().try_for_each(|node| side.lab.wait_proxy(node))?;
        side.wait(0)?;
        Ok(side)
    }

    /// The model of the proxy of a node.
    pub(crate) fn proxy<'a>(
        &self,
        cluster: &'a Cluster,
        node: &'a str,
        own: &'a [(String, Vec<IpAddr>)],
    ) -> Proxy<'a> {
        let addresses = own.iter().find(|(name, _)| name == node);
        Proxy {
            cluster,
            node,
            own: addresses.map_or(&[], |(_, addresses)| addresses),
            detector: Detector::ClusterCidr(
                POD_RANGES.map(|range| range.parse().expect("a range")).to_vec(),
            ),
            masquerade_all: false,
            node_ports: NodePorts::Primary,
            deviations: self.deviations,
        }
    }

    /// Takes a batch of steps and waits until the proxies of all nodes have followed.
    pub(crate) fn take(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            self.take_step(step).with_context(|| format!("{}: {step:?}", self.name))?;
        }
        self.batches += 1;
        self.write_sentinel(self.batches)?;
        self.wait(self.batches).with_context(|| format!("{}: the sentinel", self.name))?;
        if steps.iter().any(|step| matches!(step, Step::Put(Object::Node(_)))) {
            thread::sleep(LABEL);
        }
        Ok(())
    }

    fn take_step(&self, step: &Step) -> Result<()> {
        match step {
            Step::Put(Object::Service(service)) => self.put_service(service),
            Step::Put(Object::Slice(slice)) => {
                let slice: EndpointSlice = serde_json::from_value(slice.json())?;
                self.put(slice).map(drop)
            }
            Step::Put(Object::Node(node)) => {
                let labels = json!({"topology.kubernetes.io/zone": node.zone});
                self.lab.patch_node(&node.name, &json!({"metadata": {"labels": labels}}))
            }
            Step::Delete(Name { kind: Service::KIND, name }) => self.delete::<ServiceObject>(name),
            Step::Delete(Name { kind: Slice::KIND, name }) => self.delete::<EndpointSlice>(name),
            Step::Put(Object::ServiceCidr(_)) | Step::Delete(_) => Ok(()),
        }
    }

    fn put_service(&self, service: &Service) -> Result<()> {
        let object: ServiceObject = serde_json::from_value(service.json())?;
        self.put(object)?;
        if service.kind == Type::LoadBalancer {
            let status = json!({"status": service.status()});
            self.lab.patch_service(&service.name, &status)?;
        }
        Ok(())
    }

    /// Creates an object, or makes the one with its name like it; where the API server does not
    /// allow that, the old one is deleted first.
    fn put<K>(&self, mut object: K) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize
            + Send
            + Sync
            + 'static,
    {
        object.meta_mut().creation_timestamp = None;
        self.lab.api()?.run(|client: Client| async move {
            let api = Api::<K>::default_namespaced(client);
            let name = object.name_any();
            if let Some(old) = api.get_opt(&name).await? {
                let mut next = object.clone();
                next.meta_mut().resource_version = old.resource_version();
                if let Ok(replaced) = api.replace(&name, &PostParams::default(), &next).await {
                    return Ok(replaced);
                }
                api.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(api.create(&PostParams::default(), &object).await?)
        })
    }

    fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let name = name.to_owned();
        self.lab.api()?.run(|client: Client| async move {
            let api = Api::<K>::default_namespaced(client);
            if api.get_opt(&name).await?.is_some() {
                api.delete(&name, &DeleteParams::default()).await?;
            }
            Ok(())
        })
    }

    /// Changes the sentinel: its port in the Service, its backend in the slices. A watch tells of
    /// changes in their order, so who follows both has seen all that came before.
    fn write_sentinel(&self, batch: u16) -> Result<()> {
        self.put::<ServiceObject>(serde_json::from_value(json!({
            "metadata": {"name": SENTINEL},
            "spec": {
                "clusterIP": SENTINEL_IPS[0], "clusterIPs": SENTINEL_IPS,
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"name": "http", "port": port_of(batch)}],
            },
        }))?)?;
        for (family, ip) in ["v4", "v6"].into_iter().zip(sentinel_backend(batch)) {
            self.put::<EndpointSlice>(serde_json::from_value(json!({
                "metadata": {
                    "name": format!("{SENTINEL}-{family}"),
                    "labels": {"kubernetes.io/service-name": SENTINEL},
                },
                "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
                "ports": [{"name": "http", "port": POD_PORTS[0], "protocol": "TCP"}],
                "endpoints": [{"addresses": [ip]}],
            }))?)?;
        }
        Ok(())
    }

    fn wait(&self, batch: u16) -> Result<()> {
        self.lab.nodes().iter().try_for_each(|node| wait_on(node, batch))
    }
}

fn wait_on(node: &Node, batch: u16) -> Result<()> {
    for (ip, backend) in SENTINEL_IPS.into_iter().zip(sentinel_backend(batch)) {
        let to = SocketAddr::new(ip.parse()?, port_of(batch));
        let mut ask = request(Proto::Tcp, to, "/localaddr");
        ask.timeout_ms = 300;
        let expected = SocketAddr::new(backend, POD_PORTS[0]).to_string();
        eventually(PATIENCE, || {
            let verdict = node.space.ask(&ask)?;
            let answer = verdict.answer();
            ensure!(answer == Some(&expected), "{}: {verdict}", node.spec.name);
            Ok(())
        })?;
    }
    Ok(())
}

fn port_of(batch: u16) -> u16 {
    1000 + batch % 10_000
}

/// Another pod in every batch.
fn sentinel_backend(batch: u16) -> [IpAddr; 2] {
    let spec = &NODES[usize::from(batch) % NODES.len()];
    spec.pod(PODS[usize::from(batch) / NODES.len() % PODS.len()]).both()
}

/// The node by which the client outside reaches an address that no node has.
pub(crate) fn via(to: IpAddr) -> &'static str {
    let texts = EXTERNAL.iter().chain(&BALANCED).map(|text| text.parse::<IpAddr>());
    let number = texts.flatten().position(|ip| ip == to);
    NODES[number.map_or(1, |number| number % NODES.len())].name
}

/// Linux sends few errors in a second to one address. So many probes would use them up, and
/// kube-proxy's rejections would look like silence.
fn allow_errors(lab: &Lab) -> Result<()> {
    const SETTINGS: [(&str, &str); 3] = [
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
    ];
    lab.nodes().iter().try_for_each(|node| {
        let settings = SETTINGS.map(|(path, value)| (path.to_owned(), value.to_owned()));
        node.space.tell(Op::Sysctl(settings.to_vec()))
    })
}

/// Sends what the client outside wants from Services to the nodes.
fn route_outside(lab: &Lab) -> Result<()> {
    let mut lines = String::new();
    let mut add = |range: &str, to: IpAddr| -> Result<()> {
        let next = lab.node(via(to))?.spec.address();
        let next: IpAddr = if to.is_ipv4() { next.v4.into() } else { next.v6.into() };
        writeln!(lines, "route replace {range} via {next}")?;
        Ok(())
    };
    for address in EXTERNAL.iter().chain(&BALANCED) {
        add(address, address.parse()?)?;
    }
    for range in SERVICE_RANGES {
        add(range, range.parse::<ipnet::IpNet>()?.addr())?;
    }
    lab.space(OUTSIDE)?.ip(&lines)
}

/// The addresses of each node.
pub(crate) fn own_addresses() -> Vec<(String, Vec<IpAddr>)> {
    let of = |spec: &lab::topology::NodeSpec| {
        spec.address().both().into_iter().chain(spec.pod(1).both()).collect()
    };
    NODES.iter().map(|spec| (spec.name.to_owned(), of(spec))).collect()
}
