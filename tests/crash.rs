//! `kill -9` at any moment neither loses nor duplicates events, and changes no result.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::support::random::Random;
use crate::support::{Lab, Setup, history, succeeded};

const KILLS: u32 = 50;

/// Type and body of each event, by its id.
type History = BTreeMap<String, (String, Vec<u8>)>;

/// An experiment that is killed repeatedly, with a check of its log after each kill.
struct Victim<'a> {
    lab: &'a Lab,
    data: String,
    /// Events in its log after the last kill.
    events: Vec<Recorded>,
    kills: u32,
    /// Number of lives that added to the log.
    advances: u32,
}

impl<'a> Victim<'a> {
    fn new(lab: &'a Lab, number: u32) -> Self {
        Self { lab, data: format!("killed-{number}"), events: Vec::new(), kills: 0, advances: 0 }
    }

    /// Runs the experiment and kills it after `moment`; true if it finishes first.
    fn finishes_within(&mut self, moment: Duration) -> bool {
        let config = self.lab.config();
        let mut child = self
            .lab
            .dissent(&self.data, &["run", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + moment;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "the run failed after {moment:?}");
                return true;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        self.kills += 1;
        self.look();
        false
    }

    /// Checks that the events of the last check are still in the log, at the same positions.
    fn look(&mut self) {
        if !self.lab.data_dir(&self.data).join("log").is_dir() {
            return;
        }
        let (before, after) = (&self.events, self.lab.events(&self.data));
        assert!(after.len() >= before.len(), "{} events became {}", before.len(), after.len());
        assert_eq!(*before, after[..before.len()]);
        self.advances += u32::from(after.len() > before.len());
        self.events = after;
    }

    /// Lets it finish and compares its history with that of an uninterrupted run.
    fn ends_as(mut self, reference: &History) {
        self.lab.run(&self.data);
        self.look();
        let history = history(&self.events);
        let differing = differing(&history, reference);
        assert!(differing.is_empty(), "after {} kills: {differing:?}", self.kills);
        succeeded(self.lab.dissent(&self.data, &["replay", "lab", "--verify"]));
    }
}

/// Types of the events that only one of two histories has, or that have different bodies.
fn differing<'a>(one: &'a History, other: &'a History) -> Vec<&'a str> {
    let in_one = one.iter().filter(|(id, event)| other.get(*id) != Some(event));
    let missing = other.iter().filter(|(id, _)| !one.contains_key(*id));
    in_one.chain(missing).map(|(_, (event_type, _))| event_type.as_str()).collect()
}

/// The history and the duration of an uninterrupted run.
fn uninterrupted(lab: &Lab) -> (History, Duration) {
    let begun = Instant::now();
    lab.run("reference");
    let whole_run = begun.elapsed();
    (history(&lab.events("reference")), whole_run)
}

#[test]
fn runs_killed_at_random_moments_equal_an_uninterrupted_run() {
    let Some(lab) = Lab::new(&Setup { prompts: 24, batch_prompts: 2, ..Setup::default() }) else { return };
    let (reference, whole_run) = uninterrupted(&lab);
    let mut moments = Random::new(20_251_209);
    let (mut kills, mut experiments) = (0, 0);
    while kills < KILLS {
        let mut victim = Victim::new(&lab, experiments);
        while !victim.finishes_within(whole_run.mul_f64(moments.unit())) {}
        kills += victim.kills;
        experiments += 1;
        victim.ends_as(&reference);
    }
    eprintln!("{kills} kills over {experiments} experiments, a whole run takes {whole_run:?}");
}

/// Most lives are too short for any progress, so that consecutive kills hit the same prompts. No prompt may
/// be set aside for that.
#[test]
fn a_run_killed_50_times_before_its_end_equals_an_uninterrupted_run() {
    let setup = Setup { prompts: 40, samples: 16, max_new_tokens: 64, batch_prompts: 4, ..Setup::default() };
    let Some(lab) = Lab::new(&setup) else { return };
    let (reference, whole_run) = uninterrupted(&lab);
    let mut moments = Random::new(20_251_210);
    let mut longest_life = whole_run.mul_f64(0.25);
    let mut experiments = 0;
    let mut victim = Victim::new(&lab, experiments);
    while victim.kills < KILLS {
        let advances = victim.advances;
        if victim.finishes_within(longest_life.mul_f64(moments.unit())) {
            victim.ends_as(&reference);
            experiments += 1;
            victim = Victim::new(&lab, experiments);
            longest_life = longest_life.mul_f64(0.5);
            continue;
        }
        // On a machine of any speed, about one life in eight makes progress.
        let advanced = victim.advances > advances;
        longest_life = longest_life.mul_f64(if advanced { 0.7 } else { 1.05 });
    }
    let (advances, known) = (victim.advances, victim.events.len());
    assert!(advances > 0, "no life was long enough for anything");
    eprintln!(
        "{advances} of {KILLS} lives got on, to {known} of {} events; a whole run takes {whole_run:?}",
        reference.len()
    );
    victim.ends_as(&reference);
}
