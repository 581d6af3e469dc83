//! The messages of one queue in this process: ready, delivered, or recently done. Pure: the task does the
//! I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::task::Waker;

use super::recent_keys::RecentKeys;

/// Keys kept after their messages are done. A duplicate comes within moments of a lost connection.
const RECENT_MAX: usize = 8192;

/// A delivery tag and the epoch of its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub epoch: u64,
    pub number: u64,
}

/// A command to RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckCommand {
    Acknowledge(Tag),
    Requeue(Tag),
}

#[derive(Debug)]
struct Entry<M> {
    /// The member that holds it, if it is delivered.
    held_by: Option<u64>,
    /// `None` if it was delivered on a channel that is lost.
    tag: Option<Tag>,
    message: M,
    redelivered: bool,
}

#[derive(Debug)]
struct Member {
    prefetch: u16,
    unsettled: usize,
    waker: Option<Waker>,
}

/// A message for a worker.
#[derive(Debug)]
pub(in crate::rabbitmq) struct Item<M> {
    pub key: String,
    pub message: M,
    pub redelivered: bool,
}

/// The answer to a member that asks for a message.
#[derive(Debug)]
pub(in crate::rabbitmq) enum NextDelivery<M> {
    Deliver(Item<M>),
    Wait,
    Ended,
}

/// The settlement of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rabbitmq) enum Settled {
    /// The consequences of the message are durable: duplicates are dropped.
    Done,
    /// Another message replaces the delivered one.
    Replaced,
    /// The message is redelivered.
    Released,
}

/// The result of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    New,
    Duplicate,
}

#[derive(Debug)]
pub(super) struct State<M> {
    members: BTreeMap<u64, Member>,
    members_begun: u64,
    entries: HashMap<String, Entry<M>>,
    /// Keys of messages to deliver to the next member that asks, in order of arrival.
    ready: VecDeque<String>,
    recent: RecentKeys,
    commands: Vec<AckCommand>,
    epoch: u64,
    closed: bool,
    wakers: Vec<Waker>,
}

impl<M: Clone> State<M> {
    pub(super) fn new() -> Self {
        Self {
            members: BTreeMap::new(),
            members_begun: 0,
            entries: HashMap::new(),
            ready: VecDeque::new(),
            recent: RecentKeys::new(RECENT_MAX),
            commands: Vec::new(),
            epoch: 0,
            closed: false,
            wakers: Vec::new(),
        }
    }

    // ---- members

    pub(super) fn join(&mut self, prefetch: u16) -> u64 {
        let member = self.members_begun;
        self.members_begun += 1;
        self.members.insert(member, Member { prefetch, unsettled: 0, waker: None });
        member
    }

    /// Messages not yet delivered to a member go to the remaining members or, if there are none, back to
    /// RabbitMQ.
    pub(super) fn leave(&mut self, member: u64) {
        let left = self.members.remove(&member);
        self.wakers.extend(left.and_then(|member| member.waker));
        if self.members.is_empty() {
            self.requeue_ready();
        }
        self.wake_members();
    }

    /// Returns the members with their prefetch; none once closed.
    pub(super) fn wanted(&self) -> Vec<(u64, u16)> {
        if self.closed {
            return Vec::new();
        }
        self.members.iter().map(|(&number, member)| (number, member.prefetch)).collect()
    }

    pub(super) fn take(&mut self, number: u64, waker: Option<&Waker>) -> NextDelivery<M> {
        if self.closed {
            return NextDelivery::Ended;
        }
        let Some(member) = self.members.get_mut(&number) else { return NextDelivery::Ended };
        if member.unsettled < usize::from(member.prefetch)
            && let Some(key) = self.ready.pop_front()
            && let Some(entry) = self.entries.get_mut(&key)
        {
            member.unsettled += 1;
            entry.held_by = Some(number);
            return NextDelivery::Deliver(Item {
                key,
                message: entry.message.clone(),
                redelivered: entry.redelivered,
            });
        }
        if let Some(waker) = waker
            && !member.waker.as_ref().is_some_and(|registered| registered.will_wake(waker))
        {
            self.wakers.extend(member.waker.replace(waker.clone()));
        }
        NextDelivery::Wait
    }

