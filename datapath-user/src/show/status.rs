//! The whole at a glance.

use super::table::table;
use crate::datapath::{Attachment, Error, Reader, device_names};
use datapath_common::{ABI_VERSION, AddressKind, ConfigFlags};
use serde::Serialize;
use std::{collections::BTreeMap, net::IpAddr, path::Path};

/// What `datapath status` tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    version: &'static str,
    abi: u32,
    bpffs: String,
    node_addresses: Vec<IpAddr>,
    uplink: Option<String>,
    native_routing: bool,
    masquerade_ports: Option<(u16, u16)>,
    masquerade_outside: bool,
    services: usize,
    frontends: usize,
    backends: usize,
    pods: usize,
    flow_entries: usize,
    attachments: Vec<AttachmentRow>,
    /// Packets and calls by outcome.
    counters: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    outcomes: Vec<(&'static str, u64)>,
}

#[derive(Debug, Serialize)]
struct AttachmentRow {
    program: String,
    place: String,
    kind: &'static str,
    attached: bool,
}

/// A map.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MapRow {
    name: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    entries: u64,
    max_entries: u32,
    entry_bytes: u32,
    /// From 0 to 1.
    fill: f64,
    /// Kernel memory, where the kernel says.
    memory_bytes: Option<u64>,
}

/// Gathers the status.
pub(super) fn read(reader: &Reader, bpffs: &Path) -> Result<Status, Error> {
    let tables = reader.tables()?;
    let config = reader.config()?;
    let devices = device_names()?;
    let counters = reader.counters()?;
    let outcomes: Vec<_> =
        counters.into_iter().map(|(outcome, count)| (outcome.name(), count)).collect();
    let node = config.iter().flat_map(|config| [config.node_v4, config.node_v6]);
    let pods = tables.addresses.values().filter(|entry| entry.kind == AddressKind::POD).count();
    Ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        abi: ABI_VERSION,
        bpffs: bpffs.display().to_string(),
        node_addresses: node.filter(|addr| !addr.is_unspecified()).map(|addr| addr.ip()).collect(),
        uplink: config.and_then(|config| devices.get(&config.uplink).cloned()),
        native_routing: config.is_some_and(|config| config.flags.has(ConfigFlags::NATIVE_ROUTING)),
        masquerade_ports: config
            .filter(|config| config.port_max > 0)
            .map(|config| (config.port_min, config.port_max)),
        masquerade_outside: config
            .is_some_and(|config| config.flags.has(ConfigFlags::MASQUERADE_OUTSIDE)),
        services: tables.services.len(),
        frontends: tables.frontends.values().filter(|frontend| frontend.service != 0).count(),
        backends: tables.backends.len(),
        pods,
        flow_entries: reader.flows()?.len(),
        attachments: reader.attachments()?.into_iter().map(attachment).collect(),
        counters: outcomes.iter().copied().collect(),
        outcomes,
    })
}

fn attachment(found: Attachment) -> AttachmentRow {
    let Attachment { program, place, kind, attached } = found;
    AttachmentRow { program, place, kind, attached }
}

/// A few lines, what is attached, and the outcomes that occurred.
pub(super) fn render(status: &Status) -> String {
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let addresses: Vec<_> = status.node_addresses.iter().map(ToString::to_string).collect();
    let outside = if status.masquerade_outside { ", pods to outside" } else { "" };
    let masquerade =
        status.masquerade_ports.map(|(from, to)| format!("ports {from} to {to}{outside}"));
    let mut text = format!(
        "datapath    {} (maps v{}) at {}\n\
         Node        {}\n\
         Uplink      {}\n\
         Routing     {}\n\
         Masquerade  {}\n\
         Services    ports {}, frontends {}, backends {}\n\
         Pods        {}\n\
         Flows       {} (half entries)\n\n",
        status.version,
        status.abi,
        status.bpffs,
        dash(addresses.join(", ")),
        dash(status.uplink.clone().unwrap_or_default()),
        if status.native_routing { "native" } else { "left to the node" },
        dash(masquerade.unwrap_or_default()),
        status.services,
        status.frontends,
        status.backends,
        status.pods,
        status.flow_entries,
    );
    text += &table(["attached to", "by", "programs"], attachment_lines(&status.attachments));
    let outcomes = status.outcomes.iter().filter(|(_, count)| *count > 0);
    let outcomes: Vec<_> =
        outcomes.map(|(name, count)| [(*name).to_owned(), count.to_string()]).collect();
    if !outcomes.is_empty() {
        text += "\n";
        text += &table(["outcome", "#count"], outcomes);
    }
    text
}

