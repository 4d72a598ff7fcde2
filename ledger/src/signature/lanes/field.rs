//! Eight elements of the field of 2²⁵⁵ − 19 at once, one in each 64-bit lane of a vector, in five limbs of 51 bits.
//!
//! A *reduced* element has limbs below 2⁵¹ + 2¹⁵. The multiplier reads 52 bits of a limb, so every function takes and
//! gives reduced elements; what adds or subtracts carries at once.

use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_and_si512, _mm512_cmpeq_epi64_mask, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_mask_blend_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_slli_epi64, _mm512_srli_epi64, _mm512_sub_epi64, _mm512_test_epi64_mask,
};

/// Lanes in a vector.
pub(super) const LANES: usize = 8;
/// Bits of a limb.
const LIMB_BITS: u32 = 51;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;

const ONE: [u64; 5] = [1, 0, 0, 0, 0];
/// The curve's d = −121665/121666.
const D: [u64; 5] =
    [929_955_233_495_203, 466_365_720_129_213, 1_662_059_464_998_953, 2_033_849_074_728_123, 1_442_794_654_840_575];
/// 2d.
const TWICE_D: [u64; 5] =
    [1_859_910_466_990_425, 932_731_440_258_426, 1_072_319_116_312_658, 1_815_898_335_770_999, 633_789_495_995_903];
/// A square root of −1.
const ROOT_OF_MINUS_ONE: [u64; 5] =
    [1_718_705_420_411_056, 234_908_883_556_509, 2_233_514_472_574_048, 2_117_202_627_021_982, 765_476_049_583_133];
/// 2p, limb by limb not below any reduced limb.
const TWICE_P: [u64; 5] = [2 * (LIMB_MASK - 18), 2 * LIMB_MASK, 2 * LIMB_MASK, 2 * LIMB_MASK, 2 * LIMB_MASK];

/// Eight field elements, limb by limb.
#[derive(Clone, Copy)]
pub(super) struct Field(pub(super) [__m512i; 5]);