    // ---- messages

    /// Adds a delivery of RabbitMQ.
    pub(super) fn arrive(&mut self, tag: Tag, key: String, message: M, redelivered: bool) -> Arrival {
        if self.recent.contains(&key) {
            self.commands.push(AckCommand::Acknowledge(tag));
            return Arrival::Duplicate;
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            match entry.tag {
                // The queue holds the message twice: the copy in this process replaces both.
                Some(_) => self.commands.push(AckCommand::Acknowledge(tag)),
                // Redelivered after its channel was lost: the holder's settlement now applies to the new tag.
                None => entry.tag = Some(tag),
            }
            return Arrival::Duplicate;
        }
        if self.closed || self.members.is_empty() {
            self.commands.push(AckCommand::Requeue(tag));
            return Arrival::New;
        }
        self.ready.push_back(key.clone());
        self.entries.insert(key, Entry { held_by: None, tag: Some(tag), message, redelivered });
        self.wake_members();
        Arrival::New
    }

    /// Settles a delivered message.
    pub(super) fn settle(&mut self, key: &str, how: Settled) {
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some(member) = entry.held_by.and_then(|member| self.members.get_mut(&member)) {
            member.unsettled = member.unsettled.saturating_sub(1);
            self.wakers.extend(member.waker.take());
        }
        if how == Settled::Done {
            self.recent.insert(key.to_owned());
        }
        // Without a tag it will be redelivered; if it is done, it is acknowledged then.
        if let Some(tag) = entry.tag {
            let acknowledged = how != Settled::Released;
            self.commands.push(if acknowledged {
                AckCommand::Acknowledge(tag)
            } else {
                AckCommand::Requeue(tag)
            });
        }
    }

    fn requeue_ready(&mut self) {
        for key in std::mem::take(&mut self.ready) {
            if let Some(Entry { tag: Some(tag), .. }) = self.entries.remove(&key) {
                self.commands.push(AckCommand::Requeue(tag));
            }
        }
    }

    fn wake_members(&mut self) {
        self.wakers.extend(self.members.values_mut().filter_map(|member| member.waker.take()));
    }

    /// Whether this process holds such a message.
    pub(super) fn holds(&self, mut wanted: impl FnMut(&M) -> bool) -> bool {
        self.entries.values().any(|entry| wanted(&entry.message))
    }

    // ---- channels

    /// Starts the epoch of a new channel. The old tags are void, and undelivered messages will be
    /// redelivered.
    pub(super) fn begin_epoch(&mut self) -> u64 {
        self.epoch += 1;
        self.commands.clear();
        self.entries.retain(|_, entry| {
            entry.tag = None;
            entry.held_by.is_some()
        });
        self.ready.clear();
        self.epoch
    }

    pub(super) fn take_commands(&mut self) -> Vec<AckCommand> {
        std::mem::take(&mut self.commands)
    }

