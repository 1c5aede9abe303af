//! The Internet checksum, updated in place (RFC 1071, RFC 1624).
//!
//! A checksum field is never converted between byte orders: the sum is computed over the 16-bit
//! words as they stand in memory, and stored as it comes out.

/// The ones' complement sum of what is taken out of and put into a packet.
#[derive(Clone, Copy, Default)]
pub struct Difference(u64);

impl Difference {
    /// No difference.
    #[inline(always)]
    pub const fn none() -> Self {
        Self(0)
    }

    /// A 16-bit word becomes another.
    #[must_use]
    #[inline(always)]
    pub const fn word16(self, from: u16, to: u16) -> Self {
        Self(self.0 + (!from) as u64 + to as u64)
    }

    /// A 32-bit word becomes another.
    #[must_use]
    #[inline(always)]
    pub const fn word32(self, from: u32, to: u32) -> Self {
        Self(self.0 + (!from) as u64 + to as u64)
    }

    /// An address becomes another.
    #[must_use]
    #[inline(always)]
    pub const fn addr(self, from: crate::Addr, to: crate::Addr) -> Self {
        self.word32(from.0[0], to.0[0])
            .word32(from.0[1], to.0[1])
            .word32(from.0[2], to.0[2])
            .word32(from.0[3], to.0[3])
    }

    /// The difference as a 32-bit partial sum, as `bpf_l4_csum_replace` takes it.
    #[inline(always)]
    pub const fn partial(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }

    /// The checksum field after the change, `checksum` being the field before (RFC 1624, eqn. 3).
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        fold(self.0 + (!checksum) as u64)
    }
}

/// Folds a sum of words to 16 bits and complements it: the checksum field for that sum.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// SCTP's checksum (CRC-32C, RFC 9260, 6.8 and appendix A) covers the ports. It is linear: what must
/// be added to it for a change of four bytes depends on these and on how many bytes follow.
///
/// `from` and `to` are the four bytes before and after, as they stand in memory; the result is to be
/// exclusive-ored with the checksum field as it stands in memory. A packet has at most 65,535 bytes.
#[inline(always)]
pub fn crc32c_change(from: u32, to: u32, following: u32) -> u32 {
    /// `x^(8 * 2^n)`: what 2^n bytes of zeros multiply the remainder by.
    const ZEROS: [u32; 17] = {
        let mut powers = [1 << 23; 17];
        let mut n = 1;
        while n < 17 {
            powers[n] = multiply(powers[n - 1], powers[n - 1]);
            n += 1;
        }
        powers
    };
    let bytes = following + 4;
    let mut change = (from ^ to).to_le();
    for (n, zeros) in ZEROS.iter().enumerate() {
        if bytes >> n & 1 != 0 {
            change = multiply(change, *zeros);
        }
    }
    change.to_le()
}

/// The product of two polynomials modulo that of CRC-32C. The highest bit is the coefficient of 1.
#[inline(never)] // One loop to verify instead of seventeen.
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        product ^= b & (a >> 31).wrapping_neg();
        a <<= 1;
        b = (b >> 1) ^ (CASTAGNOLI & (b & 1).wrapping_neg());
        bit += 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32C as its definition has it, bit by bit.
    fn crc32c(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn a_change_of_sctp_ports_changes_the_checksum_as_a_fresh_one_would() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        let packet: [u8; 1500] = core::array::from_fn(|index| (index * 7 + index / 256) as u8);
        for length in [4, 12, 13, 100, 1024, 1500] {
            let mut changed = packet;
            changed[..4].copy_from_slice(&[0x30, 0x39, 0x1f, 0x90]);
            let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let change = crc32c_change(word(&packet), word(&changed), length as u32 - 4);
            let before = crc32c(&packet[..length]).to_le();
            assert_eq!(before ^ change, crc32c(&changed[..length]).to_le(), "{length} bytes");
        }
    }

    fn checksum(words: &[u16]) -> u16 {
        fold(words.iter().map(|word| u64::from(*word)).sum())
    }

    #[test]
    fn an_update_equals_a_fresh_sum() {
        let mut state = 0x1234_5678_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u16
        };
        for _ in 0..10_000 {
            let mut words = [0_u16; 8];
            words.fill_with(&mut random);
            let before = checksum(&words);
            let (old, new) = (words[3], random());
            words[3] = new;
            let (old32, new32) =
                (u32::from(words[4]) | u32::from(words[5]) << 16, u32::from(random()));
            words[4] = new32 as u16;
            words[5] = (new32 >> 16) as u16;
            let difference = Difference::none().word16(old, new).word32(old32, new32);
            assert_eq!(difference.apply(before), checksum(&words));
            assert_eq!(
                fold(u64::from(difference.partial()) + u64::from(!before)),
                checksum(&words)
            );
        }
    }
}
