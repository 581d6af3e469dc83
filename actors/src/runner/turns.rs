//! Fair turns: steps of several experiments compute one after another, each for one batch.
//!
//! Waiting experiments come in the order of their requests. A change of models may load
//! one. So an experiment that needs the model of the last turn goes before the others, a bounded number of
//! times.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dissent_domain::event::StepName;
use tokio::sync::oneshot;

/// Largest number of turns in a row with one model while others wait.
const SAME_MODEL_MAX: u32 = 4;
/// Interval at which a blocked thread looks for its turn.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The turns of a process: one for each step.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<StepName, Queue>>>);

#[derive(Default)]
struct Queue {
    /// Whether someone has the turn.
    is_taken: bool,
    /// The model of the last turn.
    model: Option<String>,
    /// Turns in a row with this model.
    in_a_row: u32,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    model: String,
    granted: oneshot::Sender<Turn>,
}

/// A turn; a drop passes it on.
pub(crate) struct Turn {
    turns: Turns,
    step: StepName,
    is_held: bool,
}

impl Turns {
    /// Waits for a turn of a step, with this model. Cancellation-safe.
    pub(crate) async fn take(&self, step: StepName, model: &str) -> Turn {
        match self.request(step, model) {
            Ok(turn) => turn,
            // A queue is never dropped while someone waits in it.
            Err(granted) => {
                granted.await.unwrap_or_else(|_| Turn { turns: self.clone(), step, is_held: false })
            }
        }
    }

    /// As [`take`](Self::take), on a thread that may block; `None` once `gives_up` says so.
    pub(crate) fn take_blocking(
        &self,
        step: StepName,
        model: &str,
        gives_up: impl Fn() -> bool,
    ) -> Option<Turn> {
        let mut granted = match self.request(step, model) {
            Ok(turn) => return Some(turn),
            Err(granted) => granted,
        };
        while !gives_up() {
            match granted.try_recv() {
                Ok(turn) => return Some(turn),
                Err(_) => std::thread::sleep(LOOK_INTERVAL),
            }
        }
        None
    }

    fn request(&self, step: StepName, model: &str) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut queues = self.lock();
        let queue = queues.entry(step).or_default();
        if !queue.is_taken {
            queue.grant(model);
            return Ok(self.turn(step));
        }
        let (granted, grant) = oneshot::channel();
        queue.waiting.push_back(Waiting { model: model.to_owned(), granted });
        Err(grant)
    }

    fn turn(&self, step: StepName) -> Turn {
        Turn { turns: self.clone(), step, is_held: true }
    }

    /// Passes the turn of a step on to the next that still waits.
    fn pass_on(&self, step: StepName) {
        loop {
            let next = {
                let mut queues = self.lock();
                let Some(queue) = queues.get_mut(&step) else { return };
                let Some(next) = queue.next() else {
                    queue.is_taken = false;
                    return;
                };
                queue.grant(&next.model);
                next
            };
            match next.granted.send(self.turn(step)) {
                Ok(()) => return,
                // It no longer waits.
                Err(mut turn) => turn.is_held = false,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StepName, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn grant(&mut self, model: &str) {
        let is_same = self.model.as_deref() == Some(model);
        self.in_a_row = if is_same { self.in_a_row + 1 } else { 1 };
        self.model = Some(model.to_owned());
        self.is_taken = true;
    }

    /// Returns who comes next: the first that needs the last model, up to the limit, or the first.
    fn next(&mut self) -> Option<Waiting> {
        let has_model = |waiting: &Waiting| Some(&waiting.model) == self.model.as_ref();
        let same = self.waiting.iter().position(has_model).filter(|_| self.in_a_row < SAME_MODEL_MAX);
        let other = || (!self.waiting.is_empty()).then_some(0);
        self.waiting.remove(same.or_else(other)?)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_held {
            self.turns.pass_on(self.step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: StepName = StepName::Generation;

    /// Requests turns while another is held, and returns the models in the order of their turns.
    async fn order(first: &str, requests: &[&'static str]) -> Vec<&'static str> {
        let turns = Turns::default();
        let held = turns.take(STEP, first).await;
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for &model in requests {
            let (turns, done) = (turns.clone(), done.clone());
            tasks.spawn(async move {
                let _turn = turns.take(STEP, model).await;
                done.lock().unwrap().push(model);
            });
            tokio::task::yield_now().await;
        }
        assert!(done.lock().unwrap().is_empty(), "the turn is taken");
        drop(held);
        tasks.join_all().await;
        Arc::into_inner(done).unwrap().into_inner().unwrap()
    }

    #[tokio::test]
    async fn turns_come_in_the_order_of_their_requests() {
        assert_eq!(order("a", &["b", "c", "b2"]).await, ["b", "c", "b2"]);
    }

    #[tokio::test]
    async fn the_last_model_goes_first_a_bounded_number_of_times() {
        let turns = order("a", &["b", "a", "a", "a", "a", "c"]).await;
        assert_eq!(
            turns,
            ["a", "a", "a", "b", "a", "c"],
            "{SAME_MODEL_MAX} turns in a row, with the held one"
        );
    }

    #[tokio::test]
    async fn steps_do_not_wait_for_each_other_and_an_abandoned_request_is_skipped() {
        let turns = Turns::default();
        let held = turns.take(STEP, "a").await;
        drop(turns.take(StepName::Reward, "a").await);
        let abandoned = tokio::time::timeout(Duration::ZERO, turns.take(STEP, "b")).await;
        assert!(abandoned.is_err());
        let other = turns.clone();
        let waiting = tokio::spawn(async move { other.take(STEP, "c").await });
        tokio::task::yield_now().await;
        drop(held);
        drop(waiting.await.unwrap());
        drop(turns.take(STEP, "d").await);
    }
}