    // ---- the end

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.requeue_ready();
        self.wake_members();
    }

    pub(super) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Whether no message is delivered and no command is unsent.
    pub(super) fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.entries.values().all(|entry| entry.held_by.is_none())
    }

    /// Returns the wakers to wake once the lock is released.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(epoch: u64, number: u64) -> Tag {
        Tag { epoch, number }
    }

    fn taken(state: &mut State<u8>, member: u64) -> Item<u8> {
        match state.take(member, None) {
            NextDelivery::Deliver(item) => item,
            other @ (NextDelivery::Wait | NextDelivery::Ended) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_redelivery_of_a_held_message_is_settled_with_it() {
        let mut state = State::new();
        let member = state.join(4);
        let first = state.begin_epoch();
        state.arrive(tag(first, 1), "a".to_owned(), 1u8, false);
        let held = taken(&mut state, member);
        let second = state.begin_epoch();
        assert_eq!(state.arrive(tag(second, 7), "a".to_owned(), 1, true), Arrival::Duplicate);
        assert!(matches!(state.take(member, None), NextDelivery::Wait), "it is held");
        state.settle(&held.key, Settled::Done);
        assert_eq!(state.take_commands(), [AckCommand::Acknowledge(tag(second, 7))]);
    }

    #[test]
    fn a_message_done_after_a_lost_channel_is_acknowledged_on_redelivery() {
        let mut state = State::new();
        let member = state.join(4);
        let first = state.begin_epoch();
        state.arrive(tag(first, 1), "a".to_owned(), 1u8, false);
        let held = taken(&mut state, member);
        let second = state.begin_epoch();
        state.settle(&held.key, Settled::Done);
        assert!(!state.has_commands(), "its tag is void");
        assert_eq!(state.arrive(tag(second, 1), "a".to_owned(), 1, true), Arrival::Duplicate);
        assert_eq!(state.take_commands(), [AckCommand::Acknowledge(tag(second, 1))]);
    }

    #[test]
    fn released_and_replaced_messages_are_delivered_again() {
        for how in [Settled::Released, Settled::Replaced] {
            let mut state = State::new();
            let member = state.join(4);
            let epoch = state.begin_epoch();
            state.arrive(tag(epoch, 1), "a".to_owned(), 1u8, false);
            let held = taken(&mut state, member);
            state.settle(&held.key, how);
            assert_eq!(state.arrive(tag(epoch, 2), "a".to_owned(), 1, true), Arrival::New);
            assert_eq!(taken(&mut state, member).key, "a");
        }
    }

    #[test]
    fn a_new_channel_drops_undelivered_messages() {
        let mut state = State::new();
        let member = state.join(4);
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "a".to_owned(), 1u8, false);
        state.begin_epoch();
        assert!(matches!(state.take(member, None), NextDelivery::Wait));
        assert!(state.is_idle());
    }

    #[test]
    fn undelivered_messages_go_to_remaining_members_or_back_to_the_queue() {
        let mut state = State::new();
        let (left, stays) = (state.join(4), state.join(4));
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "a".to_owned(), 1u8, false);
        state.leave(left);
        assert_eq!(taken(&mut state, stays).key, "a");
        state.arrive(tag(epoch, 2), "b".to_owned(), 2, false);
        state.leave(stays);
        assert_eq!(state.take_commands(), [AckCommand::Requeue(tag(epoch, 2))]);
        state.arrive(tag(epoch, 3), "c".to_owned(), 3, false);
        assert_eq!(state.take_commands(), [AckCommand::Requeue(tag(epoch, 3))], "too late");
    }

    #[test]
    fn closing_requeues_undelivered_messages() {
        let mut state = State::new();
        let member = state.join(4);
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "a".to_owned(), 1u8, false);
        state.arrive(tag(epoch, 2), "b".to_owned(), 2, false);
        let held = taken(&mut state, member);
        state.close();
        assert_eq!(state.take_commands(), [AckCommand::Requeue(tag(epoch, 2))]);
        assert!(matches!(state.take(member, None), NextDelivery::Ended) && !state.is_idle());
        state.settle(&held.key, Settled::Done);
        assert_eq!(state.take_commands(), [AckCommand::Acknowledge(tag(epoch, 1))]);
        assert!(state.is_idle());
    }

    #[test]
    fn a_member_holds_at_most_its_prefetch() {
        let mut state = State::new();
        let member = state.join(1);
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "a".to_owned(), 1u8, false);
        let held = taken(&mut state, member);
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "b".to_owned(), 2, false);
        assert!(matches!(state.take(member, None), NextDelivery::Wait), "one is held");
        state.settle(&held.key, Settled::Done);
        assert_eq!(taken(&mut state, member).key, "b");
    }
}
