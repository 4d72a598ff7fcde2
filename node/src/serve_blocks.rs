//! Questions for blocks, which the core answers with up to a megabyte each: of one connection the core has one at a time.
//! The next one waits until the answer is said and has nearly left, so that asking in a loop costs the core no more than
//! the asker's own reading allows, and answers that nobody reads do not pile up.

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use zeni_consensus::{Message, Peer};

use crate::core_queue::{CoreSender, Task};

/// Questions for blocks of one connection that wait, at most. A validator asks one by locator and up to 64 by id; further
/// ones are not answered, and who asked asks again or elsewhere after a while.
pub const QUESTIONS_MAX: usize = 128;
/// Messages that wait to be sent on a connection, at most, when its next question is put to the core.
const UNSENT_MAX: usize = 16;

/// How much waits to be sent on one connection, batches aside.
#[derive(Debug)]
pub struct Unsent<'a> {
    pub control: &'a mpsc::Sender<Bytes>,
    /// Notified after each message that was sent.
    pub sent: &'a Notify,
}

impl Unsent<'_> {
    /// Waits until hardly anything waits to be sent.
    pub async fn wait_until_few(&self) {
        while self.control.max_capacity() - self.control.capacity() > UNSENT_MAX {
            self.sent.notified().await;
        }
    }
}

/// Puts one question after the other to the core, until the connection or the core ends.
pub async fn serve(mut questions: mpsc::Receiver<Message>, from: Peer, core: &CoreSender, unsent: Unsent<'_>) {
    while let Some(question) = questions.recv().await {
        unsent.wait_until_few().await;
        let (answered, said) = oneshot::channel();
        core.control(Task::BlocksAsked { from, question, answered }, None);
        if said.await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core_queue::{CoreReceiver, core_queue};

    const ASKER: Peer = Peer::Follower(1);

    /// Runs everything that can run, and returns how the core would say that it answered.
    async fn asked(core: &CoreReceiver) -> Option<oneshot::Sender<()>> {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        core.try_next().map(|task| match task {
            Task::BlocksAsked { from: ASKER, answered, .. } => answered,
            other => panic!("{other:?}"),
        })
    }

    async fn three_questions() -> mpsc::Receiver<Message> {
        let (ask, questions) = mpsc::channel(3);
        for _ in 0..3 {
            ask.send(Message::FetchBlocks { locator: Vec::new() }).await.unwrap();
        }
        questions
    }

    #[tokio::test]
    async fn the_next_question_waits_for_the_answer_before() {
        let (core, tasks) = core_queue();
        let (control, _queue) = mpsc::channel(1);
        let questions = three_questions().await;
        let serving = tokio::spawn(async move {
            serve(questions, ASKER, &core, Unsent { control: &control, sent: &Notify::new() }).await;
        });
        for _ in 0..3 {
            let answered = asked(&tasks).await.expect("a question");
            assert!(asked(&tasks).await.is_none(), "a second one at the same time");
            answered.send(()).unwrap();
        }
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn the_next_question_waits_until_what_was_said_has_left() {
        let (core, tasks) = core_queue();
        let (control, mut queue) = mpsc::channel(2 * UNSENT_MAX);
        let sent = std::sync::Arc::new(Notify::new());
        let (questions, sender, notify) = (three_questions().await, control.clone(), sent.clone());
        tokio::spawn(async move { serve(questions, ASKER, &core, Unsent { control: &sender, sent: &notify }).await });
        let answered = asked(&tasks).await.expect("nothing waits to be sent");
        for _ in 0..=UNSENT_MAX {
            control.try_send(Bytes::new()).unwrap();
        }
        answered.send(()).unwrap();
        assert!(asked(&tasks).await.is_none(), "its answer is not read");
        queue.try_recv().unwrap();
        sent.notify_one();
        assert!(asked(&tasks).await.is_some());
    }
}
