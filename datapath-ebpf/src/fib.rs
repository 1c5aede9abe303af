//! The node's routing table and neighbours.

use crate::{frame::Frame, skb::family};
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup},
    cty::c_void,
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
    let mut params = MaybeUninit::zeroed();
    // SAFETY: the context is this program's, and the struct is zeroed.
    let (status, answer) = unsafe {
        let context = frame.raw().cast();
        let status = look_up(context, &mut params, device, length as u16, src, dst);
        (status, params.assume_init_ref())
    };
    // The helper has set the device if it was successful, and left it as it was if not.
    if status != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || answer.ifindex != device {
        return None;
    }
    Some(Hop { macs: [bytemuck::cast(answer.dmac), bytemuck::cast(answer.smac)] })
}

/// Asks where a packet from `src` to `dst` is sent that came by `device`, and whether `length` bytes fit
/// there; 0 bytes fit everywhere. Returns the helper's status; `params` is what it made of the question.
///
/// # Safety
///
/// `context` is that of the program that runs, and `params` is zeroed.
#[inline(always)]
pub(crate) unsafe fn look_up(
    context: *mut c_void,
    params: &mut MaybeUninit<bpf_fib_lookup>,
    device: u32,
    length: u16,
    src: &Addr,
    dst: &Addr,
) -> i64 {
    let fields = params.as_mut_ptr();
    let v4 = dst.is_v4();
    // SAFETY: plain writes into a zeroed struct, of which all bytes are initialised.
    unsafe {
        (*fields).family = family(v4) as u8;
        (*fields).ifindex = device;
        (*fields).__bindgen_anon_1.tot_len = length;
        if v4 {
            (*fields).__bindgen_anon_3.ipv4_src = src.v4_word();
            (*fields).__bindgen_anon_4.ipv4_dst = dst.v4_word();
        } else {
            (*fields).__bindgen_anon_3.ipv6_src = src.0;
            (*fields).__bindgen_anon_4.ipv6_dst = dst.0;
        }
    }
    // SAFETY: the helper reads and writes the struct within its size.
    unsafe { helpers::bpf_fib_lookup(context, fields, size_of::<bpf_fib_lookup>() as i32, 0) }
}
