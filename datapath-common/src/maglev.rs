//! Choosing a backend by a packet's own addresses and ports, so that every node chooses the same
//! without a word to the others (Eisenbud et al., "Maglev", NSDI 2016, 3.4).

use crate::{Protocol, Tuple};
use bytemuck::{Pod, Zeroable};

/// Entries of a table: a prime, as the paper wants it, and the largest for which an entry of `MAGLEV`
/// fits one allocation of 32 KiB.
pub const MAGLEV_SIZE: usize = 16_349;

/// Value of `MAGLEV`, whose key is the number of a list: positions in that list. A list of which
/// there is no table is chosen from at random.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct MaglevTable {
    /// The positions.
    pub entries: [u16; MAGLEV_SIZE],
    /// Zero.
    // VERIFIER: it does not see that twice an index is even: "invalid access to map value,
    // value_size=32698 off=32697 size=2".
    pub pad: u16,
}

/// The entry that decides about a packet. Under session affinity ports do not count: then a client has
/// one backend, whichever node it comes to.
#[inline(always)]
pub const fn maglev_entry(tuple: &Tuple, affinity: bool) -> u32 {
    let (src, dst) = (tuple.src.0, tuple.dst.0);
    let Protocol(protocol) = tuple.protocol;
    let ports =
        if affinity { 0 } else { (tuple.ports.src.0 as u32) << 16 | tuple.ports.dst.0 as u32 };
    let mut hash = mix(0, pair(src[0], src[1]));
    hash = mix(hash, pair(src[2], src[3]));
    hash = mix(hash, pair(dst[0], dst[1]));
    hash = mix(hash, pair(dst[2], dst[3]));
    hash = mix(hash, pair(ports, protocol as u32));
    // The product of 32 random bits and the size, without its lower 32 bits, is below the size.
    (((hash & 0xffff_ffff) * MAGLEV_SIZE as u64) >> 32) as u32
}

/// Mixes a word into a hash: multiplication carries each bit upwards, the shift back down.
#[must_use]
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    /// 2^64 divided by the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let product = (hash ^ word).wrapping_mul(FACTOR);
    product ^ (product >> 32)
}

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Addr, Be16, Ports};

    fn tuple(client: u32, port: u16) -> Tuple {
        Tuple {
            src: Addr::from_v4_word(client.to_be()),
            dst: Addr::from_v4_word(0x0ac8_010a_u32.to_be()),
            ports: Ports { src: Be16::new(port), dst: Be16::new(80) },
            protocol: Protocol::TCP,
            pad: [0; 3],
        }
    }

    #[test]
    fn the_size_is_a_prime() {
        assert!((2..128).all(|divisor| !MAGLEV_SIZE.is_multiple_of(divisor)));
    }

    /// Sixteen parts of the table get a sixteenth each, give or take five standard deviations,
    /// whether clients differ in their addresses or in their ports.
    #[test]
    fn packets_spread_over_the_table() {
        const PACKETS: u16 = 32_000;
        type Nth = fn(u16) -> Tuple;
        let ways: [Nth; 2] = [|n| tuple(0xc000_0200 + u32::from(n), 40_000), |n| tuple(7, n)];
        for nth in ways {
            let mut parts = [0_i32; 16];
            for n in 0..PACKETS {
                let entry = maglev_entry(&nth(n), false) as usize;
                assert!(entry < MAGLEV_SIZE);
                parts[entry * 16 / MAGLEV_SIZE] += 1;
            }
            assert!(parts.iter().all(|part| (part - 2000).abs() < 220), "{parts:?}");
        }
    }

    #[test]
    fn under_affinity_ports_do_not_count() {
        assert_ne!(maglev_entry(&tuple(1, 1), false), maglev_entry(&tuple(1, 2), false));
        assert_eq!(maglev_entry(&tuple(1, 1), true), maglev_entry(&tuple(1, 2), true));
        assert_ne!(maglev_entry(&tuple(1, 1), true), maglev_entry(&tuple(2, 1), true));
    }
}
