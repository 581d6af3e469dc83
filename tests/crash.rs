//! kill -9 at any moment loses nothing, doubles nothing, and changes no result.

use std::process::Stdio;
use std::time::{Duration, Instant};

use dissent_domain::event::Recorded;

use crate::support::{Lab, Setup, history, succeeded};

const KILLS: u32 = 50;

/// A cheap reproducible sequence: the moments need to be spread, not random.
struct Moments(u64);

impl Moments {
    fn next(&mut self, up_to: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        up_to.mul_f64((self.0 >> 33) as f64 / f64::from(1_u32 << 31))
    }
}

/// Runs the experiment and kills it after `moment`; true if it finished before that.
fn run_and_kill(lab: &Lab, data: &str, moment: Duration) -> bool {
    let config = lab.config();
    let mut child = lab
        .dissent(data, &["run", config.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + moment;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "the run failed after {moment:?}");
            return true;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return false;
        }
        std::thread::yield_now();
    }
}

/// What was in the log stays there: the same events at the same positions.
fn assert_kept(before: &[Recorded], after: &[Recorded]) {
    assert!(after.len() >= before.len(), "{} events became {}", before.len(), after.len());
    assert_eq!(before, &after[..before.len()]);
}

#[test]
fn a_run_killed_at_fifty_moments_ends_as_an_uninterrupted_one() {
    let Some(lab) = Lab::new(&Setup { prompts: 24, batch_prompts: 2, ..Setup::default() }) else { return };
    let begun = Instant::now();
    lab.run("reference");
    let whole_run = begun.elapsed();
    let reference = history(&lab.events("reference"));

    let mut moments = Moments(20_251_209);
    let (mut kills, mut experiments) = (0, 0);
    while kills < KILLS {
        let data = format!("killed-{experiments}");
        let mut before = Vec::new();
        while !run_and_kill(&lab, &data, moments.next(whole_run)) {
            kills += 1;
            if lab.data_dir(&data).join("log").is_dir() {
                let after = lab.events(&data);
                assert_kept(&before, &after);
                before = after;
            }
        }
        let events = lab.events(&data);
        assert_kept(&before, &events);
        assert_eq!(history(&events), reference, "experiment {experiments} after {kills} kills");
        succeeded(lab.dissent(&data, &["replay", "lab", "--verify"]));
        experiments += 1;
    }
    eprintln!("{kills} kills over {experiments} experiments, a whole run takes {whole_run:?}");
}
