//! A directory of artifacts, alone and before a shared store.

use super::*;

fn store() -> (ArtifactStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (ArtifactStore::open(dir.path().join("artifacts")).unwrap(), dir)
}

#[test]
fn what_is_put_comes_back_under_the_name_of_its_content() {
    let (store, dir) = store();
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let id = store.put_bytes(&bytes).unwrap();
    let file = dir.path().join("source");
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(store.put_file(&file).unwrap(), id);
    assert_eq!(id, ArtifactId::of(&bytes));
    assert_eq!(store.read(&id, 200_000).unwrap(), bytes);
    assert_eq!(store.verify(&id).unwrap(), 200_000);
    assert!(store.contains(&id));
    assert!(store.read(&id, 199_999).is_err());
}

#[test]
fn nothing_partial_is_left_behind() {
    let (store, _dir) = store();
    let id = store.put_bytes(b"x").unwrap();
    store.put_bytes(b"x").unwrap();
    assert!(store.put_file(Path::new("/nowhere/at/all")).is_err());
    let names: Vec<_> = std::fs::read_dir(&store.root).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [&id.to_string()[..2]]);
}

#[test]
fn damage_is_found_and_healed_by_putting_again() {
    let (store, _dir) = store();
    let id = store.put_bytes(b"weights").unwrap();
    std::fs::write(store.path(&id), b"weighty").unwrap();
    assert!(matches!(store.verify(&id), Err(StorageError::ArtifactDamaged { .. })));
    assert!(matches!(store.read(&id, 100), Err(StorageError::ArtifactDamaged { .. })));
    assert_eq!(store.put_bytes(b"weights").unwrap(), id);
    assert_eq!(store.read(&id, 100).unwrap(), b"weights");
}

#[test]
fn hostile_names_are_refused() {
    let upper = ArtifactId::of(b"x").to_string().to_uppercase();
    let long = "a".repeat(65);
    let dots = "../".repeat(21) + "a";
    for name in ["", "..", "/etc/passwd", &upper, &long, &dots, &"é".repeat(32), "\0"] {
        assert!(name.parse::<ArtifactId>().is_err(), "{name:?}");
    }
    let id = ArtifactId::of(b"x");
    assert_eq!(id.to_string().parse::<ArtifactId>().unwrap(), id);
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_an_artifact_is_not_followed() {
    let (store, dir) = store();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, b"x").unwrap();
    let id = ArtifactId::of(b"x");
    std::fs::create_dir_all(store.path(&id).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&secret, store.path(&id)).unwrap();
    assert!(matches!(store.open_artifact(&id), Err(StorageError::ArtifactDamaged { .. })));
    assert!(!store.contains(&id));
}

#[test]
fn a_missing_artifact_is_said_to_be_missing() {
    let (store, _dir) = store();
    let id = ArtifactId::of(b"never put");
    assert!(matches!(store.open_artifact(&id), Err(StorageError::ArtifactMissing(missing)) if missing == id));
}

/// Two hosts with a folder each, before one shared store.
fn hosts(cache_bytes: Option<u64>) -> ([ArtifactStore; 2], tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let host = |name: &str| {
        let shared = SharedStore::open(&url(&dir)).unwrap();
        ArtifactStore::open(dir.path().join(name)).unwrap().before(shared, cache_bytes)
    };
    ([host("one"), host("two")], dir)
}

fn url(dir: &tempfile::TempDir) -> String {
    format!("file://{}", dir.path().join("shared").display())
}

/// The file of an artifact in the shared store.
fn in_shared(dir: &tempfile::TempDir, id: &ArtifactId) -> PathBuf {
    dir.path().join("shared").join(shared_name(id))
}

#[test]
fn what_one_host_puts_another_reads() {
    let ([one, two], _dir) = hosts(None);
    // One small, one that goes up in parts.
    for bytes in [b"weights".to_vec(), vec![7; 20 << 20]] {
        let id = one.put_bytes(&bytes).unwrap();
        assert!(!two.contains(&id));
        assert_eq!(two.verify(&id).unwrap(), bytes.len() as u64);
        assert!(two.contains(&id), "it is kept");
        assert_eq!(two.read(&id, 1 << 30).unwrap(), bytes);
    }
    let never = ArtifactId::of(b"never put");
    assert!(matches!(two.read(&never, 10), Err(StorageError::ArtifactMissing(id)) if id == never));
}

