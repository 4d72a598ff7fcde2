//! Batches on their way out on one connection, from two queues: pushed as they come, and asked for by digest. The next
//! block waits for the first, a peer that catches up for the second; they take turns, so that neither starves.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Both queues of one connection.
#[derive(Debug)]
pub struct Bulk {
    pushed: mpsc::Receiver<Bytes>,
    served: mpsc::Receiver<Bytes>,
    /// Whether a served batch goes before a pushed one, if both wait.
    served_goes_first: bool,
}

impl Bulk {
    pub fn new(pushed: mpsc::Receiver<Bytes>, served: mpsc::Receiver<Bytes>) -> Self {
        Self { pushed, served, served_goes_first: false }
    }

    /// The next frame; `None` when both queues have ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Bytes> {
        let (first, second) = match self.served_goes_first {
            true => (&mut self.served, &mut self.pushed),
            false => (&mut self.pushed, &mut self.served),
        };
        let (frame, is_first) = tokio::select! {
            biased;
            Some(frame) = first.recv() => (frame, true),
            Some(frame) = second.recv() => (frame, false),
            else => return None,
        };
        // Whichever queue this frame is from, the other one is next.
        if is_first {
            self.served_goes_first = !self.served_goes_first;
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn queue(name: &'static str, count: usize) -> (mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(count + 1);
        for _ in 0..count {
            sender.send(Bytes::from_static(name.as_bytes())).await.unwrap();
        }
        (sender, receiver)
    }

    async fn taken(bulk: &mut Bulk, count: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        for _ in 0..count {
            taken.push(bulk.next().await.unwrap());
        }
        taken
    }

    #[tokio::test]
    async fn batches_asked_for_take_turns_with_pushed_ones() {
        let ((_push, pushed), (_serve, served)) = (queue("pushed", 5).await, queue("served", 3).await);
        let mut bulk = Bulk::new(pushed, served);
        let order = ["pushed", "served", "pushed", "served", "pushed", "served", "pushed", "pushed"];
        assert_eq!(taken(&mut bulk, 8).await, order);
    }

    #[tokio::test]
    async fn a_batch_pushed_late_waits_for_one_served_batch_at_most() {
        let ((push, pushed), (_serve, served)) = (queue("pushed", 0).await, queue("served", 4).await);
        let mut bulk = Bulk::new(pushed, served);
        assert_eq!(taken(&mut bulk, 2).await, ["served", "served"]);
        push.send(Bytes::from_static(b"pushed")).await.unwrap();
        assert_eq!(taken(&mut bulk, 3).await, ["pushed", "served", "served"]);
    }

    #[tokio::test]
    async fn ends_when_both_queues_have_ended() {
        let ((push, pushed), (serve, served)) = (queue("pushed", 0).await, queue("served", 1).await);
        let mut bulk = Bulk::new(pushed, served);
        drop((push, serve));
        assert!(bulk.next().await.is_some() && bulk.next().await.is_none());
    }
}
