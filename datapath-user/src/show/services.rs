//! Services with their frontends and backends.

use super::table::{endpoint, list, seconds, table};
use crate::{
    datapath::{Error, Reader},
    model::{Algorithm, Forwarding},
    plan::Tables,
};
use datapath_common::{
    BackendList, Frontend, FrontendFlags, FrontendKey, Service, ServiceStats, SlotKey,
};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};

/// A port of a service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    id: u32,
    /// What it belongs to: a Service, or a Pod with host ports.
    kind: &'static str,
    namespace: String,
    name: String,
    port_name: String,
    protocol: String,
    types: Vec<&'static str>,
    /// Seconds; 0 for none.
    session_affinity: u32,
    /// How the backends of packets are chosen.
    algorithm: &'static str,
    /// How what comes from outside reaches backends on other nodes.
    forwarding: &'static str,
    frontends: Vec<FrontendRow>,
    backends: Vec<BackendRow>,
    flows: u64,
    sockets: u64,
    refused: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FrontendRow {
    #[serde(rename = "type")]
    kind: &'static str,
    address: String,
    /// Whether it is for what other nodes pass on.
    passed_on: bool,
    /// Clients whose source address is replaced.
    masquerade: Vec<&'static str>,
    source_ranges: bool,
    /// Backends for pods and processes of this node.
    inside: Choice,
    /// Backends for all others.
    outside: Choice,
}

/// What a client gets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Choice {
    backends: Vec<u32>,
    /// What happens if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    otherwise: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendRow {
    id: u32,
    address: String,
    /// `active`, or `draining` if no list holds it any more.
    state: &'static str,
}

impl ServicePort {
    /// Whether this is a port of the service `NS/NAME`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        name.split_once('/') == Some((&self.namespace, &self.name))
    }
}

/// All services, sorted by name.
pub(super) fn read(reader: &Reader) -> Result<Vec<ServicePort>, Error> {
    Ok(build(&reader.tables()?, &reader.service_stats()?))
}