/// One line per place.
fn attachment_lines(attachments: &[AttachmentRow]) -> Vec<[String; 3]> {
    let mut places: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for row in attachments {
        let mut program = row.program.clone();
        if !row.attached {
            program += " (detached)";
        }
        places.entry((row.kind, &row.place)).or_default().push(program);
    }
    let line = |((kind, place), programs): ((&str, &str), Vec<String>)| {
        [place.to_owned(), kind.to_owned(), programs.join(" ")]
    };
    places.into_iter().map(line).collect()
}

/// All maps.
pub(super) fn read_maps(reader: &Reader) -> Result<Vec<MapRow>, Error> {
    let row = |map: crate::datapath::MapFill| MapRow {
        name: map.name,
        kind: map.kind,
        entries: map.entries,
        max_entries: map.max_entries,
        entry_bytes: map.entry_size,
        fill: fill(map.entries, map.max_entries),
        memory_bytes: map.memory,
    };
    Ok(reader.map_fill()?.into_iter().map(row).collect())
}

/// One line per map.
pub(super) fn render_maps(maps: &[MapRow]) -> String {
    let line = |map: &MapRow| {
        [
            map.name.to_owned(),
            map.kind.to_owned(),
            map.entries.to_string(),
            map.max_entries.to_string(),
            format!("{:.1}%", map.fill * 100.0),
            map.entry_bytes.to_string(),
            map.memory_bytes.map_or_else(|| "-".to_owned(), kibibytes),
        ]
    };
    let header = ["map", "type", "#entries", "#size", "#fill", "#bytes each", "#memory"];
    let mut rows: Vec<_> = maps.iter().map(line).collect();
    let all: Option<u64> = maps.iter().map(|map| map.memory_bytes).sum();
    if let Some(all) = all {
        let none = String::new;
        rows.push(["all".to_owned(), none(), none(), none(), none(), none(), kibibytes(all)]);
    }
    table(header, rows)
}

/// A number of bytes, in KiB.
fn kibibytes(bytes: u64) -> String {
    format!("{} KiB", bytes.div_ceil(1024))
}

fn fill(entries: u64, max: u32) -> f64 {
    // Both are far below the numbers that a double no longer holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "at most 32 bits")]
    let entries = entries as f64;
    entries / f64::from(max.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_gathered_by_place() {
        let row = |program: &str, place: &str, kind, attached| AttachmentRow {
            program: program.into(),
            place: place.into(),
            kind,
            attached,
        };
        let lines = attachment_lines(&[
            row("to_pod", "veth1", "tcx", true),
            row("from_pod", "veth1", "tcx", false),
            row("connect4", "cgroup", "cgroup", true),
        ]);
        assert_eq!(lines[0], ["cgroup", "cgroup", "connect4"]);
        assert_eq!(lines[1], ["veth1", "tcx", "to_pod from_pod (detached)"]);
    }

    #[test]
    fn maps_are_shown_with_what_they_take() {
        let row = |name, memory_bytes| MapRow {
            name,
            kind: "hash",
            entries: 1,
            max_entries: 8,
            entry_bytes: 12,
            fill: 0.125,
            memory_bytes,
        };
        let text = render_maps(&[row("SLOTS", Some(2049)), row("MEMBERS", Some(1024))]);
        assert!(
            text.contains("SLOTS    hash        1     8  12.5%          12   3 KiB\n"),
            "{text}"
        );
        let last: Vec<_> =
            text.lines().last().into_iter().flat_map(str::split_whitespace).collect();
        assert_eq!(last, ["all", "4", "KiB"], "{text}");
        assert!(!render_maps(&[row("SLOTS", None)]).contains("all"), "an older kernel");
    }

    #[test]
    fn fill_is_a_fraction() {
        assert!((fill(1, 4) - 0.25).abs() < f64::EPSILON);
        assert!(fill(0, 0).abs() < f64::EPSILON);
    }
}
