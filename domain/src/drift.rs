//! Drift: conflicts of a fixed set of probe prompts that are born, resolved and reopened between rounds.
//!
//! A resolved conflict says that the two models agree now, not that they are right. Only judgements of the
//! probe's completions tell: a conflict is resolved *rightly* if people prefer what both models prefer. A
//! falling |PACS| alone proves nothing, because a policy that is tuned by the proxy agrees with it, errors
//! included.

use serde::{Deserialize, Serialize};

use crate::analysis::{Interval, wilson_interval};

/// The conflict of a probe prompt in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeState {
    /// The two models order the completions oppositely.
    Conflict,
    /// The two models order them alike.
    Agreement,
    /// The prompt was not measured, or the difference is within noise. The last known state holds.
    #[default]
    Unclear,
}

impl ProbeState {
    /// Returns the state by the interval of Kendall's tau between rewards and log-probabilities: a conflict
    /// below 0, agreement above 0. An interval that contains 0 is unclear, so noise neither bears nor
    /// resolves a conflict. `None` is unclear.
    #[must_use]
    pub fn of_tau(tau: Option<&Interval>) -> Self {
        match tau {
            Some(tau) if tau.high < 0.0 => Self::Conflict,
            Some(tau) if tau.low > 0.0 => Self::Agreement,
            Some(_) | None => Self::Unclear,
        }
    }
}

/// A probe prompt in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Probe {
    /// Its conflict.
    pub state: ProbeState,
    /// Judged pairs of its completions of this round that both models order as the person does.
    pub right: u32,
    /// Judged pairs of this round that a model orders otherwise than the person does.
    pub wrong: u32,
}

/// Change of a probe prompt in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A conflict where there was none before. In the first measured state of a probe, nothing is born.
    Born,
    /// No conflict any more.
    Resolved(Resolution),
    /// A conflict again after it was resolved.
    Reopened,
}

/// The truth of a resolved conflict, by labels of the round that resolved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// Most judged pairs have the order that both models give them.
    Rightly,
    /// Most judged pairs have another order: the models agree on an error.
    Wrongly,
    /// No pair was judged, or as many are right as wrong.
    Unknown,
}

impl Resolution {
    fn of(probe: &Probe) -> Self {
        match probe.right.cmp(&probe.wrong) {
            std::cmp::Ordering::Greater => Self::Rightly,
            std::cmp::Ordering::Less => Self::Wrongly,
            std::cmp::Ordering::Equal => Self::Unknown,
        }
    }
}

/// A change with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeChange {
    /// The probe prompt, by position.
    pub probe: usize,
    /// The round, by position.
    pub round: usize,
    /// What changed.
    pub change: Change,
}

/// Counts of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RoundDrift {
    /// Probes with a clear state in this round.
    pub clear: usize,
    /// Probes in conflict by their last clear state.
    pub in_conflict: usize,
    /// Conflicts that were born.
    pub born: usize,
    /// Conflicts that were reopened.
    pub reopened: usize,
    /// Conflicts that were resolved; the three kinds add up to it.
    pub resolved: usize,
    /// Resolved conflicts that labels call right.
    pub rightly: usize,
    /// Resolved conflicts that labels call wrong.
    pub wrongly: usize,
    /// Resolved conflicts without a majority of labels.
    pub unknown: usize,
}

/// The drift of probe prompts over rounds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Drift {
    /// The counts of each round.
    pub rounds: Vec<RoundDrift>,
    /// Every change, by round, then by probe.
    pub changes: Vec<ProbeChange>,
}

impl Drift {
    /// The share of rightly resolved conflicts among those with a majority of labels, in [0, 1], with its 95
    /// % interval after Wilson. `None` without such labels: then nothing is known about the truth.
    #[must_use]
    pub fn rightly(&self) -> Option<Interval> {
        let sum = |count: fn(&RoundDrift) -> usize| self.rounds.iter().map(count).sum::<usize>();
        let rightly = sum(|round| round.rightly);
        wilson_interval(rightly, rightly + sum(|round| round.wrongly))
    }
}

