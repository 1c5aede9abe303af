//! Forgetting flows that have idled too long.
//!
//! It runs in the kernel, so that nothing lies between the look at a flow and its removal: a flow
//! that was used a moment ago is never removed. Both halves count, and both go together.

use crate::{
    maps::{FLOWS, SERVICES, config},
    service::now,
};
use aya_ebpf::{cty::c_void, helpers::generated::bpf_for_each_map_elem};
use datapath_common::{Flow, FlowFlags, Timeouts, Tuple};

/// What one run works with.
struct Sweep {
    now: u64,
    timeouts: Timeouts,
    removed: u32,
}

/// Goes through `FLOWS` once; returns how many entries were removed.
pub(crate) fn sweep() -> i32 {
    let Some(config) = config() else { return 0 };
    // No program reads `SERVICES`; a map that none mentions would not be in the object file.
    let _ = SERVICES.get_ptr(&0);
    let mut sweep = Sweep { now: now(), timeouts: config.timeouts, removed: 0 };
    let callback: extern "C" fn(*mut c_void, *const Tuple, *const Flow, *mut Sweep) -> i64 = visit;
    // SAFETY: the callback has the signature that the kernel calls it with, and `sweep` outlives
    // the call.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const FLOWS).cast_mut().cast(),
            callback as *mut c_void,
            (&raw mut sweep).cast(),
            0,
        );
    }
    sweep.removed as i32
}

/// Looks at one entry. Always asks for the next one.
extern "C" fn visit(
    _: *mut c_void,
    key: *const Tuple,
    flow: *const Flow,
    sweep: *mut Sweep,
) -> i64 {
    // SAFETY: the kernel passes the entry that it is at, and the context of the call.
    let (key, flow, sweep) = unsafe { (*key, &*flow, &mut *sweep) };
    let (mirror_key, _) = flow.mirror_of(&key);
    // SAFETY: read at once.
    let (flags, last_seen) = match unsafe { FLOWS.get(&mirror_key) } {
        Some(mirror) => (mirror.flags, mirror.last_seen),
        None => (FlowFlags::default(), 0),
    };
    let last_seen = flow.last_seen.max(last_seen);
    let limit = u64::from(sweep.timeouts.of(key.protocol, flow.flags, flags)) * 1_000_000_000;
    if sweep.now.saturating_sub(last_seen) > limit {
        // The other half may be gone already.
        let _ = FLOWS.remove(&mirror_key);
        let _ = FLOWS.remove(&key);
        sweep.removed += 2;
    }
    0
}
