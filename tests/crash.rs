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
struct KilledExperiment<'a> {
    lab: &'a Lab,
    data: String,
    /// Events in its log after the last kill.
    events: Vec<Recorded>,
    kills: u32,
    /// Number of runs that appended to the log.
    advances: u32,
}

impl<'a> KilledExperiment<'a> {
    fn new(lab: &'a Lab, number: u32) -> Self {
        Self { lab, data: format!("killed-{number}"), events: Vec::new(), kills: 0, advances: 0 }
    }

    /// Runs the experiment and kills it after `limit`; true if it finishes first.
    fn finishes_within(&mut self, limit: Duration) -> bool {
        let config = self.lab.config();
        let mut child = self
            .lab
            .dissent(&self.data, &["run", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "the run failed within {limit:?}");
                return true;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        self.kills += 1;
        self.check_log();
        false
    }

    /// Checks that the events of the last check are still in the log, at the same positions.
    fn check_log(&mut self) {
        if !self.lab.data_dir(&self.data).join("log").is_dir() {
            return;
        }
        let (before, after) = (&self.events, self.lab.events(&self.data));
        assert!(after.len() >= before.len(), "{} events became {}", before.len(), after.len());
        assert_eq!(*before, after[..before.len()]);
        self.advances += u32::from(after.len() > before.len());
        self.events = after;
    }

    /// Runs the experiment to its end and compares its history with that of an uninterrupted run.
    fn finishes_like(mut self, reference: &History) {
        self.lab.run(&self.data);
        self.check_log();
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
        let mut victim = KilledExperiment::new(&lab, experiments);
        while !victim.finishes_within(whole_run.mul_f64(moments.unit())) {}
        kills += victim.kills;
        experiments += 1;
        victim.finishes_like(&reference);
    }
    eprintln!("{kills} kills in {experiments} experiments; a whole run takes {whole_run:?}");
}

/// Most runs are too short for any progress, so consecutive kills hit the same prompts. That must not set a
/// prompt aside.
#[test]
fn a_run_killed_50_times_before_its_end_equals_an_uninterrupted_run() {
    let setup = Setup { prompts: 40, samples: 16, max_new_tokens: 64, batch_prompts: 4, ..Setup::default() };
    let Some(lab) = Lab::new(&setup) else { return };
    let (reference, whole_run) = uninterrupted(&lab);
    let mut moments = Random::new(20_251_210);
    let mut longest_run = whole_run.mul_f64(0.25);
    let mut experiments = 0;
    let mut victim = KilledExperiment::new(&lab, experiments);
    while victim.kills < KILLS {
        let advances = victim.advances;
        if victim.finishes_within(longest_run.mul_f64(moments.unit())) {
            victim.finishes_like(&reference);
            experiments += 1;
            victim = KilledExperiment::new(&lab, experiments);
            longest_run = longest_run.mul_f64(0.5);
            continue;
        }
        // On a machine of any speed, about one run in eight makes progress.
        let advanced = victim.advances > advances;
        longest_run = longest_run.mul_f64(if advanced { 0.7 } else { 1.05 });
    }
    let (advances, recorded) = (victim.advances, victim.events.len());
    assert!(advances > 0, "every run was too short for progress");
    eprintln!(
        "{advances} of {KILLS} runs appended events, {recorded} of {} in all; a whole run takes {whole_run:?}",
        reference.len()
    );
    victim.finishes_like(&reference);
}
