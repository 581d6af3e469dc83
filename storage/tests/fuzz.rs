//! Fuzzes untrusted input: imports and names of artifacts. `PROPTEST_CASES` sets the number of cases.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../domain/tests/mutation/mod.rs"]
mod mutation;

use std::str::FromStr;

use dissent_domain::event::{EventId, NewEvent, PromptAdmitted, RoundClosed};
use dissent_domain::id::{ExperimentId, PromptId};
use dissent_domain::log::{Append, EventLog, ExpectedVersion};
use dissent_domain::prompt::Prompt;
use dissent_storage::{ArtifactId, ArtifactStore, MemoryLog, transfer, wait};
use proptest::prelude::*;

use mutation::{bounded, cases, mutated, mutations};

fn export() -> Vec<u8> {
    let log = MemoryLog::new();
    for n in 0..6 {
        let experiment = ExperimentId::new(["a", "b"][n as usize % 2]).unwrap();
        let prompt_id = PromptId::new(format!("p{n}")).unwrap();
        let prompt = Prompt { prompt_id, text: "why?".to_owned(), category: None, messages: Vec::new() };
        let event = if n < 4 {
            PromptAdmitted { round: 0, index: n, prompt }.into()
        } else {
            RoundClosed { round: n }.into()
        };
        let id = EventId::of_experiment(&experiment).caused("test", n);
        let event = NewEvent::new(id, None, "test", 5, &event).unwrap();
        wait(log.append(Append { experiment, expected: ExpectedVersion::Any, events: vec![event] })).unwrap();
    }
    let mut out = Vec::new();
    transfer::export(&log, None, &mut out).unwrap();
    out
}

/// An import fails completely, or its events can be exported again.
fn import(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export.jsonl");
    std::fs::write(&path, bytes).unwrap();
    let log = MemoryLog::new();
    match bounded(bytes.len(), || transfer::import(&log, &path)) {
        Err(_) => assert_eq!(log.head(), 0),
        Ok(imported) => {
            assert_eq!(imported.added, log.head());
            transfer::export(&log, None, &mut Vec::new()).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn importing_a_mutated_export_is_all_or_nothing(mutations in mutations()) {
        import(&mutated(&export(), &mutations));
    }

    #[test]
    fn importing_arbitrary_bytes_is_all_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        import(&bytes);
    }

    #[test]
    fn the_path_of_a_parsed_artifact_name_stays_in_the_folder(name in "([0-9a-f]{60,66}|\\PC*|[./0-9a-fA-F]{60,66})") {
        if let Ok(id) = ArtifactId::from_str(&name) {
            let folder = tempfile::tempdir().unwrap();
            let store = ArtifactStore::open(folder.path()).unwrap();
            prop_assert!(store.path(&id).starts_with(folder.path()));
            prop_assert!(!store.contains(&id));
            prop_assert!(store.read(&id, 1 << 20).is_err());
        }
    }
}
