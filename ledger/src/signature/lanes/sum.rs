//! Whether a sum of multiples of points is the identity, times eight.
//!
//! Pippenger's bucket method with eight windows at once: lane l of window group g adds each point to the bucket of the
//! point's digit 8g + l, so no two lanes meet in a bucket.

use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_permutex2var_epi64, _mm512_setzero_si512, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::field::{Field, LANES};
use super::point::{Addend, Affine, Extended};
use super::{DIGITS, SHORT_DIGITS, Term};

/// Terms from which on digits of 8 bits cost less than digits of 4.
const WIDE_TERMS_MIN: usize = 400;
/// Vectors of encodings that are decompressed together.
const TOGETHER: usize = 2;

/// y + x, y − x, 2dxy of one point, five limbs each.
type StoredAddend = [[u64; 8]; 2];

/// Terms with their points decompressed.
struct Terms<'a, const N: usize> {
    terms: &'a [Term<N>],
    addends: Vec<StoredAddend>,
}

/// Whether every point decompresses, and eight times the sum is the identity.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn is_identity(short: &[Term<SHORT_DIGITS>], long: &[Term<DIGITS>]) -> bool {
    let (Some(short), Some(long)) = (decompress(short), decompress(long)) else { return false };
    let few = short.terms.len() + long.terms.len() < WIDE_TERMS_MIN;
    let sum = if few { sum::<4>(&short, &long) } else { sum::<8>(&short, &long) };
    sum.double_times(3).is_identity() & 1 == 1
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn decompress<const N: usize>(all: &[Term<N>]) -> Option<Terms<'_, N>> {
    /// Of the point (0, 1), for lanes without a term.
    const IDENTITY: [u8; 32] = {
        let mut bytes = [0; 32];
        bytes[0] = 1;
        bytes
    };
    let mut addends = Vec::with_capacity(all.len().next_multiple_of(TOGETHER * LANES));
    for terms in all.chunks(TOGETHER * LANES) {
        let mut encodings = [[IDENTITY; LANES]; TOGETHER];
        for (encoding, term) in encodings.as_flattened_mut().iter_mut().zip(terms) {
            *encoding = term.point;
        }
        for (points, valid) in Affine::decompress(&encodings) {
            if valid != !0 {
                return None;
            }
            let Addend { sum, difference, product } = points.addend();
            let zero = _mm512_setzero_si512();
            let [s, d, p] = [sum.0, difference.0, product.0];
            let first = transpose([s[0], s[1], s[2], s[3], s[4], d[0], d[1], d[2]]);
            let second = transpose([d[3], d[4], p[0], p[1], p[2], p[3], p[4], zero]);
            for lane in 0..LANES {
                addends.push([bytemuck::cast(first[lane]), bytemuck::cast(second[lane])]);
            }
        }
    }
    addends.truncate(all.len());
    Some(Terms { terms: all, addends })
}

/// Turns rows into columns.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
    let low_pairs: __m512i = bytemuck::cast([0i64, 1, 8, 9, 4, 5, 12, 13]);
    let high_pairs: __m512i = bytemuck::cast([2i64, 3, 10, 11, 6, 7, 14, 15]);
    let low_fours: __m512i = bytemuck::cast([0i64, 1, 2, 3, 8, 9, 10, 11]);
    let high_fours: __m512i = bytemuck::cast([4i64, 5, 6, 7, 12, 13, 14, 15]);
    let [a, b, c, d, e, f, g, h] = rows;
    // Pairs of rows: columns 0, 2, 4, 6 and 1, 3, 5, 7.
    let even = [(a, b), (c, d), (e, f), (g, h)].map(|(one, two)| _mm512_unpacklo_epi64(one, two));
    let odd = [(a, b), (c, d), (e, f), (g, h)].map(|(one, two)| _mm512_unpackhi_epi64(one, two));
    let four = |one, two, index| _mm512_permutex2var_epi64(one, index, two);
    // Four rows: columns (0, 4), (2, 6), (1, 5), (3, 7).
    let halves = |pairs: [__m512i; 4]| {
        [
            (four(pairs[0], pairs[1], low_pairs), four(pairs[2], pairs[3], low_pairs)),
            (four(pairs[0], pairs[1], high_pairs), four(pairs[2], pairs[3], high_pairs)),
        ]
    };
    let [c04, c26] = halves(even);
    let [c15, c37] = halves(odd);
    let low = |(one, two)| four(one, two, low_fours);
    let high = |(one, two)| four(one, two, high_fours);
    [low(c04), low(c15), low(c26), low(c37), high(c04), high(c15), high(c26), high(c37)]
}

/// A bucket of one lane: twenty limbs of an extended point and four of padding.
type Bucket = [__m512i; 3];

/// Buckets of eight windows.
struct Buckets {
    /// Digits are −places … places; each lane has a bucket for each magnitude. That of 0 gathers what is thrown away.
    places: usize,
    buckets: Vec<Bucket>,
}

