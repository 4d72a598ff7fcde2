//! Works that wait for a verification job, in lines: one for everybody, and one for each suspicious connection. Works of
//! one line are merged into jobs; works of different lines never are, and lines take turns, so that what a suspicious
//! connection costs is its own.

use std::collections::VecDeque;

use crate::verify::job::{Job, Weigh};
use crate::verify::suspicion::Suspicion;

/// The lines in the order of their turns; none is empty.
#[derive(Debug)]
pub struct Lines<W> {
    lines: VecDeque<Line<W>>,
}

#[derive(Debug)]
struct Line<W> {
    /// Whose line it is; `None` for everybody's.
    suspect: Option<Suspicion>,
    jobs: VecDeque<Job<W>>,
}

impl<W> Default for Lines<W> {
    fn default() -> Self {
        Self { lines: VecDeque::new() }
    }
}

impl<W: Weigh> Lines<W> {
    /// Adds work of a connection to the line that it belongs to now.
    pub fn push(&mut self, suspicion: &Suspicion, work: W) {
        let suspect = suspicion.is_raised().then(|| suspicion.clone());
        let at = self.lines.iter().position(|line| line.suspect == suspect).unwrap_or_else(|| {
            self.lines.push_back(Line { suspect, jobs: VecDeque::new() });
            self.lines.len() - 1
        });
        let jobs = &mut self.lines[at].jobs;
        let refused = match jobs.back_mut() {
            Some(last) => last.push(work).err(),
            None => Some(work),
        };
        if let Some(work) = refused {
            let mut job = Job::default();
            assert!(job.push(work).is_ok(), "an empty job takes anything");
            jobs.push_back(job);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a job is worth starting without waiting for more.
    pub fn is_worthwhile(&self) -> bool {
        self.lines.iter().any(|line| line.jobs.front().is_some_and(Job::is_worthwhile))
    }

    /// The job whose turn it is.
    pub fn take_job(&mut self) -> Option<Vec<W>> {
        let mut line = self.lines.pop_front()?;
        let job = line.jobs.pop_front().expect("no line is empty");
        if !line.jobs.is_empty() {
            self.lines.push_back(line);
        }
        Some(job.into_works())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect() -> Suspicion {
        let suspicion = Suspicion::default();
        suspicion.raise();
        suspicion
    }

    fn jobs(mut lines: Lines<usize>) -> Vec<Vec<usize>> {
        std::iter::from_fn(|| lines.take_job()).collect()
    }

    #[test]
    fn works_of_one_suspicious_connection_are_merged_with_one_another_only() {
        let (clean, first, second) = (Suspicion::default(), suspect(), suspect());
        let mut lines = Lines::default();
        for _ in 0..3 {
            lines.push(&clean, 1);
            lines.push(&first, 2);
            lines.push(&second, 3);
            lines.push(&Suspicion::default(), 4);
        }
        assert_eq!(jobs(lines), [vec![1, 4, 1, 4, 1, 4], vec![2; 3], vec![3; 3]]);
    }

    #[test]
    fn a_suspicious_flood_takes_turns_with_everybody_else() {
        let (clean, flooding) = (Suspicion::default(), suspect());
        let mut lines = Lines::default();
        (0..3).for_each(|_| lines.push(&flooding, 1_024));
        lines.push(&clean, 1);
        assert_eq!(jobs(lines), [vec![1_024], vec![1], vec![1_024], vec![1_024]]);
    }

    #[test]
    fn a_job_is_worthwhile_only_by_works_that_may_be_merged() {
        let (clean, suspicious) = (Suspicion::default(), suspect());
        let mut lines = Lines::default();
        lines.push(&clean, 300);
        lines.push(&suspicious, 300);
        assert!(!lines.is_worthwhile() && !lines.is_empty());
        lines.push(&clean, 300);
        assert!(lines.is_worthwhile());
        assert_eq!(jobs(lines), [vec![300, 300], vec![300]]);
    }
}
