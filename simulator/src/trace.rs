//! What happened, in order: a running hash by which two runs of a seed are compared, and readable lines on demand.

use std::fmt::Write as _;

/// The trace of one run.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    events: u64,
    prints: bool,
}

impl Trace {
    /// An empty trace; `prints` writes each event to standard output as it happens.
    pub fn new(prints: bool) -> Self {
        Self { hasher: blake3::Hasher::new(), events: 0, prints }
    }

    /// Notes an event. `ids` is what distinguishes it; `detail` is for people.
    pub fn note(
        &mut self,
        at_ms: u64,
        node: usize,
        kind: &'static str,
        ids: &[&[u8]],
        detail: impl FnOnce() -> String,
    ) {
        self.events += 1;
        self.hasher.update(&at_ms.to_le_bytes()).update(&(node as u32).to_le_bytes()).update(kind.as_bytes());
        for id in ids {
            self.hasher.update(id);
        }
        if self.prints {
            println!("{:>10}.{:03}  n{node}  {kind:<12} {}", at_ms / 1_000, at_ms % 1_000, detail());
        }
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

/// The first bytes of an id in hexadecimal.
pub fn short(id: &[u8; 32]) -> String {
    id[..4].iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}
