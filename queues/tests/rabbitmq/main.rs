//! The broker over a real RabbitMQ: the contract of every broker, and what only this one promises. Each test starts a
//! private node for all that it looks at.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../broker/contract.rs"]
mod contract;
#[path = "../broker/memory_log.rs"]
#[expect(dead_code, reason = "some of it is for the tests of the embedded broker")]
mod memory_log;
#[path = "../broker/node.rs"]
mod node;

mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::contract::for_every_claim;
use crate::node::Node;
use crate::world::World;

/// Longest time for one claim.
const CLAIM_MAX: Duration = Duration::from_secs(60);

/// Runs one claim on a runtime of its own; gives what went wrong.
pub(crate) fn attempt(claim: impl Future<Output = ()>) -> Result<(), String> {
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
    let node = Node::new();
    let mut broken = Vec::new();
    let mut number = 0;
    let only = std::env::var("DISSENT_CLAIM").ok();
    macro_rules! run_all {
        ($($claim:ident)*) => {
            $(if only.as_ref().is_none_or(|only| stringify!($claim).contains(only.as_str())) {
                number += 1;
                let begun = Instant::now();
                let prefix = format!("claim{number}");
                let outcome = attempt(async { contract::$claim(World::new(&node, &prefix).await).await });
                println!("{} {:?} {outcome:?}", stringify!($claim), begun.elapsed());
                broken.extend(outcome.err().map(|why| format!("{}: {why}", stringify!($claim))));
            })*
        };
    }
    for_every_claim!(run_all);
    assert!(broken.is_empty(), "{} claims are broken:\n{}", broken.len(), broken.join("\n"));
}
