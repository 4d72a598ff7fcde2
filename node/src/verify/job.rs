//! Where one verification job ends and the next begins.

/// Signatures from which a job is worth its start.
pub const JOB_SIGNATURES_MIN: usize = 512;
/// Signatures of one job, at most (the largest single piece of work fits).
pub const JOB_SIGNATURES_MAX: usize = 1_024;

/// Something that holds signatures to check.
pub trait Weigh {
    /// Signatures in it, 1 to [`JOB_SIGNATURES_MAX`].
    fn signatures(&self) -> usize;
}

/// A job that is being collected. Pieces of work are never split.
#[derive(Debug)]
pub struct Job<W> {
    works: Vec<W>,
    signatures: usize,
}

impl<W> Default for Job<W> {
    fn default() -> Self {
        Self { works: Vec::new(), signatures: 0 }
    }
}

impl<W: Weigh> Job<W> {
    /// Adds `work` if there is room for it, otherwise gives it back. An empty job takes anything.
    pub fn push(&mut self, work: W) -> Result<(), W> {
        let signatures = self.signatures + work.signatures();
        if signatures > JOB_SIGNATURES_MAX && !self.works.is_empty() {
            return Err(work);
        }
        self.signatures = signatures;
        self.works.push(work);
        Ok(())
    }

    /// Whether it is worth starting without waiting for more.
    pub fn is_worthwhile(&self) -> bool {
        self.signatures >= JOB_SIGNATURES_MIN
    }

    pub fn into_works(self) -> Vec<W> {
        self.works
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for usize {
        fn signatures(&self) -> usize {
            *self
        }
    }

    fn cut(works: &[usize]) -> Vec<Vec<usize>> {
        let (mut jobs, mut job) = (Vec::new(), Job::default());
        for work in works {
            if let Err(work) = job.push(*work) {
                jobs.push(std::mem::take(&mut job).into_works());
                job.push(work).unwrap();
            }
        }
        jobs.push(job.into_works());
        jobs
    }

    #[test]
    fn small_works_are_merged_up_to_the_limit() {
        let jobs = cut(&[1; 2_500]);
        let sizes: Vec<usize> = jobs.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1_024, 1_024, 452]);
    }

    #[test]
    fn a_work_is_never_split_and_order_stays() {
        assert_eq!(cut(&[1_024, 600, 600, 400, 24, 1]), [vec![1_024], vec![600], vec![600, 400, 24], vec![1]]);
    }

    #[test]
    fn an_oversized_work_is_a_job_of_its_own() {
        assert_eq!(cut(&[1, 5_000, 1]), [vec![1], vec![5_000], vec![1]]);
    }

    #[test]
    fn a_job_knows_when_it_is_worthwhile_and_when_full() {
        let mut job = Job::default();
        assert_eq!(job.push(511), Ok(()));
        assert!(!job.is_worthwhile());
        assert_eq!(job.push(1), Ok(()));
        assert!(job.is_worthwhile());
        assert_eq!(job.push(512), Ok(()));
        assert_eq!(job.push(1), Err(1));
    }
}
