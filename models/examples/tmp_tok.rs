//! Temporary.
use dissent_models::checkpoint::{Checkpoint, OpenOptions};
fn main() {
    let cache_dir = dissent_models::cache::cache_dir().expect("c");
    let path = dissent_models::cache::models_dir(&cache_dir).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let c = Checkpoint::open(&path, &OpenOptions { layers: None, cache_dir }).expect("open");
    let (mut n, mut bad, mut toks) = (0, 0, 0);
    for line in std::fs::read_to_string("/tmp/bigtok.jsonl").expect("r").lines() {
        let v: serde_json::Value = serde_json::from_str(line).expect("j");
        let ids: Vec<u32> = serde_json::from_value(v["ids"].clone()).expect("ids");
        let t = v["t"].as_str().expect("t");
        let got = c.tokenizer.encode(t, true).expect("e");
        n += 1; toks += ids.len();
        if got != ids || c.tokenizer.decode(&ids, false).expect("d") != v["d"].as_str().expect("d") { bad += 1; if bad < 5 { eprintln!("{t:?}"); } }
    }
    eprintln!("{n} texts, {toks} tokens, {bad} differ");
}