#[test]
fn a_shared_store_that_lies_is_found_out_and_nothing_of_it_is_kept() {
    let ([one, two], dir) = hosts(None);
    let id = one.put_bytes(b"weights").unwrap();
    std::fs::write(in_shared(&dir, &id), b"weighty").unwrap();
    for _ in 0..2 {
        let error = two.read(&id, 100).unwrap_err();
        assert!(matches!(&error, StorageError::ArtifactDamaged { .. }), "{error}");
        assert!(!two.contains(&id));
    }
    let left: Vec<_> = std::fs::read_dir(&two.root).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_damaged_here_is_fetched_again() {
    let ([one, two], _dir) = hosts(None);
    let id = one.put_bytes(b"weights").unwrap();
    two.verify(&id).unwrap();
    for damage in ["weighty", "", "more than it was"] {
        std::fs::write(two.path(&id), damage).unwrap();
        assert_eq!(two.read(&id, 100).unwrap(), b"weights");
        std::fs::write(two.path(&id), damage).unwrap();
        assert_eq!(two.verify(&id).unwrap(), 7);
    }
}

#[test]
fn what_was_not_used_for_longest_makes_room() {
    let ([one, two], dir) = hosts(Some(250));
    let [first, second, third] = [1, 2, 3].map(|byte| one.put_bytes(&[byte; 100]).unwrap());
    assert!(!one.contains(&first) && one.contains(&third), "the host that put them has a limit too");
    let age = |id: &ArtifactId| {
        let file = File::options().append(true).open(two.path(id)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    let linked = dir.path().join("linked");
    two.link(&first, &linked).unwrap();
    two.verify(&second).unwrap();
    age(&first);
    age(&second);
    two.read(&first, 100).unwrap();
    two.verify(&third).unwrap();
    assert!(two.contains(&first) && !two.contains(&second), "used again, it is young again");
    age(&first);
    assert_eq!(two.read(&second, 100).unwrap(), [2; 100], "what is gone comes again");
    assert!(!two.contains(&first));
    assert_eq!(std::fs::read(linked).unwrap(), [1; 100], "under another name it stays");
}

#[test]
fn an_artifact_larger_than_the_cache_is_refused() {
    let ([one, _], dir) = hosts(None);
    let id = one.put_bytes(&[1; 300]).unwrap();
    let shared = SharedStore::open(&url(&dir)).unwrap();
    let small = ArtifactStore::open(dir.path().join("small")).unwrap().before(shared, Some(250));
    let said = small.verify(&id).unwrap_err().to_string();
    assert!(said.contains("more than 250 bytes"), "{said}");
    assert!(!small.contains(&id));
}

#[test]
fn a_folder_that_stood_alone_is_shared_whole() {
    let (alone, dir) = store();
    let id = alone.put_bytes(b"weights").unwrap();
    let shared = SharedStore::open(&url(&dir)).unwrap();
    let store = alone.before(shared, None);
    store.share_all().unwrap();
    store.share_all().unwrap();
    assert_eq!(std::fs::read(in_shared(&dir, &id)).unwrap(), b"weights");
}

#[test]
fn two_processes_fetch_into_one_folder() {
    let ([one, two], dir) = hosts(None);
    let ids: Vec<ArtifactId> = (0..20_u8).map(|byte| one.put_bytes(&vec![byte; 50_000]).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let beside = SharedStore::open(&url(&dir)).unwrap();
            let beside = ArtifactStore::open(&two.root).unwrap().before(beside, Some(400_000));
            let ids = &ids;
            scope.spawn(move || {
                for (byte, id) in (0..).zip(ids) {
                    assert_eq!(beside.read(id, 1 << 20).unwrap(), vec![byte; 50_000]);
                }
            });
        }
    });
}

#[test]
fn named_objects_are_put_in_each_others_place_and_limited() {
    let dir = tempfile::tempdir().unwrap();
    let shared = SharedStore::open(&url(&dir)).unwrap();
    assert_eq!(shared.get("experiments/a.json", 10).unwrap(), None);
    for text in ["{}", "{\"b\":1}"] {
        shared.put("experiments/a.json", text.into()).unwrap();
        assert_eq!(shared.get("experiments/a.json", 10).unwrap(), Some(text.into()));
    }
    assert!(shared.get("experiments/a.json", 3).is_err());
    assert!(
        shared.contains("experiments/a.json").unwrap() && !shared.contains("experiments/b.json").unwrap()
    );
}

#[test]
fn an_address_that_cannot_be_a_store_is_refused_in_words() {
    for (url, reason) in [
        ("nonsense", "relative URL"),
        ("http://host/x", "use file:///folder or s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "credentials belong into the environment"),
        ("file:///proc/nowhere", "file:///proc/nowhere"),
    ] {
        let said = SharedStore::open(url).unwrap_err().to_string();
        assert!(said.contains(reason) && !said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn a_store_can_be_asked_and_dropped_within_a_runtime() {
    let ([one, two], _dir) = hosts(None);
    let id = one.put_bytes(b"weights").unwrap();
    assert_eq!(two.read(&id, 100).unwrap(), b"weights");
    drop((one, two));
}

/// Against a real service, named by `DISSENT_TEST_S3` (`s3://bucket/prefix`, with AWS_* beside it).
#[cfg(feature = "s3")]
#[test]
fn a_bucket_is_a_shared_store() {
    let Ok(url) = std::env::var("DISSENT_TEST_S3") else {
        return eprintln!("skipped: DISSENT_TEST_S3 names no bucket");
    };
    let dir = tempfile::tempdir().unwrap();
    let host = |name: &str| {
        ArtifactStore::open(dir.path().join(name)).unwrap().before(SharedStore::open(&url).unwrap(), None)
    };
    let (one, two) = (host("one"), host("two"));
    for bytes in [b"weights".to_vec(), vec![9; 20 << 20]] {
        let id = one.put_bytes(&bytes).unwrap();
        assert_eq!(two.read(&id, 1 << 30).unwrap(), bytes);
    }
    assert!(matches!(two.read(&ArtifactId::of(b"never"), 10), Err(StorageError::ArtifactMissing(_))));
    one.shared().unwrap().put("experiments/a.json", b"{}".to_vec()).unwrap();
    assert_eq!(two.shared().unwrap().get("experiments/a.json", 10).unwrap(), Some(b"{}".to_vec()));
}
