//! Deletes queues, and imitates processes of another version.

use dissent_domain::event::EventId;
use dissent_domain::id::ExperimentId;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel};
use serde_json::json;

use crate::amqp::{self, persistent, publish};
use crate::message_faults::STEPS;
use crate::support::random::Random;

/// Protocol and version of the imitated processes.
pub(crate) const OTHER_PROTOCOL: u32 = 3;
pub(crate) const OTHER_VERSION: &str = "9.8.7";
/// Proposals of another protocol that a fault publishes.
const PROPOSALS: usize = 8;

fn key(experiment: &str) -> String {
    EventId::of_experiment(&ExperimentId::new(experiment).unwrap()).0.simple().to_string()
}

async fn delete(channel: &Channel, queue: &str) -> u32 {
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap()
}

/// Deletes a random queue of an experiment, the dead letters, or the exchange of events. Returns its name
/// and the number of lost messages.
///
/// If proposals or parked messages are lost, it deletes the groups of the experiment too, as an operator
/// would: their new queues get all events again. Otherwise the causes wait for half an hour.
pub(crate) fn delete_some(url: &str, prefix: &str, experiment: &str, random: &mut Random) -> (String, u32) {
    let (base, key) = (format!("{prefix}.2"), key(experiment));
    let step = *random.one_of(&STEPS);
    let kind = *random.one_of(&["proposals", "parked", "dead", step, "history", "events"]);
    amqp::run(async {
        let (_connection, channel) = amqp::connect(url).await;
        if kind == "events" {
            let name = format!("{base}.events");
            channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
            return (name, 0);
        }
        let name = if kind == "dead" { format!("{base}.dead") } else { format!("{base}.{kind}.{key}") };
        let lost = delete(&channel, &name).await;
        if lost > 0 && ["proposals", "parked"].contains(&kind) {
            for step in STEPS {
                delete(&channel, &format!("{base}.{step}.{key}")).await;
            }
        }
        (name, lost)
    })
}

/// Publishes proposals of a newer protocol, and other nonsense, to the proposals of an experiment.
pub(crate) fn propose_nonsense(url: &str, prefix: &str, experiment: &str, random: &mut Random) {
    let queue = format!("{prefix}.2.proposals.{}", key(experiment));
    amqp::run(async {
        let (_connection, channel) = amqp::connect(url).await;
        for number in 0..PROPOSALS {
            let mut body = vec![0; random.below(512)];
            random.fill(&mut body);
            match number % 3 {
                // The first byte of a message is its format.
                0 => body.insert(0, 2),
                1 => {
                    body = json!({ "protocol": OTHER_PROTOCOL, "experiment": experiment }).to_string().into()
                }
                _ => {}
            }
            publish(&channel, "", &queue, &body, persistent()).await;
        }
    });
}

/// Records a server of another protocol as the one that serves a prefix.
pub(crate) fn record_other_server(url: &str, prefix: &str) {
    let queue = format!("{prefix}.2.holder");
    let record = json!({
        "installation": "other", "host": "elsewhere", "process": 1, "since_us": 0, "start": 1,
        "protocol": OTHER_PROTOCOL, "version": OTHER_VERSION,
    });
    amqp::run(async {
        let (_connection, channel) = amqp::connect(url).await;
        let mut arguments = FieldTable::default();
        let text = |text: &str| AMQPValue::LongString(LongString::from(text));
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
        arguments.insert("x-overflow".into(), text("drop-head"));
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let (body, options) = (record.to_string(), BasicPublishOptions::default());
        let properties = BasicProperties::default();
        let sent =
            channel.basic_publish("".into(), queue.as_str().into(), options, body.as_bytes(), properties);
        sent.await.unwrap().await.unwrap();
    });
}

/// Deletes what [`record_other_server`] made.
pub(crate) fn forget_other_server(url: &str, prefix: &str) {
    amqp::run(async {
        let (_connection, channel) = amqp::connect(url).await;
        delete(&channel, &format!("{prefix}.2.holder")).await;
    });
}
