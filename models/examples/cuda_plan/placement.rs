//! The places of nodes, from ONNX Runtime's log. The log names each node that is not on CUDA; the error of a
//! session without a fallback to the CPU names none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::Failure;

const CUDA: &str = "CUDAExecutionProvider";

/// The places of the nodes of some sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Sessions with a placement: all nodes have a kernel somewhere, and no rule refused the place.
    pub(crate) sessions: usize,
    /// Nodes on CUDA, copies between CPU and device included.
    pub(crate) on_cuda: usize,
    /// The number of nodes elsewhere, for each operator.
    pub(crate) elsewhere: BTreeMap<String, usize>,
    /// Operators for which CUDA has no kernel of the element type.
    pub(crate) without_kernel: BTreeSet<String>,
    /// Operators that ONNX Runtime keeps on the CPU, although CUDA has a kernel: they compute shapes, from
    /// numbers that the CPU has, for operands that the CPU reads.
    pub(crate) kept_on_cpu: BTreeSet<String>,
    /// Whether the nodes that are listed now are elsewhere.
    listing_elsewhere: bool,
}

impl Placement {
    /// Returns the number of nodes if all are on CUDA.
    ///
    /// # Errors
    /// Names the operators elsewhere. A log without a placement is an error, too.
    pub(crate) fn all_on_cuda(&self) -> Result<usize, Failure> {
        if !self.elsewhere.is_empty() {
            let ops: Vec<String> =
                self.elsewhere.iter().map(|(op, nodes)| format!("{op} × {nodes}")).collect();
            return Err(format!("not on CUDA: {}", ops.join(", ")).into());
        }
        if self.sessions == 0 || self.on_cuda == 0 {
            return Err("ONNX Runtime logged no placement of nodes".into());
        }
        Ok(self.on_cuda)
    }

    /// Adds the likely cause to the error of a session that does not open.
    pub(crate) fn explain(&self, error: impl fmt::Display) -> Failure {
        let mut reason = error.to_string();
        for (cause, ops) in [("no CUDA kernel", &self.without_kernel), ("kept on the CPU", &self.kept_on_cpu)]
        {
            if !ops.is_empty() {
                let ops: Vec<&str> = ops.iter().map(String::as_str).collect();
                reason = format!("{reason}; {cause}: {}", ops.join(", "));
            }
        }
        reason.into()
    }

    /// Reads a line of the log.
    fn read(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("CUDA kernel not found in registries for Op type: ") {
            let op = rest.split(' ').next().unwrap_or(rest);
            self.without_kernel.insert(op.to_owned());
        } else if let Some((_, rest)) = line.split_once("Force fallback to CPU execution for node: ") {
            // The graph builder names a node after its operator: `Shape_12`.
            let node = rest.split(' ').next().unwrap_or(rest);
            let op = node.rsplit_once('_').map_or(node, |(op, _)| op);
            self.kept_on_cpu.insert(op.to_owned());
        } else if line == "Node placements" {
            self.sessions += 1;
        } else if let Some((_, rest)) = line.split_once("placed on [") {
            self.listing_elsewhere = !rest.starts_with(CUDA);
            if !self.listing_elsewhere {
                let nodes = rest.rsplit(' ').next().and_then(|number| number.parse::<usize>().ok());
                self.on_cuda += nodes.unwrap_or(0);
            }
        } else if self.listing_elsewhere && line.starts_with("  ") {
            let op = line.trim().split(' ').next().unwrap_or_default();
            *self.elsewhere.entry(op.to_owned()).or_default() += 1;
        } else {
            self.listing_elsewhere = false;
        }
    }
}

/// The placements that were logged since the last call of [`PlacementLog::take`].
#[derive(Clone, Default)]
pub(crate) struct PlacementLog(Arc<Mutex<Placement>>);

impl PlacementLog {
    /// Returns the placement so far, and begins anew.
    pub(crate) fn take(&self) -> Placement {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a message of ONNX Runtime, of one or more lines.
    pub(crate) fn read(&self, message: &str) {
        let mut placement = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        message.lines().for_each(|line| placement.read(line));
    }
}

/// Receives the events of this process, among them ONNX Runtime's log.
impl Subscriber for PlacementLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.read(&message.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
