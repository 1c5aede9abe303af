//! The flow table.

use super::{
    FlowFilter,
    services::label,
    table::{endpoint, seconds, table},
};
use crate::datapath::{Error, Reader, monotonic_now};
use datapath_common::{Flow, FlowFlags, Protocol, Service, Timeouts, Tuple};
use serde::Serialize;
use std::collections::HashMap;

/// A flow: both halves.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlowRow {
    protocol: String,
    client: String,
    frontend: String,
    backend: String,
    /// The source that the backend sees, if it is not the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    masquerade: Option<String>,
    /// Whether it is passed on as it is to the backend's node, which answers the client directly.
    dsr: bool,
    service: String,
    state: &'static str,
    packets: u64,
    bytes: u64,
    reply_packets: u64,
    reply_bytes: u64,
    idle_seconds: u64,
    expires_seconds: u64,
}

/// The flows that `filter` lets through, the latest first.
pub(super) fn read(reader: &Reader, filter: &FlowFilter) -> Result<Vec<FlowRow>, Error> {
    let timeouts = reader.config()?.map_or(Timeouts::DEFAULT, |config| config.timeouts);
    let services = reader.tables()?.services;
    Ok(build(&reader.flows()?, &services, &timeouts, monotonic_now(), filter))
}

fn build(
    flows: &HashMap<Tuple, Flow>,
    services: &HashMap<u32, Service>,
    timeouts: &Timeouts,
    now: u64,
    filter: &FlowFilter,
) -> Vec<FlowRow> {
    let wanted = |tuple: &Tuple, flow: &Flow| {
        filter.address.is_none_or(|address| {
            [tuple.src, tuple.dst, flow.to.src, flow.to.dst].iter().any(|one| one.ip() == address)
        })
    };
    let mut rows: Vec<_> = flows
        .iter()
        .filter(|(tuple, flow)| flow.flags.has(FlowFlags::FORWARD) && wanted(tuple, flow))
        .map(|(tuple, flow)| {
            let reply = flows.get(&flow.mirror_of(tuple).0);
            let service = services.get(&flow.service).map(label);
            row(tuple, flow, reply, service.unwrap_or_else(|| "-".to_owned()), timeouts, now)
        })
        .filter(|row| {
            filter.service.as_ref().is_none_or(|name| {
                let rest = row.service.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.starts_with([':', '/']))
            })
        })
        .collect();
    rows.sort_by(|a, b| (a.idle_seconds, &a.client).cmp(&(b.idle_seconds, &b.client)));
    if filter.limit > 0 {
        rows.truncate(filter.limit);
    }
    rows
}

fn row(
    tuple: &Tuple,
    flow: &Flow,
    reply: Option<&Flow>,
    service: String,
    timeouts: &Timeouts,
    now: u64,
) -> FlowRow {
    let reply_flags = reply.map_or(FlowFlags::default(), |reply| reply.flags);
    let last_seen = flow.last_seen.max(reply.map_or(0, |reply| reply.last_seen));
    let idle = now.saturating_sub(last_seen) / 1_000_000_000;
    let timeout = u64::from(timeouts.of(tuple.protocol, flow.flags, reply_flags));
    let dsr = flow.flags.has(FlowFlags::DSR);
    let translated = flow.to.src != tuple.src || flow.to.ports.src != tuple.ports.src;
    FlowRow {
        protocol: format!("{:?}", tuple.protocol),
        client: endpoint(tuple.src, tuple.ports.src),
        frontend: endpoint(tuple.dst, tuple.ports.dst),
        backend: endpoint(flow.to.dst, flow.to.ports.dst),
        masquerade: translated.then(|| endpoint(flow.to.src, flow.to.ports.src)),
        dsr,
        service,
        state: state(tuple.protocol, flow.flags, reply_flags),
        packets: flow.packets,
        bytes: flow.bytes,
        reply_packets: reply.map_or(0, |reply| reply.packets),
        reply_bytes: reply.map_or(0, |reply| reply.bytes),
        idle_seconds: idle,
        expires_seconds: timeout.saturating_sub(idle),
    }
}

/// The state in which [`Timeouts::of`] sees the flow.
fn state(protocol: Protocol, one: FlowFlags, other: FlowFlags) -> &'static str {
    let any = one.with(other);
    let other = if one.has_any(FlowFlags::SINGLE) { one } else { other };
    let both = FlowFlags(one.0 & other.0);
    match protocol {
        Protocol::TCP if any.has(FlowFlags::RST) => "reset",
        Protocol::TCP if both.has(FlowFlags::FIN) => "closed",
        Protocol::TCP if any.has(FlowFlags::FIN) => "half-closed",
        Protocol::TCP if both.has(FlowFlags::ACKED) => "established",
        Protocol::TCP => "opening",
        _ if one.has_any(FlowFlags::SINGLE) => "passed-on",
        _ if both.has(FlowFlags::SEEN) => "answered",
        _ => "unanswered",
    }
}

