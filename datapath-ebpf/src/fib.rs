//! The node's routing table and neighbours, as XDP asks for them.

use crate::{frame::Frame, skb::family};
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup},
    helpers,
};
use core::mem::MaybeUninit;
use datapath_common::Addr;

/// The next hop of a frame that leaves by the device that it came by.
pub(crate) struct Hop {
    /// Its MAC address, and the device's own.
    pub(crate) macs: [[u16; 3]; 2],
}

/// Asks where a packet of `length` bytes from `src` to `dst` is sent that came as this frame. `None`
/// unless that is out of the same device, the neighbour's MAC address is known, and the packet fits:
/// everything else is the kernel's to find out.
#[inline(always)]
pub(crate) fn hop(frame: Frame, length: u32, src: &Addr, dst: &Addr) -> Option<Hop> {
    let device = frame.device();
    let mut params = MaybeUninit::<bpf_fib_lookup>::zeroed();
    let fields = params.as_mut_ptr();
    let v4 = dst.is_v4();
    // SAFETY: plain writes into our own zeroed struct, of which all bytes are initialised.
    unsafe {
        (*fields).family = family(v4) as u8;
        (*fields).ifindex = device;
        (*fields).__bindgen_anon_1.tot_len = length as u16;
        if v4 {
            (*fields).__bindgen_anon_3.ipv4_src = src.v4_word();
            (*fields).__bindgen_anon_4.ipv4_dst = dst.v4_word();
        } else {
            (*fields).__bindgen_anon_3.ipv6_src = src.0;
            (*fields).__bindgen_anon_4.ipv6_dst = dst.0;
        }
    }
    // SAFETY: the helper reads and writes the struct within its size.
    let status = unsafe {
        helpers::bpf_fib_lookup(frame.raw().cast(), fields, size_of::<bpf_fib_lookup>() as i32, 0)
    };
    // SAFETY: the helper has set the device if it was successful, and left it as it was if not.
    let same = unsafe { (*fields).ifindex } == device;
    if status != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || !same {
        return None;
    }
    // SAFETY: set by the helper.
    let (dst, src) = unsafe { ((*fields).dmac, (*fields).smac) };
    Some(Hop { macs: [bytemuck::cast(dst), bytemuck::cast(src)] })
}
