//! Eight points of the curve −x² + y² = 1 + dx²y² at once.
//!
//! Formulas: Hisil, Wong, Carter, Dawson, "Twisted Edwards Curves Revisited" (2008), complete for this curve: no pair of
//! points is an exception.

use core::arch::x86_64::{__m512i, __mmask8, _mm512_permutexvar_epi64};

use super::field::{Field, LANES};

/// Affine points, as decompressed.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) x: Field,
    pub(super) y: Field,
}

/// Affine points prepared to be added: y + x, y − x, 2dxy.
#[derive(Clone, Copy)]
pub(super) struct Addend {
    pub(super) sum: Field,
    pub(super) difference: Field,
    pub(super) product: Field,
}

/// Points in extended coordinates: x = X/Z, y = Y/Z, xy = T/Z.
#[derive(Clone, Copy)]
pub(super) struct Extended {
    pub(super) x: Field,
    pub(super) y: Field,
    pub(super) z: Field,
    pub(super) t: Field,
}

impl Affine {
    /// Decompresses by ZIP-215: y need not be below p, and a sign bit on x = 0 is ignored. The mask says which lanes
    /// hold a point.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn decompress<const N: usize>(encodings: &[[[u8; 32]; LANES]; N]) -> [(Self, __mmask8); N] {
        let one = Field::one();
        let y = encodings.each_ref().map(|encodings| Field::from_bytes(encodings));
        // x² = u / v.
        let squares = y.map(|y| y.square());
        let u = squares.map(|square| square.sub(&one));
        let v = squares.map(|square| square.mul(&Field::d()).add(&one));
        let root = root_of_ratio(&u, &v);
        core::array::from_fn(|n| {
            let negative =
                encodings[n].iter().enumerate().fold(0, |mask, (lane, bytes)| mask | (bytes[31] >> 7) << lane);
            let (x, is_square) = root[n];
            let x = x.select(x.is_negative() ^ negative, &x.negate());
            (Self { x, y: y[n] }, is_square)
        })
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn addend(&self) -> Addend {
        Addend {
            sum: self.y.add(&self.x),
            difference: self.y.sub(&self.x),
            product: self.x.mul(&self.y).mul(&Field::twice_d()),
        }
    }
}

/// A square root of u/v in each lane, of either sign, and the lanes in which there is one. Several vectors at once,
/// because each squaring waits for the one before it.
#[target_feature(enable = "avx512f,avx512ifma")]
fn root_of_ratio<const N: usize>(u: &[Field; N], v: &[Field; N]) -> [(Field, __mmask8); N] {
    let u_v3: [Field; N] = core::array::from_fn(|n| v[n].square().mul(&v[n]).mul(&u[n]));
    let u_v7: [Field; N] = core::array::from_fn(|n| u_v3[n].mul(&v[n].square_times(2)));
    let power = power_p58(&u_v7);
    core::array::from_fn(|n| {
        let root = u_v3[n].mul(&power[n]);
        let check = root.square().mul(&v[n]);
        let direct = check.equals(&u[n]);
        let flipped = check.equals(&u[n].negate());
        (root.select(flipped, &root.mul(&Field::root_of_minus_one())), direct | flipped)
    })
}

/// x^((p − 5) / 8) = x^(2²⁵² − 3).
#[target_feature(enable = "avx512f,avx512ifma")]
fn power_p58<const N: usize>(x: &[Field; N]) -> [Field; N] {
    // Names say which powers of two the exponent is made of.
    let p1 = square_all(x, 1);
    let p3_0 = mul_all(&square_all(&p1, 2), x);
    let p3_1_0 = mul_all(&p3_0, &p1);
    let p4_to_0 = mul_all(&square_all(&p3_1_0, 1), &p3_0);
    let p9_to_0 = mul_all(&square_all(&p4_to_0, 5), &p4_to_0);
    let p19_to_0 = mul_all(&square_all(&p9_to_0, 10), &p9_to_0);
    let p39_to_0 = mul_all(&square_all(&p19_to_0, 20), &p19_to_0);
    let p49_to_0 = mul_all(&square_all(&p39_to_0, 10), &p9_to_0);
    let p99_to_0 = mul_all(&square_all(&p49_to_0, 50), &p49_to_0);
    let p199_to_0 = mul_all(&square_all(&p99_to_0, 100), &p99_to_0);
    let p249_to_0 = mul_all(&square_all(&p199_to_0, 50), &p49_to_0);
    mul_all(&square_all(&p249_to_0, 2), x)
}

#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn mul_all<const N: usize>(a: &[Field; N], b: &[Field; N]) -> [Field; N] {
    core::array::from_fn(|n| a[n].mul(&b[n]))
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn square_all<const N: usize>(x: &[Field; N], times: u32) -> [Field; N] {
    let mut power = *x;
    for _ in 0..times {
        for one in &mut power {
            *one = one.square();
        }
    }
    power
}

