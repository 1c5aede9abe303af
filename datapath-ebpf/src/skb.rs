//! The packet buffer: every helper of the kernel that reads or changes it, behind safe functions.
//!
//! Reads go to the packet itself where it is linear, as headers nearly always are, and through
//! `bpf_skb_load_bytes` where it is not. Writes always go through helpers: a program that writes to
//! the packet itself makes the kernel unshare every packet, also those that it only looks at.

use crate::fib;
use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_PROHIBIT,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh,
    },
    cty::c_void,
    helpers,
};
use bytemuck::Pod;
use core::mem::MaybeUninit;
use datapath_common::Addr;

/// Length of an Ethernet header: all our hooks are on Ethernet devices.
pub(crate) const ETHERNET: u32 = 14;

/// What the kernel does with the packet after us.
pub(crate) type Action = i32;

/// The next program, then the stack (`TCX_NEXT`; `TC_ACT_UNSPEC` on kernels before 6.6).
pub(crate) const NEXT: Action = -1;
/// Drop (`TC_ACT_SHOT`).
pub(crate) const DROP: Action = 2;

/// A helper failed, most often because the packet is shorter than its headers say.
#[derive(Debug)]
pub(crate) struct Failed;

/// What the node's routing table does with a packet.
pub(crate) enum Routed {
    /// It sends it out of a device to a neighbour.
    Sent { device: u32, next_hop: Addr },
    /// A route says that nobody may have it (blackhole, unreachable, prohibit).
    Nowhere,
    /// It does not send it on: the packet is for the node itself, or the table does not know.
    NotSent,
}

/// The packet buffer of the running program.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*mut __sk_buff);

