//! The thread of a step. Model runs take seconds, and an arbiter does not answer while it computes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::{mpsc, oneshot};

use super::step::{AnyStep, Consequence, Received};
use crate::error::{StepError, StepFault};

pub(super) type Outcomes = Vec<Result<Consequence, StepError>>;

struct Job {
    batch: Vec<Received>,
    reply: oneshot::Sender<Result<Outcomes, StepFault>>,
}

/// A handle of the thread on which a step runs.
#[derive(Clone)]
pub(super) struct ComputeThread {
    jobs: mpsc::Sender<Job>,
}

impl ComputeThread {
    pub(super) fn start<S: AnyStep>(mut step: S) -> std::io::Result<Self> {
        // The actor sends one batch and waits: a capacity of one is enough.
        let (jobs, mut inbox) = mpsc::channel::<Job>(1);
        std::thread::Builder::new().name(step.name().name().to_owned()).spawn(move || {
            while let Some(Job { batch, reply }) = inbox.blocking_recv() {
                let outcomes = catch_unwind(AssertUnwindSafe(|| step.handle_events(batch)))
                    .map_err(|panic| StepFault::Panicked(panic_message(&*panic)));
                let panicked = outcomes.is_err();
                // Without a receiver the step was cancelled.
                let _ = reply.send(outcomes);
                if panicked {
                    return;
                }
            }
        })?;
        Ok(Self { jobs })
    }

    pub(super) async fn handle(&self, batch: Vec<Received>) -> Result<Outcomes, StepFault> {
        let (reply, outcomes) = oneshot::channel();
        self.jobs.send(Job { batch, reply }).await.map_err(|_| StepFault::ThreadGone)?;
        outcomes.await.map_err(|_| StepFault::ThreadGone)?
    }
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
    message.unwrap_or("no message").to_owned()
}
