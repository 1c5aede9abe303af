//! Frames, as they come to a node: the kernel makes them where a network card's driver would, so that what
//! is measured is what the node does with them.

use super::order::Report;
use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::ProgramArray,
    programs::{TestRunAttrs, TestRunOptions, Xdp, loaded_programs},
};
use etherparse::PacketBuilder;
use lab::topology::MYK8S;
use serde::Deserialize;
use std::{
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// The node's device.
const DEVICE: &str = "eth0";
/// Frames that the driver handles in a row, as most do.
const BATCH: u32 = 64;
/// Frames between two looks at the clock.
const TURN: u32 = 16_384;
/// Payload in bytes: enough for a frame that the node's link refuses.
const PAYLOAD: usize = 46;
/// The frame's length without the checksum that a card takes off.
const LENGTH: usize = 14 + 20 + 8 + PAYLOAD;
/// The port that it comes from.
const PORT: u16 = 40_000;
/// The MAC address that it comes from: nobody looks at it.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// `XDP_ATTACHED_DRV` of the kernel.
const BY_DRIVER: u8 = 1;

/// Lets the frame of a datagram from outside arrive again and again, and counts how often the node hands
/// one to its device.
pub(super) fn arrive(to: SocketAddr, whole: Duration) -> Result<Report> {
    let SocketAddr::V4(to) = to else { bail!("frames are of IPv4") };
    let device = Device::look()?;
    let frame = frame(device.mac()?, SocketAddrV4::new(MYK8S.outside.v4, PORT), to)?;
    let mut card = card(&frame, &device)?;
    let card: &mut Xdp = card.program_mut("receive").context("no program")?.try_into()?;
    card.load()?;
    // The kernel's `struct xdp_md`: start and end of the frame, the device that it came by.
    let context: [u8; 24] = bytemuck::cast([0, LENGTH as u32, 0, device.ifindex, 0, 0]);
    let arrive_for = |time: Duration| {
        let (start, mut took, mut arrived) = (Instant::now(), Duration::ZERO, 0);
        while start.elapsed() < time {
            let turn = card.test_run(TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: TURN,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            })?;
            // Without what the kernel needs to begin and to end such a turn: it waits for all CPUs then.
            took += turn.duration * TURN;
            arrived += u64::from(TURN);
        }
        anyhow::Ok((took, arrived))
    };
    arrive_for(whole / 10)?;
    let before = Device::look()?.sent();
    let (took, arrived) = arrive_for(whole)?;
    let requests = Device::look()?.sent() - before;
    Ok(Report {
        nanos: took.as_nanos() as u64,
        requests,
        failures: arrived.saturating_sub(requests),
        failure: (requests < arrived).then(|| "not sent on".to_owned()),
        ..Report::default()
    })
}

/// What `ip` says of the device.
#[derive(Deserialize)]
struct Device {
    ifindex: u32,
    address: String,
    xdp: Option<Attached>,
    stats64: Statistics,
}

#[derive(Deserialize)]
struct Attached {
    mode: u8,
    prog: Program,
}

#[derive(Deserialize)]
struct Program {
    id: u32,
}

#[derive(Deserialize)]
struct Statistics {
    tx: Sent,
}

#[derive(Deserialize)]
struct Sent {
    packets: u64,
    dropped: u64,
}

impl Device {
    fn look() -> Result<Self> {
        let arguments = ["-json", "-statistics", "link", "show", "dev", DEVICE];
        let output = Command::new("ip").args(arguments).output().context("run ip")?;
        let devices: Vec<Self> = serde_json::from_slice(&output.stdout).context("read from ip")?;
        devices.into_iter().next().with_context(|| format!("no device {DEVICE}"))
    }

    fn mac(&self) -> Result<[u8; 6]> {
        let bytes = self.address.split(':').map(|byte| u8::from_str_radix(byte, 16));
        let bytes = bytes.collect::<Result<Vec<_>, _>>()?;
        bytes.try_into().ok().with_context(|| format!("{} is no MAC address", self.address))
    }

    /// What the node has handed to it, be it that the other end refuses it.
    const fn sent(&self) -> u64 {
        self.stats64.tx.packets + self.stats64.tx.dropped
    }
}

/// The card, with what its driver runs.
fn card(frame: &[u8; LENGTH], device: &Device) -> Result<Ebpf> {
    let words: [u32; LENGTH / 4] = bytemuck::cast(*frame);
    let object = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../target/ebpf/bpfel-unknown-none/release/datapath-bench-ebpf");
    let mut card = EbpfLoader::new()
        .override_global("FRAME", &words, true)
        .load_file(&object)
        .with_context(|| format!("load {}", object.display()))?;
    let Some(attached) = device.xdp.as_ref().filter(|xdp| xdp.mode == BY_DRIVER) else {
        return Ok(card);
    };
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == attached.prog.id)
        .context("the driver's program is gone")?;
    let mut driver = ProgramArray::try_from(card.map_mut("DRIVER").context("no map")?)?;
    driver.set(0, &program.fd()?, 0)?;
    Ok(card)
}

/// A datagram in its frame.
fn frame(mac: [u8; 6], from: SocketAddrV4, to: SocketAddrV4) -> Result<[u8; LENGTH]> {
    let mut frame = Vec::with_capacity(LENGTH);
    PacketBuilder::ethernet2(SENDER, mac)
        .ipv4(from.ip().octets(), to.ip().octets(), 64)
        .udp(from.port(), to.port())
        .write(&mut frame, &[0; PAYLOAD])?;
    frame.try_into().ok().context("a frame of another length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ip_says_of_a_device_is_understood() {
        let text = r#"{"ifindex": 2, "address": "02:00:00:00:01:0a",
            "xdp": {"mode": 1, "prog": {"id": 7, "jited": 1}},
            "stats64": {"rx": {"packets": 1}, "tx": {"packets": 40, "dropped": 2}}}"#;
        let device: Device = serde_json::from_str(text).expect("a device");
        assert_eq!(device.mac().expect("a MAC address"), [2, 0, 0, 0, 1, 10]);
        assert_eq!((device.ifindex, device.sent()), (2, 42));
        assert!(device.xdp.is_some_and(|xdp| xdp.mode == BY_DRIVER && xdp.prog.id == 7));
    }
}