macro_rules! field {
    ($(#[$doc:meta])* $name:ident: $field:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(self) -> u32 {
            // SAFETY: the kernel passes a valid context to the program.
            unsafe { (&raw const (*self.0).$field).read() }
        }
    };
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(context: &aya_ebpf::programs::TcContext) -> Self {
        Self(context.skb.skb)
    }

    /// From the context that a subprogram was handed.
    #[inline(always)]
    pub(crate) const fn from_raw(context: *mut __sk_buff) -> Self {
        Self(context)
    }

    /// The context, to hand to a subprogram.
    #[inline(always)]
    pub(crate) const fn raw(self) -> *mut __sk_buff {
        self.0
    }

    field!(
        /// Length of the frame in bytes.
        length: len
    );
    field!(
        /// Index of the device that the program runs for.
        device: ifindex
    );
    field!(
        /// EtherType, network byte order.
        protocol: protocol
    );
    field!(
        /// Payload of one segment in bytes; 0 for a packet that is not to be segmented.
        segment: gso_size
    );
    field!(
        /// The packet's mark.
        mark: mark
    );

    /// Sets the packet's mark.
    #[inline(always)]
    pub(crate) fn set_mark(self, mark: u32) {
        // SAFETY: the context is valid and this field may be written.
        unsafe { (&raw mut (*self.0).mark).write(mark) }
    }

    /// Copies what stands at `offset`.
    #[inline(always)]
    pub(crate) fn load<T: Pod>(self, offset: u32) -> Result<T, Failed> {
        match self.load_linear(offset) {
            Some(value) => Ok(value),
            None => self.load_any(offset),
        }
    }

    /// Copies what stands at `offset`, if that is in the linear part of the packet.
    #[inline(always)]
    fn load_linear<T: Pod>(self, offset: u32) -> Option<T> {
        /// The verifier wants a limit; what lies behind it is rare enough for the helper.
        const LIMIT: u32 = 255;
        if offset > LIMIT {
            return None;
        }
        // SAFETY: the kernel passes a valid context to the program.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        let start = data + offset as usize;
        if start + size_of::<T>() > end {
            return None;
        }
        // SAFETY: within the packet, and every bit pattern is a `T`. The kernel aligns headers as
        // their fields want it, or runs where loads need no alignment.
        Some(unsafe { (start as *const T).read() })
    }

    /// Copies what stands at `offset`, wherever that is.
    #[inline(always)]
    fn load_any<T: Pod>(self, offset: u32) -> Result<T, Failed> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly `size_of::<T>()` bytes, or fails.
        let status = unsafe {
            helpers::bpf_skb_load_bytes(
                self.0.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        if status == 0 {
            // SAFETY: written by the helper, and every bit pattern is a `T`.
            Ok(unsafe { value.assume_init() })
        } else {
            Err(Failed)
        }
    }

    /// Overwrites what stands at `offset`.
    #[inline(always)]
    pub(crate) fn store<T: Pod>(self, offset: u32, value: &T, flags: u64) -> Result<(), Failed> {
        // SAFETY: the helper reads exactly `size_of::<T>()` initialised bytes.
        check(unsafe {
            helpers::bpf_skb_store_bytes(
                self.0.cast(),
                offset,
                core::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
                flags,
            )
        })
    }

    /// Overwrites what stands at `offset` with the first `length` bytes of `value`.
    #[inline(always)]
    pub(crate) fn store_some<T: Pod>(
        self,
        offset: u32,
        value: &T,
        length: u32,
    ) -> Result<(), Failed> {
        // SAFETY: the verifier sees that the helper reads at most `size_of::<T>()` initialised bytes.
        check(unsafe {
            helpers::bpf_skb_store_bytes(
                self.0.cast(),
                offset,
                core::ptr::from_ref(value).cast(),
                length,
                0,
            )
        })
    }

    /// Adds the difference `partial` to the transport checksum at `offset`.
    #[inline(always)]
    pub(crate) fn update_checksum(
        self,
        offset: u32,
        partial: u32,
        flags: u64,
    ) -> Result<(), Failed> {
        // SAFETY: a plain call, the kernel checks the offset.
        check(unsafe { helpers::bpf_l4_csum_replace(self.0, offset, 0, u64::from(partial), flags) })
    }

    /// Cuts the frame to `length` bytes; offloads are dropped from it.
    #[inline(always)]
    pub(crate) fn trim(self, length: u32) -> Result<(), Failed> {
        // SAFETY: a plain call, the kernel checks the length.
        check(unsafe { helpers::bpf_skb_change_tail(self.0, length, 0) })
    }

    /// Makes room for `length` bytes between the Ethernet header and what follows it.
    #[inline(always)]
    pub(crate) fn make_room(self, length: i32) -> Result<(), Failed> {
        // SAFETY: a plain call, the kernel checks the length.
        check(unsafe { helpers::bpf_skb_adjust_room(self.0, length, BPF_ADJ_ROOM_MAC, 0) })
    }

    /// Makes room for an outer IP header, and lets the kernel know of it. Segments keep their size: they
    /// have been found to fit.
    #[inline(always)]
    pub(crate) fn grow(self, length: u32, v4: bool) -> Result<(), Failed> {
        let kind = if v4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
        self.adjust_room(length as i32, kind | BPF_F_ADJ_ROOM_FIXED_GSO)
    }

    /// Takes an outer IP header out. Only where the family changes the kernel must be told (since
    /// Linux 6.3).
    #[inline(always)]
    pub(crate) fn shrink(self, length: u32, from_v4: bool, to_v4: bool) -> Result<(), Failed> {
        let kind = match (from_v4, to_v4) {
            (true, false) => BPF_F_ADJ_ROOM_DECAP_L3_IPV6,
            (false, true) => BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
            _ => 0,
        };
        self.adjust_room((length as i32).wrapping_neg(), kind | BPF_F_ADJ_ROOM_FIXED_GSO)
    }

    #[inline(always)]
    fn adjust_room(self, length: i32, flags: u32) -> Result<(), Failed> {
        let flags = u64::from(flags);
        // SAFETY: a plain call, the kernel checks the length.
        check(unsafe { helpers::bpf_skb_adjust_room(self.0, length, BPF_ADJ_ROOM_MAC, flags) })
    }

    /// Asks the node's routing table where a packet that came by `device` and goes to `dst` is sent.
    #[inline(always)]
    pub(crate) fn route(self, device: u32, src: &Addr, dst: &Addr) -> Routed {
        let v4 = dst.is_v4();
        let mut params = MaybeUninit::zeroed();
        // SAFETY: the context is this program's, and the struct is zeroed.
        let (status, answer) = unsafe {
            let status = fib::look_up(self.0.cast(), &mut params, device, 0, src, dst);
            (status, params.assume_init_ref())
        };
        match u32::try_from(status) {
            // A missing neighbour entry is resolved by the redirect.
            Ok(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) => {}
            Ok(
                BPF_FIB_LKUP_RET_BLACKHOLE
                | BPF_FIB_LKUP_RET_UNREACHABLE
                | BPF_FIB_LKUP_RET_PROHIBIT,
            ) => return Routed::Nowhere,
            _ => return Routed::NotSent,
        }
        // SAFETY: the union holds what was asked for or what the helper put in its place.
        let next_hop = unsafe {
            if v4 {
                Addr::from_v4_word(answer.__bindgen_anon_4.ipv4_dst)
            } else {
                Addr(answer.__bindgen_anon_4.ipv6_dst)
            }
        };
        Routed::Sent { device: answer.ifindex, next_hop }
    }

    /// Sends the packet out of `device` to the neighbour `next_hop`; the kernel resolves its MAC.
    #[inline(always)]
    pub(crate) fn redirect_neighbour(self, device: u32, next_hop: &Addr) -> Action {
        let mut params = MaybeUninit::<bpf_redir_neigh>::zeroed();
        let fields = params.as_mut_ptr();
        // SAFETY: plain writes into our own zeroed struct; the helper reads it within its size.
        unsafe {
            (*fields).nh_family = family(next_hop.is_v4());
            if next_hop.is_v4() {
                (*fields).__bindgen_anon_1.ipv4_nh = next_hop.v4_word();
            } else {
                (*fields).__bindgen_anon_1.ipv6_nh = next_hop.0;
            }
            helpers::bpf_redirect_neigh(device, fields, size_of::<bpf_redir_neigh>() as i32, 0)
                as Action
        }
    }

    /// Sends the packet out of `device` to the neighbour that the routing table names.
    #[inline(always)]
    pub(crate) fn redirect_routed(self, device: u32) -> Action {
        // SAFETY: without parameters the helper reads none.
        unsafe { helpers::bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) as Action }
    }

    /// Moves the packet into the namespace behind `device`, past both queues.
    #[inline(always)]
    pub(crate) fn redirect_peer(self, device: u32) -> Action {
        // SAFETY: a plain call; a device that is gone drops the packet.
        unsafe { helpers::bpf_redirect_peer(device, 0) as Action }
    }

    /// Sends the packet out of `device` as it is.
    #[inline(always)]
    pub(crate) fn redirect_out(self, device: u32) -> Action {
        // SAFETY: as above.
        unsafe { helpers::bpf_redirect(device, 0) as Action }
    }

    /// Lets the packet arrive on `device`.
    #[inline(always)]
    pub(crate) fn redirect_in(self, device: u32) -> Action {
        const BPF_F_INGRESS: u64 = 1;
        // SAFETY: as above.
        unsafe { helpers::bpf_redirect(device, BPF_F_INGRESS) as Action }
    }
}

/// Looks a key up in a longest-prefix map, whose aya type wants a packed key: that would be copied
/// byte by byte.
#[inline(always)]
pub(crate) fn longest_prefix<M, K: Pod, V>(map: &'static M, key: &K) -> Option<&'static V> {
    // SAFETY: `map` is a map of the object, `key` has its key size; values live as long as the
    // program runs.
    unsafe {
        helpers::bpf_map_lookup_elem(
            core::ptr::from_ref(map).cast_mut().cast::<c_void>(),
            core::ptr::from_ref(key).cast(),
        )
        .cast::<V>()
        .as_ref()
    }
}

#[inline(always)]
pub(crate) fn family(v4: bool) -> u32 {
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    if v4 { AF_INET } else { AF_INET6 }
}

#[inline(always)]
fn check(status: i64) -> Result<(), Failed> {
    if status == 0 { Ok(()) } else { Err(Failed) }
}
