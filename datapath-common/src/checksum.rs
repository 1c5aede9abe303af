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

#[cfg(test)]
mod tests {
    use super::*;

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