/// One line per flow.
pub(super) fn render(rows: &[FlowRow]) -> String {
    let header = [
        "proto",
        "client",
        "frontend",
        "backend",
        "masquerade",
        "service",
        "state",
        "#packets",
        "#replies",
        "#idle",
    ];
    let line = |row: &FlowRow| {
        [
            row.protocol.clone(),
            row.client.clone(),
            row.frontend.clone(),
            row.backend.clone(),
            row.masquerade.as_deref().unwrap_or(if row.dsr { "dsr" } else { "-" }).to_owned(),
            row.service.clone(),
            row.state.to_owned(),
            row.packets.to_string(),
            row.reply_packets.to_string(),
            seconds(row.idle_seconds),
        ]
    };
    table(header, rows.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;
    use datapath_common::{Addr, Be16, Ports};
    use std::net::Ipv4Addr;

    fn ip(last: u8) -> Addr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn ports(src: u16, dst: u16) -> Ports {
        Ports { src: Be16::new(src), dst: Be16::new(dst) }
    }

    fn dialled(protocol: Protocol) -> Tuple {
        Tuple { src: ip(1), dst: ip(2), ports: ports(4000, 80), protocol, ..Tuple::default() }
    }

    #[test]
    fn both_halves_make_one_line() {
        let key = dialled(Protocol::TCP);
        let to = Tuple { src: ip(9), dst: ip(3), ports: ports(61_000, 8080), ..key };
        let open = FlowFlags::SEEN.with(FlowFlags::ACKED);
        let flags = open.with(FlowFlags::FORWARD);
        let flow =
            Flow { to, flags, packets: 5, service: 7, last_seen: 2_000_000_000, ..Flow::zeroed() };
        let (reply, back) = flow.mirror_of(&key);
        let mirror = Flow { to: back, flags: open, packets: 4, ..Flow::zeroed() };
        let flows = HashMap::from([(key, flow), (reply, mirror)]);
        let mut name = [0; 192];
        name[..20].copy_from_slice(b"default/web:http/TCP");
        let services = HashMap::from([(7, Service { label: name })]);
        let shown = |filter: &FlowFilter| {
            build(&flows, &services, &Timeouts::DEFAULT, 5_000_000_000, filter)
        };
        let rows = shown(&FlowFilter::default());
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].packets, rows[0].reply_packets), (5, 4));
        assert_eq!((rows[0].idle_seconds, rows[0].expires_seconds), (3, 86_397));
        assert_eq!(rows[0].masquerade.as_deref(), Some("10.0.0.9:61000"));
        assert_eq!(rows[0].state, "established");
        let service =
            |name: &str| FlowFilter { service: Some(name.into()), ..FlowFilter::default() };
        assert_eq!(shown(&service("default/web")).len(), 1);
        assert_eq!(shown(&service("default/we")).len(), 0);
        let address = Some("10.0.0.3".parse().expect("an address"));
        assert_eq!(shown(&FlowFilter { address, ..FlowFilter::default() }).len(), 1);
        let address = Some("10.0.0.4".parse().expect("an address"));
        assert_eq!(shown(&FlowFilter { address, ..FlowFilter::default() }).len(), 0);
    }

    /// Nothing is seen of the answers: what the client sends says how the flow is.
    #[test]
    fn what_is_passed_on_says_so() {
        let flags = FlowFlags::FORWARD.with(FlowFlags::DSR).with(FlowFlags::SEEN);
        for (protocol, more, state, expires) in [
            (Protocol::TCP, FlowFlags::default(), "opening", 120),
            (Protocol::TCP, FlowFlags::ACKED, "established", 86_400),
            (Protocol::TCP, FlowFlags::ACKED.with(FlowFlags::FIN), "closed", 120),
            (Protocol::TCP, FlowFlags::RST, "reset", 10),
            (Protocol::UDP, FlowFlags::default(), "passed-on", 120),
        ] {
            let key = dialled(protocol);
            let to = Tuple { dst: ip(3), ports: ports(4000, 8080), ..key };
            let flow = Flow { to, flags: flags.with(more), packets: 5, ..Flow::zeroed() };
            let flows = HashMap::from([(key, flow)]);
            let filter = FlowFilter::default();
            let rows = build(&flows, &HashMap::new(), &Timeouts::DEFAULT, 0, &filter);
            let row = rows.first().expect("one line");
            assert_eq!((row.state, row.expires_seconds), (state, expires), "{protocol:?}");
            assert_eq!((row.dsr, row.masquerade.as_deref(), row.reply_packets), (true, None, 0));
            let text = render(&rows);
            assert!(text.contains("  10.0.0.3:8080  dsr  "), "{text}");
            let json = serde_json::to_value(&rows).expect("JSON");
            assert_eq!(json[0]["dsr"], true);
        }
    }
}