impl Field {
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn constant(limbs: [u64; 5]) -> Self {
        Self(limbs.map(|limb| _mm512_set1_epi64(limb.cast_signed())))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn zero() -> Self {
        Self([_mm512_setzero_si512(); 5])
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn one() -> Self {
        Self::constant(ONE)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn d() -> Self {
        Self::constant(D)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn twice_d() -> Self {
        Self::constant(TWICE_D)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn root_of_minus_one() -> Self {
        Self::constant(ROOT_OF_MINUS_ONE)
    }

    /// The numbers in 32 bytes each, little-endian; the highest bit of each is not read.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn from_bytes(encodings: &[[u8; 32]; LANES]) -> Self {
        let mut limbs = [[0u64; LANES]; 5];
        for (lane, encoding) in encodings.iter().enumerate() {
            let words: [u64; 4] = bytemuck::cast(*encoding);
            limbs[0][lane] = words[0] & LIMB_MASK;
            limbs[1][lane] = (words[0] >> 51 | words[1] << 13) & LIMB_MASK;
            limbs[2][lane] = (words[1] >> 38 | words[2] << 26) & LIMB_MASK;
            limbs[3][lane] = (words[2] >> 25 | words[3] << 39) & LIMB_MASK;
            limbs[4][lane] = (words[3] >> 12) & LIMB_MASK;
        }
        Self(limbs.map(bytemuck::cast))
    }

    /// One element in all lanes, from its limbs.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn splat(limbs: &[u64; 5]) -> Self {
        Self(limbs.map(|limb| _mm512_set1_epi64(limb.cast_signed())))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn add(&self, other: &Self) -> Self {
        carry(core::array::from_fn(|limb| _mm512_add_epi64(self.0[limb], other.0[limb])))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn sub(&self, other: &Self) -> Self {
        let bias = Self::constant(TWICE_P);
        carry(core::array::from_fn(|limb| {
            _mm512_add_epi64(self.0[limb], _mm512_sub_epi64(bias.0[limb], other.0[limb]))
        }))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn negate(&self) -> Self {
        Self::zero().sub(self)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn mul(&self, other: &Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        let zero = _mm512_setzero_si512();
        let mut low = [zero; 10];
        let mut high = [zero; 10];
        for i in 0..5 {
            for j in 0..5 {
                high[i + j + 1] = _mm512_madd52hi_epu64(high[i + j + 1], a[i], b[j]);
                low[i + j] = _mm512_madd52lo_epu64(low[i + j], a[i], b[j]);
            }
        }
        // A limb has 51 bits and the multiplier splits at 52: high halves count twice.
        fold(core::array::from_fn(|k| _mm512_add_epi64(low[k], _mm512_slli_epi64::<1>(high[k]))))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn square(&self) -> Self {
        let a = &self.0;
        let zero = _mm512_setzero_si512();
        let (mut low, mut high) = ([zero; 10], [zero; 10]);
        let (mut low_twice, mut high_twice) = ([zero; 10], [zero; 10]);
        for i in 0..5 {
            high[2 * i + 1] = _mm512_madd52hi_epu64(high[2 * i + 1], a[i], a[i]);
            low[2 * i] = _mm512_madd52lo_epu64(low[2 * i], a[i], a[i]);
            for j in i + 1..5 {
                high_twice[i + j + 1] = _mm512_madd52hi_epu64(high_twice[i + j + 1], a[i], a[j]);
                low_twice[i + j] = _mm512_madd52lo_epu64(low_twice[i + j], a[i], a[j]);
            }
        }
        fold(core::array::from_fn(|k| {
            let once = _mm512_add_epi64(low[k], _mm512_slli_epi64::<1>(_mm512_add_epi64(high[k], low_twice[k])));
            _mm512_add_epi64(once, _mm512_slli_epi64::<2>(high_twice[k]))
        }))
    }

    /// self^(2^times).
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn square_times(&self, times: u32) -> Self {
        let mut power = *self;
        for _ in 0..times {
            power = power.square();
        }
        power
    }

    /// Every limb in its one form: the number below p.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn canonical(&self) -> Self {
        let mask = _mm512_set1_epi64(LIMB_MASK.cast_signed());
        let nineteen = _mm512_set1_epi64(19);
        let mut limbs = carry(self.0).0;
        // The quotient by p, 0 or 1: what is carried out of the top when 19 is added.
        let mut quotient = nineteen;
        for limb in &limbs {
            quotient = _mm512_srli_epi64::<LIMB_BITS>(_mm512_add_epi64(quotient, *limb));
        }
        let mut rest = _mm512_madd52lo_epu64(_mm512_setzero_si512(), quotient, nineteen);
        for limb in &mut limbs {
            let sum = _mm512_add_epi64(*limb, rest);
            rest = _mm512_srli_epi64::<LIMB_BITS>(sum);
            *limb = _mm512_and_si512(sum, mask);
        }
        Self(limbs)
    }

    /// The lanes in which the number is 0.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn is_zero(&self) -> __mmask8 {
        let limbs = self.canonical().0;
        let any = limbs[1..].iter().fold(limbs[0], |any, limb| _mm512_or_si512(any, *limb));
        _mm512_cmpeq_epi64_mask(any, _mm512_setzero_si512())
    }

    /// The lanes in which two numbers are equal.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn equals(&self, other: &Self) -> __mmask8 {
        self.sub(other).is_zero()
    }

    /// The lanes in which the number is odd, which is called negative.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn is_negative(&self) -> __mmask8 {
        _mm512_test_epi64_mask(self.canonical().0[0], _mm512_set1_epi64(1))
    }

    /// `other` in the lanes of the mask.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn select(&self, mask: __mmask8, other: &Self) -> Self {
        Self(core::array::from_fn(|limb| _mm512_mask_blend_epi64(mask, self.0[limb], other.0[limb])))
    }
}

/// Ten limbs of a product, each below 2⁵⁶, to five: 2²⁵⁵ is 19.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn fold(limbs: [__m512i; 10]) -> Field {
    carry(core::array::from_fn(|k| {
        let above = limbs[k + 5];
        let thrice = _mm512_add_epi64(above, _mm512_slli_epi64::<1>(above));
        let nineteen_fold = _mm512_add_epi64(thrice, _mm512_slli_epi64::<4>(above));
        _mm512_add_epi64(limbs[k], nineteen_fold)
    }))
}

/// Carries each limb's excess to the next, all at once: limbs below 2⁶¹ become reduced.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn carry(limbs: [__m512i; 5]) -> Field {
    let mask = _mm512_set1_epi64(LIMB_MASK.cast_signed());
    let excess = limbs.map(|limb| _mm512_srli_epi64::<LIMB_BITS>(limb));
    let rest = limbs.map(|limb| _mm512_and_si512(limb, mask));
    Field([
        _mm512_madd52lo_epu64(rest[0], excess[4], _mm512_set1_epi64(19)),
        _mm512_add_epi64(rest[1], excess[0]),
        _mm512_add_epi64(rest[2], excess[1]),
        _mm512_add_epi64(rest[3], excess[2]),
        _mm512_add_epi64(rest[4], excess[3]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::BigUint;

    /// The largest limb of a reduced element, and some on the edges of 51 and 52 bits.
    const EDGES: [u64; 6] = [0, 1, 19, LIMB_MASK, LIMB_MASK + 1, LIMB_MASK + (1 << 15)];

    fn number(limbs: &[u64]) -> BigUint {
        limbs.iter().rev().fold(BigUint::ZERO, |sum, limb| (sum << LIMB_BITS) + limb)
    }

    fn modulus() -> BigUint {
        (BigUint::from(1u8) << 255) - 19u8
    }

    fn lane(field: &Field, lane: usize) -> [u64; 5] {
        field.0.map(|limb| bytemuck::cast::<_, [u64; LANES]>(limb)[lane])
    }

    /// Elements whose limbs are edges, in every combination that a small generator comes by.
    fn elements(seed: u64) -> [[u64; 5]; LANES] {
        let mut state = seed;
        std::array::from_fn(|_| {
            std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let edge = EDGES[(state >> 60) as usize % EDGES.len()];
                if state >> 33 & 1 == 0 { edge } else { state >> 13 }
            })
        })
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn agree_with_big_numbers(seed: u64) {
        let (left, right) = (elements(seed), elements(seed + 1));
        let vector = |elements: &[[u64; 5]; LANES]| {
            Field(std::array::from_fn(|limb| bytemuck::cast(elements.map(|element| element[limb]))))
        };
        let (a, b) = (vector(&left), vector(&right));
        let p = modulus();
        let results = [a.mul(&b), a.square(), a.add(&b), a.sub(&b), a.negate()];
        for index in 0..LANES {
            let (x, y) = (number(&left[index]), number(&right[index]));
            let twice = &p * 4u8;
            let expected = [&x * &y, &x * &x, &x + &y, &twice + &x - &y, &twice - &x];
            for (kind, (result, expected)) in results.iter().zip(expected).enumerate() {
                let limbs = lane(result, index);
                let bound = (1u64 << LIMB_BITS) + (1 << 15);
                assert!(limbs.iter().all(|limb| *limb < bound), "kind {kind} is reduced, seed {seed}");
                assert_eq!(number(&limbs) % &p, &expected % &p, "kind {kind}, seed {seed}");
                assert_eq!(number(&lane(&result.canonical(), index)), expected % &p, "kind {kind}, seed {seed}");
            }
            assert_eq!(a.is_zero() >> index & 1 == 1, x % &p == BigUint::ZERO, "seed {seed}");
        }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn canonical_around_the_modulus() {
        for offset in 0..40u64 {
            // p − 20 + offset, which is 2²⁵⁵ − 39 + offset.
            let mut limbs = [LIMB_MASK; 5];
            limbs[0] = LIMB_MASK - 38 + offset;
            let expected = number(&limbs) % modulus();
            let field = Field(limbs.map(|limb| _mm512_set1_epi64(limb.cast_signed())));
            assert_eq!(number(&lane(&field.canonical(), 3)), expected, "offset {offset}");
            assert_eq!(field.is_zero() == !0, expected == BigUint::ZERO, "offset {offset}");
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "the instructions are there if `is_available` says so")]
    fn arithmetic_agrees_with_big_numbers_up_to_the_largest_limbs() {
        if !super::super::is_available() {
            eprintln!("not run: this machine has no AVX-512 IFMA");
            return;
        }
        for seed in 0..2_000 {
            // SAFETY: asked above.
            unsafe { agree_with_big_numbers(seed) };
        }
        // SAFETY: asked above.
        unsafe { canonical_around_the_modulus() };
    }
}