fn build(tables: &Tables, stats: &HashMap<u32, ServiceStats>) -> Vec<ServicePort> {
    let mut frontends: HashMap<u32, Vec<(&FrontendKey, &Frontend)>> = HashMap::new();
    for (key, frontend) in &tables.frontends {
        frontends.entry(frontend.service).or_default().push((key, frontend));
    }
    let mut backends: HashMap<u32, Vec<u32>> = HashMap::new();
    for (id, backend) in &tables.backends {
        backends.entry(backend.service).or_default().push(*id);
    }
    let mut ports: Vec<_> = tables
        .services
        .iter()
        .map(|(id, service)| {
            let stats = stats.get(id).copied().unwrap_or_default();
            let frontends = frontends.remove(id).unwrap_or_default();
            port(*id, service, tables, frontends, backends.remove(id).unwrap_or_default(), stats)
        })
        .collect();
    ports.sort_by(|a, b| {
        let key = |port: &ServicePort| {
            (
                port.namespace.clone(),
                port.name.clone(),
                port.port_name.clone(),
                port.protocol.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    ports
}

fn port(
    id: u32,
    service: &Service,
    tables: &Tables,
    mut frontends: Vec<(&FrontendKey, &Frontend)>,
    mut backends: Vec<u32>,
    stats: ServiceStats,
) -> ServicePort {
    let (kind, namespace, name, port_name, protocol) = parse_label(service);
    frontends.sort_by_key(|(key, frontend)| {
        (frontend.kind.0, !key.addr.is_v4(), key.addr.ip(), key.port.host(), key.origin)
    });
    backends.sort_unstable();
    let mut types: Vec<_> = frontends.iter().map(|(_, frontend)| frontend.kind.name()).collect();
    types.dedup();
    let maglev = frontends.iter().any(|(_, frontend)| frontend.flags.has(FrontendFlags::MAGLEV));
    let dsr = frontends.iter().any(|(_, frontend)| frontend.flags.has(FrontendFlags::DSR));
    let session_affinity = frontends.iter().map(|(_, frontend)| frontend.affinity).max();
    let frontends: Vec<_> =
        frontends.into_iter().map(|(key, frontend)| frontend_row(key, frontend, tables)).collect();
    let active: BTreeSet<u32> = frontends
        .iter()
        .flat_map(|row| row.inside.backends.iter().chain(&row.outside.backends))
        .copied()
        .collect();
    let backends = backends.into_iter().filter_map(|id| {
        let backend = tables.backends.get(&id)?;
        Some(BackendRow {
            id,
            address: endpoint(backend.addr, backend.port),
            state: if active.contains(&id) { "active" } else { "draining" },
        })
    });
    ServicePort {
        id,
        kind,
        namespace,
        name,
        port_name,
        protocol,
        types,
        session_affinity: session_affinity.unwrap_or_default(),
        algorithm: if maglev { Algorithm::Maglev } else { Algorithm::Random }.name(),
        forwarding: if dsr { Forwarding::Dsr } else { Forwarding::Snat }.name(),
        backends: backends.collect(),
        frontends,
        flows: stats.flows,
        sockets: stats.sockets,
        refused: stats.refused,
    }
}

fn frontend_row(key: &FrontendKey, frontend: &Frontend, tables: &Tables) -> FrontendRow {
    let masquerade = [
        (FrontendFlags::MASQUERADE_POD, "pods"),
        (FrontendFlags::MASQUERADE_HOST, "host"),
        (FrontendFlags::MASQUERADE_OUTSIDE, "outside"),
    ];
    let choice = |list: BackendList, drop| {
        let slot = |index| tables.slots.get(&SlotKey { list: list.id, index }).copied();
        let backends: Vec<u32> = (0..list.count).filter_map(slot).collect();
        let otherwise = if frontend.flags.has(drop) { "drop" } else { "reject" };
        let otherwise = backends.is_empty().then_some(otherwise);
        Choice { backends, otherwise }
    };
    FrontendRow {
        kind: frontend.kind.name(),
        address: endpoint(key.addr, key.port),
        passed_on: key.origin == FrontendKey::PASSED_ON,
        masquerade: masquerade
            .into_iter()
            .filter_map(|(flag, name)| frontend.flags.has(flag).then_some(name))
            .collect(),
        source_ranges: frontend.flags.has(FrontendFlags::SOURCE_RANGES),
        inside: choice(frontend.inside, FrontendFlags::DROP_INSIDE),
        outside: choice(frontend.outside, FrontendFlags::DROP_OUTSIDE),
    }
}

/// Takes `namespace/name:port/PROTO` or `namespace/name/PROTO` apart, `pod` before it if it is no
/// Service's.
fn parse_label(service: &Service) -> (&'static str, String, String, String, String) {
    let text = label(service);
    let (kind, text) = match text.strip_prefix("pod ") {
        Some(rest) => ("Pod", rest),
        None => ("Service", &*text),
    };
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, ""));
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    let (name, port) = name.split_once(':').unwrap_or((name, ""));
    (kind, namespace.to_owned(), name.to_owned(), port.to_owned(), protocol.to_owned())
}

/// The label's text.
pub(super) fn label(service: &Service) -> String {
    let end = service.label.iter().position(|byte| *byte == 0).unwrap_or(service.label.len());
    String::from_utf8_lossy(&service.label[..end]).into_owned()
}

/// One line per port.
pub(super) fn render(ports: &[ServicePort]) -> String {
    let row = |port: &ServicePort| {
        let direct = port.frontends.iter().filter(|row| !row.passed_on);
        let addresses: Vec<_> = direct.map(|row| row.address.clone()).collect();
        let draining = port.backends.iter().filter(|row| row.state == "draining").count();
        let active = port.backends.len() - draining;
        let backends =
            if draining > 0 { format!("{active}+{draining}") } else { active.to_string() };
        [
            port.namespace.clone(),
            port.name.clone(),
            if port.port_name.is_empty() { "-".to_owned() } else { port.port_name.clone() },
            port.protocol.clone(),
            list(&port.types.iter().map(ToString::to_string).collect::<Vec<_>>(), 4),
            list(&addresses, 3),
            backends,
            port.flows.to_string(),
            port.sockets.to_string(),
        ]
    };
    let header = [
        "namespace",
        "name",
        "port",
        "proto",
        "type",
        "frontends",
        "#backends",
        "#flows",
        "#sockets",
    ];
    table(header, ports.iter().map(row).collect())
}

/// Everything about a few ports.
pub(super) fn render_details(ports: &[ServicePort]) -> String {
    ports.iter().map(details).collect::<Vec<_>>().join("\n")
}

fn details(port: &ServicePort) -> String {
    let ServicePort {
        id,
        kind,
        namespace,
        name,
        protocol,
        algorithm,
        forwarding,
        flows,
        sockets,
        refused,
        ..
    } = port;
    let port_name = match port.port_name.as_str() {
        "" => String::new(),
        name => format!(" port {name}"),
    };
    let affinity = match port.session_affinity {
        0 => "none".to_owned(),
        time => format!("by client address, {}", seconds(time.into())),
    };
    let choice = |choice: &Choice| match choice.otherwise {
        Some(otherwise) => otherwise.to_owned(),
        None if choice.backends.len() == 1 => "1 backend".to_owned(),
        None => format!("{} backends", choice.backends.len()),
    };
    let frontend = |row: &FrontendRow| {
        let masquerade: Vec<_> = row.masquerade.iter().map(ToString::to_string).collect();
        [
            row.kind.to_owned(),
            row.address.clone() + if row.passed_on { " passed on" } else { "" },
            choice(&row.inside),
            choice(&row.outside),
            list(&masquerade, 3),
            if row.source_ranges { "yes" } else { "-" }.to_owned(),
        ]
    };
    let header = ["type", "frontend", "inside", "outside", "masquerade", "source ranges"];
    let frontends = table(header, port.frontends.iter().map(frontend).collect());
    let backend =
        |row: &BackendRow| [row.id.to_string(), row.address.clone(), row.state.to_owned()];
    let backends = table(["#id", "backend", "state"], port.backends.iter().map(backend).collect());
    format!(
        "{kind:<8}  {namespace}/{name}{port_name} {protocol} (id {id})\n\
         Affinity  {affinity}\n\
         Choice    {algorithm}\n\
         Outside   {forwarding}\n\
         Traffic   {flows} flows at tc, {sockets} sockets, {refused} refused\n\n\
         {frontends}\n{backends}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use datapath_common::{Backend, Be16, FrontendKind, Protocol};
    use std::net::Ipv4Addr;

    fn service(text: &str) -> Service {
        let mut label = [0; 192];
        label[..text.len()].copy_from_slice(text.as_bytes());
        Service { label }
    }

    fn tables() -> Tables {
        let mut tables = Tables::default();
        tables.services.insert(7, service("default/web:http/TCP"));
        let addr = Ipv4Addr::new(10, 10, 1, 2).into();
        for id in [3, 4] {
            let port = Be16::new(8080);
            let backend = Backend { addr, port, protocol: Protocol::TCP, pad: 0, service: 7 };
            tables.backends.insert(id, backend);
        }
        tables.slots.insert(SlotKey { list: 1, index: 0 }, 3);
        let frontend = Frontend {
            service: 7,
            inside: BackendList { id: 1, count: 1 },
            outside: BackendList::default(),
            affinity: 0,
            flags: FrontendFlags::DROP_OUTSIDE.with(FrontendFlags::MASQUERADE_HOST),
            kind: FrontendKind::NODE_PORT,
            pad: 0,
        };
        let wildcard = datapath_common::Addr::UNSPECIFIED_V4;
        let key = FrontendKey::new(wildcard, Be16::new(30080), Protocol::TCP);
        tables.frontends.insert(key, frontend);
        tables
    }

    #[test]
    fn labels_are_taken_apart() {
        let parts = |text: &str| parse_label(&service(text));
        for (text, kind, [namespace, name, port, protocol]) in [
            ("ns/web:http/TCP", "Service", ["ns", "web", "http", "TCP"]),
            ("ns/web/UDP", "Service", ["ns", "web", "", "UDP"]),
            ("pod ns/web:8080/TCP", "Pod", ["ns", "web", "8080", "TCP"]),
            ("pod ns/web:[::1]:8080/TCP", "Pod", ["ns", "web", "[::1]:8080", "TCP"]),
        ] {
            let expected = (kind, namespace.into(), name.into(), port.into(), protocol.into());
            assert_eq!(parts(text), expected);
        }
    }

    #[test]
    fn a_service_is_shown_with_what_its_clients_get() {
        let stats = ServiceStats { flows: 5, sockets: 6, refused: 0 };
        let ports = build(&tables(), &[(7, stats)].into());
        assert_eq!(
            render(&ports),
            "NAMESPACE  NAME  PORT  PROTO  TYPE      FRONTENDS  BACKENDS  FLOWS  SOCKETS\n\
             default    web   http  TCP    NodePort  *:30080         1+1      5        6\n"
        );
        let text = render_details(&ports);
        assert!(text.contains("NodePort  *:30080   1 backend  drop     host        -"), "{text}");
        assert!(text.contains("4  10.10.1.2:8080  draining"), "{text}");
        assert!(ports[0].is_called("default/web"));
        assert!(!ports[0].is_called("default/we"));
        let json = serde_json::to_value(&ports).expect("JSON");
        assert_eq!(json[0]["frontends"][0]["outside"]["otherwise"], "drop");
        assert_eq!(json[0]["portName"], "http");
        assert_eq!(json[0]["algorithm"], "random");
        assert_eq!(json[0]["forwarding"], "snat");
    }

    #[test]
    fn direct_server_return_is_shown_with_what_other_nodes_pass_on() {
        let mut tables = tables();
        let (key, frontend) = tables.frontends.iter_mut().next().expect("a frontend");
        frontend.flags = frontend.flags.with(FrontendFlags::DSR);
        let (key, here) = (key.passed_on(), BackendList { id: 1, count: 1 });
        let flags = FrontendFlags::default();
        let passed_on = Frontend { inside: here, outside: here, flags, ..*frontend };
        tables.frontends.insert(key, passed_on);
        let ports = build(&tables, &HashMap::new());
        // In the overview it is one frontend.
        assert!(render(&ports).contains("  *:30080    "), "{}", render(&ports));
        let text = render_details(&ports);
        for line in [
            "Outside   dsr\n",
            "NodePort  *:30080            1 backend  drop       host        -",
            "NodePort  *:30080 passed on  1 backend  1 backend  -           -",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let json = serde_json::to_value(&ports).expect("JSON");
        assert_eq!(json[0]["forwarding"], "dsr");
        assert_eq!(json[0]["frontends"][0]["passedOn"], false);
        assert_eq!(json[0]["frontends"][1]["passedOn"], true);
    }
}
