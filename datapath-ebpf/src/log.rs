//! The programs' own diagnostics. Without the feature `log` they are not there at all: each would cost
//! hundreds of instructions where it stands.

use crate::packet::Packet;
use aya_ebpf::programs::TcContext;
use datapath_common::Outcome;

/// A packet was rejected or dropped.
#[cfg(feature = "log")]
#[inline(always)]
pub(crate) fn refused(context: &TcContext, packet: &Packet, outcome: Outcome) {
    let [src, dst]: [[u8; 16]; 2] = [packet.tuple.src.0, packet.tuple.dst.0].map(bytemuck::cast);
    aya_log_ebpf::debug!(
        context,
        "{:i} port {} > {:i} port {} protocol {}: outcome {}",
        src,
        packet.tuple.ports.src.host(),
        dst,
        packet.tuple.ports.dst.host(),
        packet.tuple.protocol.0,
        outcome as u32
    );
}

/// Nothing, without the feature.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub(crate) fn refused(_: &TcContext, _: &Packet, _: Outcome) {}
