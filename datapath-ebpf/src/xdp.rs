//! The program of an uplink that sees frames before the kernel has made packets of them.

use crate::{
    frame::Frame,
    maps::{self, count},
    transit,
};
use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    programs::XdpContext,
};
use datapath_common::Outcome;

/// Sends back out what [`transit`] turns round, and passes everything else up.
#[inline(always)]
pub(crate) fn run(context: &XdpContext) -> u32 {
    let Some(packet) = maps::PACKET.get_ptr_mut(maps::XDP) else { return XDP_PASS };
    // SAFETY: the entry is this CPU's own, and no other XDP program of ours runs on it meanwhile.
    let packet = unsafe { &mut *packet };
    match transit::turn(packet, Frame::new(context)) {
        None => XDP_PASS,
        Some(Ok(())) => {
            count(Outcome::ToNode);
            count(Outcome::TurnedRound);
            XDP_TX
        }
        Some(Err(outcome)) => {
            count(outcome);
            XDP_DROP
        }
    }
}
