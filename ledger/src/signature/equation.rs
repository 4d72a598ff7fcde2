//! The general code: claims as points and numbers, checked one by one or as one sum that is halved where it fails.

use std::iter::once;
use std::ops::Range;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};

use super::Challenged;

/// A failed group of at most this many claims is checked one by one, which is then cheaper than halving.
pub(super) const SINGLES_MAX: usize = 8;

/// A claim as points and numbers: it holds if `8·(R + k·A − s·B) = 0`.
pub(super) struct Equation {
    /// R, the signer's commitment.
    commitment: EdwardsPoint,
    /// A, the public key.
    key: EdwardsPoint,
    /// k, the hash of everything.
    challenge: Scalar,
    /// s.
    response: Scalar,
}

impl Equation {
    /// `None` if R or A is no point: then the claim does not hold.
    pub(super) fn of(claim: &Challenged) -> Option<Self> {
        let commitment = CompressedEdwardsY(claim.commitment).decompress()?;
        let key = CompressedEdwardsY(claim.key).decompress()?;
        Some(Self { commitment, key, challenge: claim.challenge, response: claim.response })
    }

    pub(super) fn holds(&self) -> bool {
        let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&self.challenge, &-self.key, &self.response);
        (expected - self.commitment).mul_by_cofactor().is_identity()
    }
}

/// The places of the equations that do not hold, given a coefficient for each.
pub(super) fn failed(equations: &[Equation], coefficients: &[Scalar]) -> Vec<usize> {
    if equations.len() <= SINGLES_MAX {
        return (0..equations.len()).filter(|place| !equations[*place].holds()).collect();
    }
    let sum = WeightedSum::new(equations, coefficients);
    let all = 0..equations.len();
    let mut failed = Vec::new();
    sum.find_failed(all.clone(), &sum.residue(all), &mut failed);
    failed
}

/// The terms of the batch equation, laid out so that any run of claims is a run of terms.
struct WeightedSum<'a> {
    equations: &'a [Equation],
    /// Rᵢ, Aᵢ of each claim and their scalars zᵢ, zᵢkᵢ.
    points: Vec<EdwardsPoint>,
    scalars: Vec<Scalar>,
    /// −zᵢsᵢ of each claim.
    base_scalars: Vec<Scalar>,
}

impl<'a> WeightedSum<'a> {
    fn new(equations: &'a [Equation], coefficients: &[Scalar]) -> Self {
        let mut points = Vec::with_capacity(2 * equations.len());
        let mut scalars = Vec::with_capacity(2 * equations.len());
        let mut base_scalars = Vec::with_capacity(equations.len());
        for (equation, coefficient) in equations.iter().zip(coefficients) {
            points.extend([equation.commitment, equation.key]);
            scalars.extend([*coefficient, coefficient * equation.challenge]);
            base_scalars.push(-(coefficient * equation.response));
        }
        Self { equations, points, scalars, base_scalars }
    }

    /// Eight times the sum over the claims in `range`: the identity if all of them hold.
    fn residue(&self, range: Range<usize>) -> EdwardsPoint {
        let base_scalar: Scalar = self.base_scalars[range.clone()].iter().sum();
        let terms = 2 * range.start..2 * range.end;
        EdwardsPoint::vartime_multiscalar_mul(
            once(&base_scalar).chain(&self.scalars[terms.clone()]),
            once(&ED25519_BASEPOINT_POINT).chain(&self.points[terms]),
        )
        .mul_by_cofactor()
    }

    /// Halves `range`, whose residue is given, down to its bad claims.
    fn find_failed(&self, range: Range<usize>, residue: &EdwardsPoint, failed: &mut Vec<usize>) {
        if residue.is_identity() {
            return;
        }
        if range.len() <= SINGLES_MAX {
            failed.extend(range.filter(|place| !self.equations[*place].holds()));
            return;
        }
        let middle = range.start + range.len() / 2;
        let left = self.residue(range.start..middle);
        self.find_failed(range.start..middle, &left, failed);
        self.find_failed(middle..range.end, &(residue - left), failed);
    }
}
