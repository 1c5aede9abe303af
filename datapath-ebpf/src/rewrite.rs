//! Changing a packet's addresses and ports, its time to live and its traffic class.

use crate::{
    packet::{IDENTIFIER, Packet, Transport},
    skb::{ETHERNET, Failed, Skb},
};
use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use bytemuck::{Pod, Zeroable};
use datapath_common::{
    Addr, Outcome, Ports, Protocol,
    checksum::{Difference, crc32c_change},
};

/// The part of an IPv4 header that translation changes, from byte 8 on, and the ports that follow a
/// header without options.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ipv4Tail {
    ttl: u8,
    protocol: Protocol,
    checksum: u16,
    src: u32,
    dst: u32,
    ports: Ports,
}

/// The part of an IPv6 header that translation changes, from byte 4 on.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ipv6Tail {
    length: u16,
    next: Protocol,
    hop_limit: u8,
    src: Addr,
    dst: Addr,
}

impl Packet {
    /// Writes `to` in place of `tuple`, and the time to live as it is now.
    #[inline(always)]
    pub(crate) fn rewrite(&self, skb: Skb) -> Result<(), Outcome> {
        if rewrite(skb.raw(), self) == 0 { Ok(()) } else { Err(Outcome::DroppedRewrite) }
    }

    #[inline(always)]
    fn rewrite_headers(&self, skb: Skb) -> Result<(), Failed> {
        let addresses =
            Difference::none().addr(self.tuple.src, self.to.src).addr(self.tuple.dst, self.to.dst);
        let later = self.transport == Transport::Later;
        let echo = matches!(self.transport, Transport::Echo | Transport::EchoReply);
        let new_ports = !later && self.tuple.ports != self.to.ports;
        let joined = new_ports && !echo && self.tuple.dst.is_v4() && self.l4 == ETHERNET + 20;
        self.store_addresses(skb, addresses, joined)?;
        if later {
            return Ok(());
        }
        let (checksum, zero) = match self.tuple.protocol {
            Protocol::TCP => (self.l4 + 16, 0),
            Protocol::UDP => (self.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
            Protocol::ICMPV6 => (self.l4 + 2, 0),
            _ => (0, 0),
        };
        if checksum != 0 {
            let flags = zero | u64::from(BPF_F_PSEUDO_HDR);
            skb.update_checksum(checksum, addresses.partial(), flags)?;
        }
        if new_ports {
            if echo {
                return self.rewrite_echo(skb);
            }
            if !joined {
                skb.store(self.l4, &self.to.ports, 0)?;
            }
            let ports = Difference::none()
                .word16(self.tuple.ports.src.0, self.to.ports.src.0)
                .word16(self.tuple.ports.dst.0, self.to.ports.dst.0);
            if checksum != 0 {
                skb.update_checksum(checksum, ports.partial(), zero)?;
            } else if self.tuple.protocol == Protocol::SCTP {
                self.rewrite_sctp(skb)?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn rewrite_echo(&self, skb: Skb) -> Result<(), Failed> {
        // The port of the end that does not ask is always zero.
        let id = |ports: Ports| ports.src.0 | ports.dst.0;
        let (from, to) = (id(self.tuple.ports), id(self.to.ports));
        skb.store(self.l4 + IDENTIFIER, &to, 0)?;
        let change = Difference::none().word16(from, to);
        skb.update_checksum(self.l4 + 2, change.partial(), 0)
    }

    /// SCTP's checksum covers the ports and everything behind them, but no address.
    #[inline(always)]
    fn rewrite_sctp(&self, skb: Skb) -> Result<(), Failed> {
        let checksum: u32 = skb.load(self.l4 + 8)?;
        let following = self.end.wrapping_sub(self.l4 + 4);
        let [from, to] = [self.tuple.ports, self.to.ports].map(bytemuck::cast);
        let change = sctp_change(from, to, following & 0xffff);
        skb.store(self.l4 + 8, &(checksum ^ change), 0)
    }

    /// Writes the addresses, and with IPv4 the ports in the same call if they are `joined` to them:
    /// each call costs as much as a look into a table.
    ///
    /// The sum over an IPv4 header is always the same, so a hardware checksum of the packet stays
    /// right. IPv6 has no such sum: there the kernel takes the change into account.
    #[inline(always)]
    fn store_addresses(&self, skb: Skb, addresses: Difference, joined: bool) -> Result<(), Failed> {
        if self.tuple.dst.is_v4() {
            let tail = Ipv4Tail {
                ttl: self.ttl,
                protocol: self.tuple.protocol,
                checksum: addresses.apply(self.checksum_or_length),
                src: self.to.src.v4_word(),
                dst: self.to.dst.v4_word(),
                ports: self.to.ports,
            };
            let length = if joined { size_of::<Ipv4Tail>() } else { PORTS };
            skb.store_some(ETHERNET + 8, &tail, length as u32)
        } else {
            let tail = Ipv6Tail {
                length: self.checksum_or_length,
                next: self.next,
                hop_limit: self.ttl,
                src: self.to.src,
                dst: self.to.dst,
            };
            skb.store(ETHERNET + 4, &tail, u64::from(BPF_F_RECOMPUTE_CSUM))
        }
    }

    /// Takes one from the time to live, in memory; the next write puts it into the packet.
    #[inline(always)]
    pub(crate) fn age(&mut self) {
        if self.tuple.dst.is_v4() {
            let word = |ttl| u16::from_ne_bytes([ttl, self.tuple.protocol.0]);
            let aged = Difference::none().word16(word(self.ttl), word(self.ttl - 1));
            self.checksum_or_length = aged.apply(self.checksum_or_length);
        }
        self.ttl -= 1;
    }

    /// Writes another traffic class, `from` being the one before.
    #[inline(always)]
    pub(crate) fn store_class(&mut self, skb: Skb, from: u8, to: u8) -> Result<(), Outcome> {
        let stored = if self.tuple.dst.is_v4() {
            let word = |class| u16::from_ne_bytes([0x45, class]);
            let change = Difference::none().word16(word(from), word(to));
            self.checksum_or_length = change.apply(self.checksum_or_length);
            skb.store(ETHERNET + 1, &to, 0)
                .and_then(|()| skb.store(ETHERNET + 10, &self.checksum_or_length, 0))
        } else {
            let change = u32::from(from ^ to) << 20;
            skb.load::<u32>(ETHERNET).and_then(|word| {
                skb.store(ETHERNET, &(word ^ change.to_be()), u64::from(BPF_F_RECOMPUTE_CSUM))
            })
        };
        stored.map_err(|Failed| Outcome::DroppedRewrite)
    }

    /// Writes the time to live alone.
    #[inline(always)]
    pub(crate) fn store_age(&self, skb: Skb) -> Result<(), Outcome> {
        let stored = if self.tuple.dst.is_v4() {
            let [low, high] = self.checksum_or_length.to_ne_bytes();
            skb.store(ETHERNET + 8, &[self.ttl, self.tuple.protocol.0, low, high], 0)
        } else {
            skb.store(ETHERNET + 7, &self.ttl, u64::from(BPF_F_RECOMPUTE_CSUM))
        };
        stored.map_err(|Failed| Outcome::DroppedRewrite)
    }
}

/// Offset of the ports in [`Ipv4Tail`].
const PORTS: usize = core::mem::offset_of!(Ipv4Tail, ports);

/// [`Packet::rewrite_headers`]; 0 if it succeeds.
///
/// Exported, which makes it a global function: the verifier looks at it by itself and once, and not
/// once for each path that leads to it.
#[unsafe(no_mangle)]
extern "C" fn rewrite(context: *mut __sk_buff, packet: *const Packet) -> i32 {
    // SAFETY: null, for all that the verifier knows, or the packet at hand.
    let Some(packet) = (unsafe { packet.as_ref() }) else { return 1 };
    packet.rewrite_headers(Skb::from_raw(context)).is_err().into()
}

/// See [`crc32c_change`]. Exported, which makes it a global function: the verifier looks at it by
/// itself and once, and not once for each path that leads to it.
#[unsafe(no_mangle)]
extern "C" fn sctp_change(from: u32, to: u32, following: u32) -> u32 {
    crc32c_change(from, to, following)
}
