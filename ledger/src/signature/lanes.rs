//! The batch equation on eight vector lanes at once, where the machine has AVX-512 IFMA.
//!
//! This only ever answers whether a number of claims hold together, at about a quarter of what the general code costs
//! (`benchmarks/README.md`). Every claim that it does not confirm is decided by the general code in `equation.rs`, so a
//! machine without these instructions gives the same verdicts.

#[cfg(target_arch = "x86_64")]
mod field;
#[cfg(target_arch = "x86_64")]
mod point;
#[cfg(target_arch = "x86_64")]
mod sum;

/// Digits of a multiplier, of 8 bits each.
pub(super) const DIGITS: usize = 32;
/// Digits of a short multiplier.
pub(super) const SHORT_DIGITS: usize = 16;

/// A point as its 32 bytes, and the digits of its multiplier: Σ digits\[i\]·256ⁱ, each −128 … 127.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term<const N: usize> {
    pub(super) point: [u8; 32],
    pub(super) digits: [i8; N],
}

/// Whether this machine has the instructions.
pub(super) fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512ifma");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether every point decompresses by ZIP-215, and eight times the sum of all terms is the identity. `None` where
/// [`is_available`] is false.
pub(super) fn sums_to_identity(short: &[Term<SHORT_DIGITS>], long: &[Term<DIGITS>]) -> Option<bool> {
    if !is_available() {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the compiler cannot know what was asked of the processor a line above")]
    // SAFETY: `sum_is_identity` is compiled for avx512f and avx512ifma, and `is_available` says that both are there.
    return Some(unsafe { sum::is_identity(short, long) });
    #[cfg(not(target_arch = "x86_64"))]
    return None;
}

/// The signed digits of a little-endian number below 2²⁵⁵.
pub(super) fn signed_digits(number: &[u8; 32]) -> [i8; DIGITS] {
    let mut carry = 0;
    number.map(|byte| {
        let digit = i16::from(byte) + carry;
        carry = i16::from(digit > 127);
        (digit - 256 * carry) as i8
    })
}