impl Extended {
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn identity() -> Self {
        Self { x: Field::zero(), y: Field::one(), z: Field::one(), t: Field::zero() }
    }

    /// Adds an affine point, or takes it off in the lanes of the mask.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn add_affine(&self, other: &Addend, negative: __mmask8) -> Self {
        let minuend = other.difference.select(negative, &other.sum);
        let augend = other.sum.select(negative, &other.difference);
        let a = self.y.sub(&self.x).mul(&minuend);
        let b = self.y.add(&self.x).mul(&augend);
        let c = self.t.mul(&other.product);
        let d = self.z.add(&self.z);
        let (less, more) = (d.sub(&c), d.add(&c));
        Self::completed(&b.sub(&a), &less.select(negative, &more), &more.select(negative, &less), &b.add(&a))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn add(&self, other: &Self) -> Self {
        let a = self.y.sub(&self.x).mul(&other.y.sub(&other.x));
        let b = self.y.add(&self.x).mul(&other.y.add(&other.x));
        let c = self.t.mul(&other.t).mul(&Field::twice_d());
        let d = self.z.mul(&other.z);
        let d = d.add(&d);
        Self::completed(&b.sub(&a), &d.sub(&c), &d.add(&c), &b.add(&a))
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn double(&self) -> Self {
        let a = self.x.square();
        let b = self.y.square();
        let z_square = self.z.square();
        let c = z_square.add(&z_square);
        let sum = a.add(&b);
        let g = a.sub(&b);
        let e = sum.sub(&self.x.add(&self.y).square());
        let f = c.add(&g);
        Self::completed(&e, &f, &g, &sum)
    }

    /// 2^times of each.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn double_times(&self, times: usize) -> Self {
        let mut point = *self;
        for _ in 0..times {
            point = point.double();
        }
        point
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn completed(e: &Field, f: &Field, g: &Field, h: &Field) -> Self {
        Self { x: e.mul(f), y: g.mul(h), z: f.mul(g), t: e.mul(h) }
    }

    /// The points of `lanes[i]` in lane i.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn permute(&self, lanes: [i64; LANES]) -> Self {
        let lanes: __m512i = bytemuck::cast(lanes);
        let permute = |field: &Field| Field(field.0.map(|limb| _mm512_permutexvar_epi64(lanes, limb)));
        Self { x: permute(&self.x), y: permute(&self.y), z: permute(&self.z), t: permute(&self.t) }
    }

    /// The lanes that hold the identity.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn is_identity(&self) -> __mmask8 {
        self.x.is_zero() & self.y.equals(&self.z)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curve25519_dalek::edwards::CompressedEdwardsY;

    /// Encodings of points, of none, with y beyond p, and with the sign bit on x = 0.
    fn encodings() -> Vec<[u8; 32]> {
        let mut encodings: Vec<[u8; 32]> =
            (0..256u32).map(|seed| *blake3::hash(&seed.to_le_bytes()).as_bytes()).collect();
        for low in 0xe0..=0xffu8 {
            for high in [0x7f, 0xff] {
                let mut bytes = [0xff; 32];
                (bytes[0], bytes[31]) = (low, high);
                encodings.push(bytes);
            }
        }
        for low in 0..=31u8 {
            for high in [0, 0x80] {
                let mut bytes = [0; 32];
                (bytes[0], bytes[31]) = (low, high);
                encodings.push(bytes);
            }
        }
        encodings
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn decompress_like_dalek(encodings: &[[u8; 32]; LANES]) {
        let [(points, valid)] = Affine::decompress(&[*encodings]);
        let (x, y) = (points.x.canonical(), points.y.canonical());
        for (lane, encoding) in encodings.iter().enumerate() {
            let expected = CompressedEdwardsY(*encoding).decompress();
            assert_eq!(valid >> lane & 1 == 1, expected.is_some(), "{encoding:?}");
            let Some(expected) = expected else { continue };
            let limb = |field: &Field, limb: usize| bytemuck::cast::<_, [u64; LANES]>(field.0[limb])[lane];
            let mut compressed = [0u8; 32];
            for place in 0..5 {
                for bit in 0..51 {
                    let at = 51 * place + bit;
                    compressed[at / 8] |= ((limb(&y, place) >> bit & 1) as u8) << (at % 8);
                }
            }
            compressed[31] |= (limb(&x, 0) as u8 & 1) << 7;
            assert_eq!(compressed, expected.compress().0, "{encoding:?}");
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "the instructions are there if `is_available` says so")]
    fn decompression_has_dalek_s_verdict_and_point() {
        if !super::super::is_available() {
            eprintln!("not run: this machine has no AVX-512 IFMA");
            return;
        }
        let encodings = encodings();
        let (vectors, rest) = encodings.as_chunks::<LANES>();
        assert!(rest.is_empty());
        for vector in vectors {
            // SAFETY: asked above.
            unsafe { decompress_like_dalek(vector) };
        }
    }
}
