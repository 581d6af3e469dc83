#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::print_stdout, clippy::unwrap_used)]
use dissent_models::checkpoint::{Checkpoint, OpenOptions};
use dissent_models::runtime::{CancelFlag, OnnxRuntime, SessionOptions};
use dissent_models::scoring::{PolicyScorer, ScoreItem};
fn main() {
    let c =
        Checkpoint::open("/tmp/smol".as_ref(), &OpenOptions { layers: None, cache_dir: "/tmp/xx".into() })
            .unwrap();
    let mut s =
        PolicyScorer::open(OnnxRuntime::load(None).unwrap(), &c, None, &SessionOptions::default()).unwrap();
    let items: Vec<ScoreItem> = (0..6)
        .map(|i| ScoreItem {
            prompt_ids: (0..30).map(|k| 1000 + 7 * k).collect(),
            completion_ids: (0..65).map(|k| 500 + i * 31 + k * 13).collect(),
        })
        .collect();
    let mut best = f64::MAX;
    for _ in 0..6 {
        let t = std::time::Instant::now();
        let r = s.score(&items, &CancelFlag::new(), &mut |_| {}).unwrap();
        best = best.min(t.elapsed().as_secs_f64());
        std::hint::black_box(r);
    }
    println!("min {best}");
}
