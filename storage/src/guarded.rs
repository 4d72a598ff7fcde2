//! Calls of sled, which may panic over damaged files. Such a panic is an error like any other, also in a process that
//! ends at every other panic: its hook runs before the panic is caught, and asks [`is_guarded`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How sled calls the threads that it starts itself.
const SLED_THREAD: &str = "sled_flusher";

/// Guarded calls that go on in this process.
static CALLS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Guarded calls that this thread is inside of.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// sled panicked: whatever it was called on is not to be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SledPanicked;

/// Calls sled and catches its panics. `call` may leave only sled's own things in between.
pub(crate) fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, SledPanicked> {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let called = guarded_alone(call);
    CALLS.fetch_sub(1, Ordering::SeqCst);
    called
}

/// As [`guarded`], for a call that may never end: it guards its own thread, and no others for ever with it.
pub(crate) fn guarded_alone<T>(call: impl FnOnce() -> T) -> Result<T, SledPanicked> {
    INSIDE.set(INSIDE.get() + 1);
    let called = catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(INSIDE.get() - 1);
    called.map_err(|_| SledPanicked)
}

/// Whether a panic of the current thread belongs to sled, and will be caught where sled was called. For panic hooks that
/// end the process.
///
/// sled panics on the thread that calls it, on its own, and on rayon's, which have no name and do not tell whom they
/// work for. So while any guarded call goes on, every thread without a name is believed to work for sled. What that gives
/// up: a panic of another nameless thread at that time does not end the process by way of the hook, so whoever relies on
/// the hook gives threads names. And sled has a few tasks that rayon runs for nobody (`rayon::spawn`); if one of them
/// panics, rayon ends the process itself.
pub fn is_guarded() -> bool {
    match thread::current().name() {
        Some(SLED_THREAD) => true,
        Some(_) => INSIDE.get() > 0,
        None => INSIDE.get() > 0 || CALLS.load(Ordering::SeqCst) > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_guarded_on(thread: thread::Builder) -> bool {
        thread.spawn(is_guarded).unwrap().join().unwrap()
    }

    #[test]
    fn a_panic_belongs_to_sled_on_the_calling_thread_and_on_nameless_ones_that_may_work_for_it() {
        let named = || thread::Builder::new().name("core".into());
        assert!(!is_guarded());
        let seen = guarded(|| (is_guarded(), is_guarded_on(thread::Builder::new()), is_guarded_on(named())));
        assert_eq!(seen, Ok((true, true, false)));
        assert!(is_guarded_on(thread::Builder::new().name(SLED_THREAD.into())));
        assert!(!is_guarded());
    }

    #[test]
    fn a_panic_is_an_error_and_what_comes_after_it_is_guarded_no_more() {
        assert_eq!(guarded(|| panic!("as sled does")), Err::<(), _>(SledPanicked));
        assert!(!is_guarded());
        assert_eq!(guarded(|| guarded_alone(is_guarded)), Ok(Ok(true)));
        assert!(!is_guarded());
    }
}
