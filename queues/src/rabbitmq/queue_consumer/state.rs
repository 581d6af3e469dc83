//! What one queue has brought into this process: to be handed out, in hand, or lately done. Pure; the task does the
//! talking.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::task::Waker;

use super::recent_keys::RecentKeys;

/// Keys remembered after they were done. A duplicate comes within moments of a lost connection.
const RECENT_MAX: usize = 8192;

/// A delivery's tag, and the channel it is valid on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub epoch: u64,
    pub number: u64,
}

/// What RabbitMQ is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckCommand {
    Acknowledge(Tag),
    Requeue(Tag),
}

#[derive(Debug)]
struct Entry<M> {
    /// Whose hands it is in.
    held_by: Option<u64>,
    /// None: it was delivered on a channel that is gone.
    tag: Option<Tag>,
    message: M,
    redelivered: bool,
}

#[derive(Debug)]
struct Member {
    prefetch: u16,
    in_hand: usize,
    waker: Option<Waker>,
}

/// A message for a worker.
#[derive(Debug)]
pub(in crate::rabbitmq) struct Item<M> {
    pub key: String,
    pub message: M,
    pub redelivered: bool,
}

/// What a member gets when it asks.
#[derive(Debug)]
pub(in crate::rabbitmq) enum NextDelivery<M> {
    Deliver(Item<M>),
    Wait,
    Ended,
}

/// How a message in hand is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::rabbitmq) enum Settled {
    /// Its consequences are durable: duplicates are dropped.
    Done,
    /// Another message stands for it.
    Replaced,
    /// It comes again.
    Released,
}

/// What became of an arrival.
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
    /// To be handed to whichever member asks first, in the order in which they came.
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
        self.members.insert(member, Member { prefetch, in_hand: 0, waker: None });
        member
    }

    /// What nobody was handed is for the members that stay, here or elsewhere.
    pub(super) fn leave(&mut self, member: u64) {
        let left = self.members.remove(&member);
        self.wakers.extend(left.and_then(|member| member.waker));
        if self.members.is_empty() {
            self.requeue_ready();
        }
        self.wake_members();
    }

    /// The members that there are, with their prefetch; none once closed.
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
        if member.in_hand < usize::from(member.prefetch)
            && let Some(key) = self.ready.pop_front()
            && let Some(entry) = self.entries.get_mut(&key)
        {
            member.in_hand += 1;
            entry.held_by = Some(number);
            return NextDelivery::Deliver(Item {
                key,
                message: entry.message.clone(),
                redelivered: entry.redelivered,
            });
        }
        if let Some(waker) = waker
            && !member.waker.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            self.wakers.extend(member.waker.replace(waker.clone()));
        }
        NextDelivery::Wait
    }

    // ---- messages

    /// Takes in a delivery.
    pub(super) fn arrive(&mut self, tag: Tag, key: String, message: M, redelivered: bool) -> Arrival {
        if self.recent.contains(&key) {
            self.commands.push(AckCommand::Acknowledge(tag));
            return Arrival::Duplicate;
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            match entry.tag {
                // The same message twice in the queue: the one that is here already stands for both.
                Some(_) => self.commands.push(AckCommand::Acknowledge(tag)),
                // It came again after its channel was lost: whoever has it in hand settles this one.
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

    /// Takes back a message in hand.
    pub(super) fn settle(&mut self, key: &str, how: Settled) {
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some(member) = entry.held_by.and_then(|member| self.members.get_mut(&member)) {
            member.in_hand = member.in_hand.saturating_sub(1);
            self.wakers.extend(member.waker.take());
        }
        if how == Settled::Done {
            self.recent.insert(key.to_owned());
        }
        // Without a tag it comes again by itself; if it is done, it is acknowledged then.
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

    /// Whether a message of this kind is in this process.
    pub(super) fn holds(&self, mut wanted: impl FnMut(&M) -> bool) -> bool {
        self.entries.values().any(|entry| wanted(&entry.message))
    }

    // ---- channels

    /// A new channel: the tags of the old one are void, and what was not in hand comes again.
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

    /// Whether nothing is in hand and there is nothing to tell.
    pub(super) fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.entries.values().all(|entry| entry.held_by.is_none())
    }

    /// Who must be woken, once the lock is released.
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
    fn what_comes_again_while_it_is_in_hand_is_settled_with_it() {
        let mut state = State::new();
        let member = state.join(4);
        let first = state.begin_epoch();
        state.arrive(tag(first, 1), "a".to_owned(), 1u8, false);
        let held = taken(&mut state, member);
        let second = state.begin_epoch();
        assert_eq!(state.arrive(tag(second, 7), "a".to_owned(), 1, true), Arrival::Duplicate);
        assert!(matches!(state.take(member, None), NextDelivery::Wait), "it is in hand");
        state.settle(&held.key, Settled::Done);
        assert_eq!(state.take_commands(), [AckCommand::Acknowledge(tag(second, 7))]);
    }

    #[test]
    fn what_was_done_over_a_lost_channel_is_acknowledged_when_it_comes_again() {
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
    fn what_was_released_or_replaced_is_not_taken_for_done() {
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
    fn a_new_channel_forgets_what_was_not_in_hand() {
        let mut state = State::new();
        let member = state.join(4);
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "a".to_owned(), 1u8, false);
        state.begin_epoch();
        assert!(matches!(state.take(member, None), NextDelivery::Wait));
        assert!(state.is_idle());
    }

    #[test]
    fn what_a_member_leaves_is_for_the_others_and_what_the_last_leaves_for_other_processes() {
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
    fn closing_gives_back_what_was_not_in_hand() {
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
    fn no_more_than_the_prefetch_is_in_hand() {
        let mut state = State::new();
        let member = state.join(1);
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "a".to_owned(), 1u8, false);
        let held = taken(&mut state, member);
        let epoch = state.begin_epoch();
        state.arrive(tag(epoch, 1), "b".to_owned(), 2, false);
        assert!(matches!(state.take(member, None), NextDelivery::Wait), "one is in hand");
        state.settle(&held.key, Settled::Done);
        assert_eq!(taken(&mut state, member).key, "b");
    }
}
