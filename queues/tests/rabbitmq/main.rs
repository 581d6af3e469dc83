//! The broker over a real RabbitMQ: the contract of every broker, and the further guarantees of this one.
//! Each test starts a private node.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "shown when a test fails: what held, and how long it took")]

#[path = "../broker/contract.rs"]
mod contract;
#[path = "../broker/memory_log.rs"]
#[expect(dead_code, reason = "the tests of the embedded broker use the rest")]
mod memory_log;
#[path = "../broker/node.rs"]
mod node;
#[path = "../../../tests/support/required.rs"]
mod required;

mod behaviour;
mod faults;
mod operations;
mod serving;
#[cfg(feature = "amqps")]
mod tls;
mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::contract::for_every_claim;
use crate::node::Node;
use crate::required::required;
use crate::world::World;

/// Longest time for one claim.
const CLAIM_MAX: Duration = Duration::from_secs(120);

/// Claims that are tested one after the other on one node, each with a server of its own.
#[derive(Default)]
pub(crate) struct Claims {
    attempts: usize,
    broken: Vec<String>,
}

impl Claims {
    /// Tests a claim, unless `DISSENT_CLAIM` names another one.
    pub(crate) fn attempt<C: Future<Output = ()>>(
        &mut self,
        name: &str,
        node: &Node,
        claim: impl FnOnce(World) -> C,
    ) {
        if std::env::var("DISSENT_CLAIM").is_ok_and(|only| !name.contains(&only)) {
            return;
        }
        self.attempts += 1;
        let (begun, prefix) = (Instant::now(), format!("claim{}", self.attempts));
        let outcome = attempt(async { claim(World::new(node, &prefix).await).await });
        println!("{name}: {outcome:?} after {:?}", begun.elapsed());
        self.broken.extend(outcome.err().map(|why| format!("{name}: {why}")));
    }

    /// Fails if a claim did not hold, and names all that did not.
    pub(crate) fn hold(self) {
        assert!(
            self.broken.is_empty(),
            "{} claims are broken:\n{}",
            self.broken.len(),
            self.broken.join("\n")
        );
    }
}

/// Runs one claim on a runtime of its own; returns the failure.
pub(crate) fn attempt(claim: impl Future<Output = ()>) -> Result<(), String> {
    // The log of the broker, if `RUST_LOG` asks for it. Another test may have set it up.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _set_before = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            tokio::time::timeout(CLAIM_MAX, claim).await.map_err(|_| "it hangs".to_owned())
        })
    }));
    runtime.shutdown_background();
    outcome.unwrap_or_else(|panic| Err(said(&*panic)))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

#[test]
fn the_contract_holds_on_rabbitmq() {
    let Some(node) = required(Node::new()) else { return };
    let mut claims = Claims::default();
    macro_rules! attempt_all {
        ($($claim:ident)*) => {
            $(claims.attempt(stringify!($claim), &node, |world| contract::$claim(world));)*
        };
    }
    for_every_claim!(attempt_all);
    claims.hold();
}