/// Rounds that do not have the same probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("round {round} has {found} probe prompts: use the {expected} of the first round")]
pub struct ProbeError {
    /// The round, by position.
    pub round: usize,
    /// Its number of probes.
    pub found: usize,
    /// The number of probes of the first round.
    pub expected: usize,
}

/// Returns the changes between rounds. `rounds` has shape `[rounds][probes]`, with the same probes in the
/// same order.
///
/// A probe has the last clear state until another one. Its first clear state is no change: a conflict that is
/// there from the start is neither born nor reopened.
///
/// # Errors
/// If a round has another number of probes than the first one.
pub fn drift(rounds: &[Vec<Probe>]) -> Result<Drift, ProbeError> {
    let expected = rounds.first().map_or(0, Vec::len);
    // The last clear state of each probe, and whether a conflict of it was resolved before.
    let mut known: Vec<(Option<ProbeState>, bool)> = vec![(None, false); expected];
    let mut drift = Drift::default();
    for (round, probes) in rounds.iter().enumerate() {
        if probes.len() != expected {
            return Err(ProbeError { round, found: probes.len(), expected });
        }
        let mut counts = RoundDrift::default();
        for (probe, (found, known)) in probes.iter().zip(&mut known).enumerate() {
            counts.clear += usize::from(found.state != ProbeState::Unclear);
            if let Some(change) = change(found, known) {
                counts.count(change);
                drift.changes.push(ProbeChange { probe, round, change });
            }
            counts.in_conflict += usize::from(known.0 == Some(ProbeState::Conflict));
        }
        drift.rounds.push(counts);
    }
    Ok(drift)
}

/// Updates what is known of a probe and returns its change.
fn change(found: &Probe, (state, was_resolved): &mut (Option<ProbeState>, bool)) -> Option<Change> {
    if found.state == ProbeState::Unclear {
        return None;
    }
    match (state.replace(found.state), found.state) {
        (Some(ProbeState::Agreement), ProbeState::Conflict) => {
            Some(if *was_resolved { Change::Reopened } else { Change::Born })
        }
        (Some(ProbeState::Conflict), ProbeState::Agreement) => {
            *was_resolved = true;
            Some(Change::Resolved(Resolution::of(found)))
        }
        _ => None,
    }
}

