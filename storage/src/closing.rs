//! Closing sled in bounded time.
//!
//! sled flushes whenever one of its handles is dropped. But once a flush failed, the next one waits for it, and no one
//! ever tells it that there is nothing to wait for: dropping the handle then blocks for ever. So handles are dropped on
//! a thread of their own, which is not waited for any longer than [`CLOSE_MAX`].

use std::mem;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::guarded::{SledPanicked, guarded, guarded_alone};

/// How long closing may take. It writes what is not flushed yet: hardly anything, unless a write failed before.
pub(crate) const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Drops handles of sled. What does not end in time stays with its thread until the process ends, and with it the lock
/// of the directory: opening `path` fails until then, unless another directory has taken that name.
pub(crate) fn close<T: Send + 'static>(path: &Path, handles: T) {
    let (hand_over, handed) = channel::<T>();
    let (tell, told) = channel();
    let run = move || {
        let Ok(handles) = handed.recv() else { return };
        // Nobody may wait any more.
        tell.send(guarded_alone(|| drop(handles))).ok();
    };
    let path = path.display();
    if let Err(error) = thread::Builder::new().name("sled-close".into()).spawn(run) {
        // Dropped here they might block for ever.
        mem::forget(handles);
        tracing::error!(%path, %error, "no thread to close sled: its directory stays locked until this process ends");
        return;
    }
    // The thread ends only after it took them.
    hand_over.send(handles).ok();
    // Guarded from here, as long as it is waited for, because rayon's threads may work for the one that closes.
    match guarded(|| told.recv_timeout(CLOSE_MAX)) {
        Ok(Ok(Ok(()))) => {}
        Ok(Err(RecvTimeoutError::Timeout)) => tracing::error!(
            %path,
            waited = ?CLOSE_MAX,
            "sled does not close, as ever after a write failed: its directory stays locked until this process ends. \
             Restart the process once its disk is in order; nothing is lost, the log holds all of it"
        ),
        Ok(Ok(Err(SledPanicked)) | Err(RecvTimeoutError::Disconnected)) | Err(SledPanicked) => {
            tracing::warn!(%path, "sled panicked when it was closed");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Longer than anything here takes that is bounded.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// Leaves no room for what a closed sled may yet write: its flushes will fail as on a full disk, if they write
    /// anything that has another size than what it holds.
    pub(crate) fn leave_no_room(sled: &Path) {
        for slab in fs::read_dir(sled.join("slabs")).unwrap().map(Result::unwrap) {
            if slab.metadata().unwrap().len() == 0 {
                fs::remove_file(slab.path()).unwrap();
                symlink("/dev/full", slab.path()).unwrap();
            }
        }
    }

    /// Does something that could block for ever.
    pub(crate) fn in_time<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        thread::spawn(move || tell.send(act()));
        told.recv_timeout(DEADLINE).expect("it blocks, or panicked")
    }

    /// Says that it was dropped.
    struct Handle(Arc<AtomicBool>, fn());

    impl Drop for Handle {
        fn drop(&mut self) {
            (self.1)();
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_closes_is_waited_for() {
        let dropped = Arc::new(AtomicBool::new(false));
        close(Path::new("a"), Handle(Arc::clone(&dropped), || thread::sleep(Duration::from_millis(50))));
        assert!(dropped.load(Ordering::SeqCst));
    }

    #[test]
    fn what_panics_when_it_closes_is_closed() {
        let dropped = Arc::new(AtomicBool::new(false));
        let handle = Handle(Arc::clone(&dropped), || panic!("as sled does"));
        in_time(|| close(Path::new("a"), handle));
        assert!(!dropped.load(Ordering::SeqCst));
    }

    #[test]
    fn what_never_closes_is_given_up() {
        let dropped = Arc::new(AtomicBool::new(false));
        let handle = Handle(Arc::clone(&dropped), || thread::sleep(Duration::MAX));
        in_time(|| close(Path::new("a"), handle));
        assert!(!dropped.load(Ordering::SeqCst));
    }
}
