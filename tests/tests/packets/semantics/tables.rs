//! What tables mean: the programs' lookups once more, in plain Rust and for all backends of a list
//! at once.

use datapath_common::{
    Addr, Address, AddressKind, BackendList, Be16, Frontend, FrontendFlags, FrontendKey, LpmKey,
    Protocol as IpProtocol, RouteKind, SlotKey,
};
use datapath_user::plan::Tables;
use lab::semantics::{Client, Packet, Source, Verdict, facts::Protocol};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

/// The verdict of the programs on a packet, given what the maps hold.
pub(super) fn read(tables: &Tables, packet: &Packet) -> Verdict {
    let to = Addr::from(packet.to.ip());
    let here = tables.addresses.get(&to);
    if let Some(frontend) = find(tables, packet, here) {
        return dialled(tables, packet, frontend);
    }
    if here.is_some() {
        return Verdict::NotAService;
    }
    if tables.frontends.contains_key(&FrontendKey::any_port(to)) {
        return Verdict::Rejected;
    }
    let routes = tables.routes.iter().filter(|(range, _)| covers(range, to));
    match routes.max_by_key(|(range, _)| range.prefix_len) {
        Some((_, route)) if route.kind == RouteKind::SERVICE => Verdict::Dropped,
        _ => Verdict::NotAService,
    }
}

fn find<'a>(tables: &'a Tables, packet: &Packet, here: Option<&Address>) -> Option<&'a Frontend> {
    let protocol = match packet.protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
        Protocol::Sctp => IpProtocol::SCTP,
    };
    let to = Addr::from(packet.to.ip());
    let key = FrontendKey::new(to, Be16::new(packet.to.port()), protocol);
    let node_ports = here.is_some_and(|here| here.flags & Address::NODE_PORT != 0);
    let node_port = FrontendKey { addr: to.wildcard(), ..key };
    let any = tables.frontends.get(&key);
    any.or_else(|| node_ports.then(|| tables.frontends.get(&node_port))?)
}

fn dialled(tables: &Tables, packet: &Packet, frontend: &Frontend) -> Verdict {
    let flags = frontend.flags;
    let source = packet.client.address();
    let admitted = tables.source_ranges.iter().any(|range| {
        let prefix = LpmKey { prefix_len: range.prefix_len - 32, addr: range.addr };
        range.service == frontend.service && covers(&prefix, source.into())
    });
    if flags.has(FrontendFlags::SOURCE_RANGES) && !admitted {
        return Verdict::Dropped;
    }
    let detected = tables.local_clients.iter().any(|range| covers(range, source.into()));
    let (inside, masquerade) = match packet.client {
        Client::Host(_) => (true, FrontendFlags::MASQUERADE_HOST),
        Client::Pod(_) if detected => (true, FrontendFlags::MASQUERADE_POD),
        Client::Pod(_) | Client::Outside(_) => (false, FrontendFlags::MASQUERADE_OUTSIDE),
    };
    let (list, drops) = if inside {
        (frontend.inside, FrontendFlags::DROP_INSIDE)
    } else {
        (frontend.outside, FrontendFlags::DROP_OUTSIDE)
    };
    if list.count == 0 {
        return if flags.has(drops) { Verdict::Dropped } else { Verdict::Rejected };
    }
    let hidden = |backend: IpAddr| {
        let on_host = tables.addresses.get(&backend.into()).map(|it| it.kind);
        match packet.client {
            Client::Host(_) => true,
            Client::Pod(_) | Client::Outside(_) => {
                on_host != Some(AddressKind::HOST) && (flags.has(masquerade) || backend == source)
            }
        }
    };
    let seen = |at: SocketAddr| if hidden(at.ip()) { Source::Node } else { Source::Kept };
    Verdict::Sent(backends(tables, list).map(|at| (at, seen(at))).collect::<BTreeMap<_, _>>())
}

/// What tables hold, with names in place of numbers: equal for equal contents of the maps.
pub(super) fn contents(tables: &Tables) -> BTreeSet<String> {
    let label = |service: u32| {
        let label = tables.services.get(&service).map_or(&[][..], |service| &service.label);
        String::from_utf8_lossy(label).trim_end_matches('\0').to_owned()
    };
    let frontends = tables.frontends.iter().map(|(key, frontend)| {
        let Frontend { service, inside, outside, affinity, flags, kind, pad: _ } = *frontend;
        let [inside, outside] = [inside, outside].map(|list| {
            let members = tables.members.iter().filter(|member| member.list == list.id).count();
            (backends(tables, list).collect::<Vec<_>>(), members)
        });
        let service = label(service);
        format!("{key:?}: {service} {inside:?} {outside:?} {affinity} {flags:?} {kind:?}")
    });
    let serving = tables
        .backends
        .values()
        .map(|backend| format!("{}: {} {:?}", label(backend.service), backend.addr, backend.port));
    let ranges = tables
        .source_ranges
        .iter()
        .map(|range| format!("{}: from {}/{}", label(range.service), range.addr, range.prefix_len));
    let addresses = tables.addresses.iter().map(|entry| format!("{entry:?}"));
    let routes = tables.routes.iter().map(|entry| format!("{entry:?}"));
    let clients = tables.local_clients.iter().map(|range| format!("{range:?}"));
    let of_node = addresses.chain(routes).chain(clients);
    frontends.chain(serving).chain(ranges).chain(of_node).collect()
}

fn backends(tables: &Tables, list: BackendList) -> impl Iterator<Item = SocketAddr> {
    (0..list.count).map(move |index| {
        let id = tables.slots[&SlotKey { list: list.id, index }];
        let backend = tables.backends[&id];
        SocketAddr::new(backend.addr.ip(), backend.port.host())
    })
}

fn covers(range: &LpmKey, addr: Addr) -> bool {
    let bits = |addr: Addr| u128::from_be_bytes(bytemuck::cast(addr.0));
    let shift = 128 - range.prefix_len;
    bits(range.addr).checked_shr(shift) == bits(addr).checked_shr(shift)
}