impl RoundDrift {
    fn count(&mut self, change: Change) {
        match change {
            Change::Born => self.born += 1,
            Change::Reopened => self.reopened += 1,
            Change::Resolved(resolution) => {
                self.resolved += 1;
                match resolution {
                    Resolution::Rightly => self.rightly += 1,
                    Resolution::Wrongly => self.wrongly += 1,
                    Resolution::Unknown => self.unknown += 1,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const C: Probe = Probe { state: ProbeState::Conflict, right: 0, wrong: 0 };
    const A: Probe = Probe { state: ProbeState::Agreement, right: 0, wrong: 0 };
    const U: Probe = Probe { state: ProbeState::Unclear, right: 0, wrong: 0 };

    /// The changes of one probe, as (round, change).
    fn changes(states: &[Probe]) -> Vec<(usize, Change)> {
        let rounds: Vec<Vec<Probe>> = states.iter().map(|state| vec![*state]).collect();
        drift(&rounds).unwrap().changes.iter().map(|change| (change.round, change.change)).collect()
    }

    #[test]
    fn a_conflict_is_born_resolved_and_reopened() {
        let unknown = Change::Resolved(Resolution::Unknown);
        assert_eq!(
            changes(&[A, C, A, C, A]),
            [(1, Change::Born), (2, unknown), (3, Change::Reopened), (4, unknown)]
        );
        assert_eq!(changes(&[C, C, A]), [(2, unknown)], "a conflict from the start is not born");
        assert_eq!(changes(&[C, A, C]), [(1, unknown), (2, Change::Reopened)]);
    }

    #[test]
    fn an_unclear_round_changes_nothing() {
        assert_eq!(changes(&[C, U, C, U, U]), []);
        assert_eq!(changes(&[U, C, U, A]), [(3, Change::Resolved(Resolution::Unknown))]);
        let found = drift(&[vec![C], vec![U]]).unwrap();
        assert_eq!((found.rounds[1].clear, found.rounds[1].in_conflict), (0, 1));
    }

    #[test]
    fn only_labels_of_the_round_make_a_resolution_right() {
        let judged = |right, wrong| Probe { right, wrong, ..A };
        for (probe, resolution) in [
            (judged(2, 1), Resolution::Rightly),
            (judged(0, 1), Resolution::Wrongly),
            (judged(1, 1), Resolution::Unknown),
            (A, Resolution::Unknown),
        ] {
            assert_eq!(changes(&[C, probe]), [(1, Change::Resolved(resolution))]);
        }
        let before = Probe { right: 5, ..C };
        assert_eq!(
            changes(&[before, A]),
            [(1, Change::Resolved(Resolution::Unknown))],
            "older labels do not count"
        );
    }

    #[test]
    fn counts_of_rounds_add_up_and_the_share_of_right_ones_has_an_interval() {
        let rightly = Probe { right: 1, ..A };
        let wrongly = Probe { wrong: 1, ..A };
        let found = drift(&[vec![C, C, C, A], vec![rightly, wrongly, A, C], vec![C, wrongly, A, A]]).unwrap();
        assert_eq!(
            found.rounds[1],
            RoundDrift {
                clear: 4,
                in_conflict: 1,
                born: 1,
                reopened: 0,
                resolved: 3,
                rightly: 1,
                wrongly: 1,
                unknown: 1
            }
        );
        assert_eq!((found.rounds[2].reopened, found.rounds[2].resolved), (1, 1));
        assert_eq!(found.rightly(), wilson_interval(1, 2));
        assert_eq!(drift(&[vec![C], vec![A]]).unwrap().rightly(), None);
    }

    #[test]
    fn rounds_have_the_same_probes() {
        let error = drift(&[vec![C, A], vec![C]]).unwrap_err();
        assert_eq!(error.to_string(), "round 1 has 1 probe prompts: use the 2 of the first round");
        assert_eq!(drift(&[]), Ok(Drift::default()));
    }

    #[test]
    fn tau_within_noise_is_unclear() {
        let of = |low, high| {
            ProbeState::of_tau(Some(&Interval { mean: f64::midpoint(low, high), low, high, n: 8 }))
        };
        assert_eq!(of(-0.9, -0.1), ProbeState::Conflict);
        assert_eq!(of(0.1, 0.9), ProbeState::Agreement);
        assert_eq!(of(-0.9, 0.1), ProbeState::Unclear);
        assert_eq!(ProbeState::of_tau(None), ProbeState::Unclear);
    }

    proptest! {
        #[test]
        fn changes_balance_the_conflicts(rounds in prop::collection::vec(prop::collection::vec(0..3_u8, 6), 1..9)) {
            let probe = |state: &u8| match state { 0 => C, 1 => A, _ => U };
            let rounds: Vec<Vec<Probe>> = rounds.iter().map(|round| round.iter().map(probe).collect()).collect();
            let found = drift(&rounds).unwrap();
            let start = (0..6)
                .filter(|at| rounds.iter().map(|round| round[*at].state).find(|it| *it != ProbeState::Unclear) == Some(ProbeState::Conflict))
                .count();
            let sum = |count: fn(&RoundDrift) -> usize| found.rounds.iter().map(count).sum::<usize>();
            let last = found.rounds.last().unwrap().in_conflict;
            prop_assert_eq!(start + sum(|it| it.born) + sum(|it| it.reopened), last + sum(|it| it.resolved));
        }
    }
}
