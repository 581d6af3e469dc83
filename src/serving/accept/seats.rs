//! The seats of a listener: a bounded number of connections, and a reserve for health checks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::limits::Limits;
use super::stream::Activity;

/// The connections of a listener.
pub(super) struct Seats {
    pub(super) limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, Entry>,
}

struct Entry {
    activity: Arc<Activity>,
    /// Address of the client, unless it is on this host.
    address: Option<IpAddr>,
    is_reserve: bool,
    /// Ends the connection when it is dropped.
    _evict: oneshot::Sender<()>,
}

/// A seat that a connection holds until it is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    id: u64,
    pub(super) activity: Arc<Activity>,
    /// Whether only health checks are served.
    pub(super) is_reserve: bool,
    /// Ready when the seat is given to another connection.
    pub(super) evicted: oneshot::Receiver<()>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.id);
    }
}

impl Seats {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a seat for a connection from this address. If all are taken, the connection whose client has
    /// been silent longest loses its seat. If none has been so for long, returns a seat of the reserve.
    /// Returns `None` while that is full, too.
    pub(super) fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Option<Seat> {
        // All clients on this host, and those behind a proxy on it, have the same address.
        let address = address.filter(|address| !address.is_loopback());
        let mut taken = self.lock();
        let is_reserve = !taken.has_general_seat(&self.limits, address);
        if is_reserve && !taken.has_reserve_seat(&self.limits) {
            return None;
        }
        let (evict, evicted) = oneshot::channel();
        let (activity, id) = (Activity::new(), taken.next);
        taken.next += 1;
        taken.seats.insert(id, Entry { activity: activity.clone(), address, is_reserve, _evict: evict });
        Some(Seat { seats: self.clone(), id, activity, is_reserve, evicted })
    }
}

impl Taken {
    /// Whether a general seat is free, possibly after an eviction.
    fn has_general_seat(&mut self, limits: &Limits, address: Option<IpAddr>) -> bool {
        let of_address = |entry: &Entry| !entry.is_reserve && entry.address == address;
        if address.is_some() && self.count(of_address) >= limits.of_address {
            return self.evict(limits.patience, of_address);
        }
        let general = |entry: &Entry| !entry.is_reserve;
        self.count(general) < limits.connections || self.evict(limits.patience, general)
    }

    fn has_reserve_seat(&mut self, limits: &Limits) -> bool {
        let reserve = |entry: &Entry| entry.is_reserve;
        self.count(reserve) < limits.reserve || self.evict(limits.reserve_patience, reserve)
    }

    fn count(&self, chosen: impl Fn(&Entry) -> bool) -> usize {
        self.seats.values().filter(|entry| chosen(entry)).count()
    }

    /// Ends the chosen connection that has been idle longest, if it has been so for `patience`.
    fn evict(&mut self, patience: Duration, chosen: impl Fn(&Entry) -> bool) -> bool {
        let idle = self.seats.iter().filter(|(_, entry)| chosen(entry)).filter_map(|(id, entry)| {
            let idle = entry.activity.idle_for().filter(|idle| *idle >= patience)?;
            // Of two that are idle equally long, the older one ends.
            Some((idle, std::cmp::Reverse(*id)))
        });
        let longest = idle.max();
        longest.is_some_and(|(_, std::cmp::Reverse(id))| self.seats.remove(&id).is_some())
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    const LIMITS: Limits = Limits {
        connections: 2,
        reserve: 1,
        of_address: 1,
        patience: Duration::from_secs(3600),
        reserve_patience: Duration::ZERO,
        ..Limits::DEFAULT
    };

    #[test]
    fn connections_above_the_limit_get_the_reserve_and_working_ones_keep_their_seats() {
        let seats = Seats::new(LIMITS);
        let first = seats.take(None).unwrap();
        let _second = seats.take(None).unwrap();
        let mut third = seats.take(None).unwrap();
        assert!(!first.is_reserve && third.is_reserve);
        let fourth = seats.take(None).unwrap();
        assert!(
            fourth.is_reserve
                && third.evicted.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed)
        );
        let _request = fourth.activity.begin();
        assert!(seats.take(None).is_none(), "the reserve is at work");
        drop(first);
        assert!(!seats.take(None).unwrap().is_reserve);
    }

    #[test]
    fn the_longest_idle_connection_loses_its_seat_and_one_at_work_does_not() {
        let seats = Seats::new(Limits { patience: Duration::ZERO, ..LIMITS });
        let first = seats.take(None).unwrap();
        let mut second = seats.take(None).unwrap();
        let request = first.activity.begin();
        let mut third = seats.take(None).unwrap();
        assert!(!third.is_reserve && second.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(third.evicted.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        let third_request = third.activity.begin();
        assert!(seats.take(None).unwrap().is_reserve);
        drop((request, third_request));
        assert!(!seats.take(None).unwrap().is_reserve);
    }

    #[test]
    fn one_remote_address_has_fewer_seats_than_all() {
        let seats = Seats::new(LIMITS);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().ok());
        let _first = seats.take(one).unwrap();
        assert!(seats.take(one).unwrap().is_reserve);
        assert!(!seats.take(other).unwrap().is_reserve);
        let seats = Seats::new(LIMITS);
        let local = ["127.0.0.1".parse().ok(), "::1".parse().ok()];
        let taken = local.map(|address| seats.take(address).unwrap());
        assert!(taken.iter().all(|seat| !seat.is_reserve));
    }
}