impl Buckets {
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn new(places: usize) -> Self {
        let mut buckets = Self { places, buckets: vec![[_mm512_setzero_si512(); 3]; LANES * (places + 1)] };
        buckets.clear();
        buckets
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn clear(&mut self) {
        let identity = rows(&Extended::identity())[0];
        self.buckets.fill(identity);
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn load(&self, places: &[usize; LANES]) -> Extended {
        from_rows(&places.map(|place| self.buckets[place]))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn add(&mut self, digits: &[i8; LANES], addend: &Addend) {
        let mut negative: __mmask8 = 0;
        let places: [usize; LANES] = core::array::from_fn(|lane| {
            negative |= u8::from(digits[lane] < 0) << lane;
            lane * (self.places + 1) + usize::from(digits[lane].unsigned_abs())
        });
        let sum = self.load(&places).add_affine(addend, negative);
        for (place, row) in places.into_iter().zip(rows(&sum)) {
            self.buckets[place] = row;
        }
    }

    /// Each lane's buckets, each as often as its digit says.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn total(&self) -> Extended {
        let (mut running, mut total) = (Extended::identity(), Extended::identity());
        for place in (1..=self.places).rev() {
            let places = core::array::from_fn(|lane| lane * (self.places + 1) + place);
            running = running.add(&self.load(&places));
            total = total.add(&running);
        }
        total
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn rows(point: &Extended) -> [Bucket; LANES] {
    let zero = _mm512_setzero_si512();
    let [x, y, z, t] = [point.x.0, point.y.0, point.z.0, point.t.0];
    let first = transpose([x[0], x[1], x[2], x[3], x[4], y[0], y[1], y[2]]);
    let second = transpose([y[3], y[4], z[0], z[1], z[2], z[3], z[4], t[0]]);
    let third = transpose([t[1], t[2], t[3], t[4], zero, zero, zero, zero]);
    core::array::from_fn(|lane| [first[lane], second[lane], third[lane]])
}

#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn from_rows(rows: &[Bucket; LANES]) -> Extended {
    let [x0, x1, x2, x3, x4, y0, y1, y2] = transpose(rows.map(|row| row[0]));
    let [y3, y4, z0, z1, z2, z3, z4, t0] = transpose(rows.map(|row| row[1]));
    let [t1, t2, t3, t4, ..] = transpose(rows.map(|row| row[2]));
    Extended {
        x: Field([x0, x1, x2, x3, x4]),
        y: Field([y0, y1, y2, y3, y4]),
        z: Field([z0, z1, z2, z3, z4]),
        t: Field([t0, t1, t2, t3, t4]),
    }
}

/// The sum in lane 0; `BITS` a digit, 8 or 4.
#[target_feature(enable = "avx512f,avx512ifma")]
fn sum<const BITS: usize>(short: &Terms<'_, SHORT_DIGITS>, long: &Terms<'_, DIGITS>) -> Extended {
    let groups = 8 * DIGITS / BITS / LANES;
    let short_groups = 8 * SHORT_DIGITS / BITS / LANES;
    let mut buckets = Buckets::new(1 << (BITS - 1));
    let mut sum = Extended::identity();
    for group in (0..groups).rev() {
        buckets.clear();
        gather::<BITS, _>(&mut buckets, long, group);
        if group < short_groups {
            gather::<BITS, _>(&mut buckets, short, group);
        }
        sum = sum.double_times(BITS * LANES).add(&buckets.total());
    }
    // Lane l counts 2^(BITS · l) fold.
    let upper = sum.permute([4, 5, 6, 7, 4, 5, 6, 7]);
    let fours = sum.add(&upper.double_times(4 * BITS));
    let upper = fours.permute([2, 3, 2, 3, 2, 3, 2, 3]);
    let twos = fours.add(&upper.double_times(2 * BITS));
    let upper = twos.permute([1; LANES]);
    twos.add(&upper.double_times(BITS))
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn gather<const BITS: usize, const N: usize>(buckets: &mut Buckets, terms: &Terms<'_, N>, group: usize) {
    for (term, addend) in terms.terms.iter().zip(&terms.addends) {
        let limbs = addend.as_flattened();
        let field = |start: usize| Field::splat(&core::array::from_fn(|limb| limbs[start + limb]));
        let addend = Addend { sum: field(0), difference: field(5), product: field(10) };
        buckets.add(&digits::<BITS, _>(term, group), &addend);
    }
}

/// The digits of a term in the windows of a group.
#[inline]
fn digits<const BITS: usize, const N: usize>(term: &Term<N>, group: usize) -> [i8; LANES] {
    core::array::from_fn(|lane| {
        if BITS == 8 {
            return term.digits[LANES * group + lane];
        }
        let byte = i16::from(term.digits[(LANES * group + lane) / 2]);
        // −8 … 7, and the rest in −8 … 8.
        let low = (byte << 12) >> 12;
        (if lane % 2 == 0 { low } else { (byte - low) >> 4 }) as i8
    })
}
