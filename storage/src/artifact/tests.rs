//! A folder of artifacts, alone and before a shared store.

use super::*;

fn store() -> (ArtifactStore, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (ArtifactStore::open(dir.path().join("artifacts")).unwrap(), dir)
}

#[test]
fn stored_bytes_are_read_back_under_their_hash() {
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
fn no_partial_file_is_left_behind() {
    let (store, _dir) = store();
    let id = store.put_bytes(b"x").unwrap();
    store.put_bytes(b"x").unwrap();
    assert!(store.put_file(Path::new("/nowhere/at/all")).is_err());
    let names: Vec<_> = std::fs::read_dir(&store.root).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [&id.to_string()[..2]]);
}

#[test]
fn only_day_old_partial_files_are_removed() {
    let (store, _dir) = store();
    let (old, new) = (store.partial().unwrap(), store.partial().unwrap());
    let beside = store.root.join("notes");
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    for file in [old.as_file(), &File::create(&beside).unwrap()] {
        let time = file.metadata().unwrap().modified().unwrap() - 2 * day;
        file.set_modified(time).unwrap();
    }
    ArtifactStore::open(&store.root).unwrap();
    assert!(!old.path().exists() && new.path().exists() && beside.exists());
}

#[test]
fn damage_is_found_and_repaired_by_storing_again() {
    let (store, _dir) = store();
    let id = store.put_bytes(b"weights").unwrap();
    std::fs::write(store.path(&id), b"weighty").unwrap();
    assert!(matches!(store.verify(&id), Err(StorageError::ArtifactDamaged { .. })));
    assert!(matches!(store.read(&id, 100), Err(StorageError::ArtifactDamaged { .. })));
    assert_eq!(store.put_bytes(b"weights").unwrap(), id);
    assert_eq!(store.read(&id, 100).unwrap(), b"weights");
}

#[test]
fn invalid_artifact_names_are_errors() {
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
fn a_symbolic_link_at_an_artifact_path_is_not_followed() {
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
fn a_missing_artifact_is_reported_as_missing() {
    let (store, _dir) = store();
    let id = ArtifactId::of(b"never put");
    assert!(matches!(store.open_artifact(&id), Err(StorageError::ArtifactMissing(missing)) if missing == id));
}

/// Two hosts with a folder each, before one shared store.
fn hosts(cache_bytes: Option<u64>) -> ([ArtifactStore; 2], tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let host = |name: &str| {
        let shared = SharedStore::open(&url(&dir)).unwrap();
        ArtifactStore::open(dir.path().join(name)).unwrap().with_shared_store(shared, cache_bytes)
    };
    ([host("one"), host("two")], dir)
}

fn url(dir: &tempfile::TempDir) -> String {
    format!("file://{}", dir.path().join("shared").display())
}

/// Returns the file of an artifact in the shared store.
fn in_shared(dir: &tempfile::TempDir, id: &ArtifactId) -> PathBuf {
    dir.path().join("shared").join(shared_name(id))
}

#[test]
fn artifacts_of_one_host_are_read_by_another() {
    let ([one, two], _dir) = hosts(None);
    // One small, one that is uploaded in parts.
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
fn wrong_bytes_of_the_shared_store_are_discarded() {
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
fn a_damaged_local_artifact_is_fetched_again() {
    let ([one, two], _dir) = hosts(None);
    let id = one.put_bytes(b"weights").unwrap();
    two.verify(&id).unwrap();
    for damage in ["weighty", "", "weights and more"] {
        std::fs::write(two.path(&id), damage).unwrap();
        assert_eq!(two.read(&id, 100).unwrap(), b"weights");
        std::fs::write(two.path(&id), damage).unwrap();
        assert_eq!(two.verify(&id).unwrap(), 7);
    }
}

#[test]
fn the_least_recently_used_artifact_is_evicted() {
    let ([one, two], dir) = hosts(Some(250));
    let [first, second, third] = [1, 2, 3].map(|byte| one.put_bytes(&[byte; 100]).unwrap());
    assert!(!one.contains(&first) && one.contains(&third), "the cache of the uploading host is limited, too");
    let age = |id: &ArtifactId| {
        let file = File::options().append(true).open(two.path(id)).unwrap();
        let epoch = std::time::UNIX_EPOCH;
        file.set_times(std::fs::FileTimes::new().set_accessed(epoch).set_modified(epoch)).unwrap();
    };
    let linked = dir.path().join("linked");
    two.link(&first, &linked).unwrap();
    two.verify(&second).unwrap();
    age(&first);
    age(&second);
    two.read(&first, 100).unwrap();
    two.verify(&third).unwrap();
    assert!(two.contains(&first) && !two.contains(&second), "a use renews an artifact");
    age(&first);
    assert_eq!(two.read(&second, 100).unwrap(), [2; 100], "an evicted artifact is fetched again");
    assert!(!two.contains(&first));
    assert_eq!(std::fs::read(&linked).unwrap(), [1; 100], "a linked artifact stays");
    two.link(&first, &linked).unwrap();
    assert!(!two.contains(&first), "no second download");
    std::fs::write(&linked, "damaged").unwrap();
    two.link(&first, &linked).unwrap();
    assert_eq!(std::fs::read(linked).unwrap(), [1; 100]);
}

#[test]
fn using_a_file_keeps_its_modification_time() {
    let ([one, _], dir) = hosts(Some(250));
    let id = one.put_bytes(b"weights").unwrap();
    let changed = |path: &Path| path.metadata().unwrap().modified().unwrap();
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    File::options().append(true).open(one.path(&id)).unwrap().set_modified(then).unwrap();
    let linked = dir.path().join("linked");
    for _ in 0..2 {
        one.link(&id, &linked).unwrap();
        one.verify(&id).unwrap();
        assert_eq!((changed(&one.path(&id)), changed(&linked)), (then, then));
    }
}

#[test]
fn storing_evicts_even_if_the_shared_store_has_the_artifact() {
    let ([one, two], _dir) = hosts(Some(150));
    for byte in 1..=3 {
        one.put_bytes(&[byte; 100]).unwrap();
    }
    let kept = [1, 2, 3].map(|byte| two.put_bytes(&[byte; 100]).unwrap());
    assert_eq!(kept.map(|id| two.contains(&id)), [false, false, true]);
}

#[test]
fn an_artifact_larger_than_the_cache_is_an_error() {
    let ([one, _], dir) = hosts(None);
    let id = one.put_bytes(&[1; 300]).unwrap();
    let shared = SharedStore::open(&url(&dir)).unwrap();
    let small = ArtifactStore::open(dir.path().join("small")).unwrap().with_shared_store(shared, Some(250));
    let error = small.verify(&id).unwrap_err();
    assert!(matches!(error, StorageError::SharedTooLarge { bytes_max: 250, .. }), "{error:?}");
    assert!(!small.contains(&id));
}

#[test]
fn a_formerly_unshared_folder_is_uploaded_completely() {
    let (alone, dir) = store();
    let id = alone.put_bytes(b"weights").unwrap();
    let shared = SharedStore::open(&url(&dir)).unwrap();
    let store = alone.with_shared_store(shared, None);
    store.share_all().unwrap();
    store.share_all().unwrap();
    assert_eq!(std::fs::read(in_shared(&dir, &id)).unwrap(), b"weights");
}

#[test]
fn artifacts_missing_in_the_shared_store_are_not_evicted() {
    let (alone, dir) = store();
    let ids: Vec<ArtifactId> = (0..3_u8).map(|byte| alone.put_bytes(&[byte; 100]).unwrap()).collect();
    let store = alone.with_shared_store(SharedStore::open(&url(&dir)).unwrap(), Some(150));
    let last = store.put_bytes(&[9; 100]).unwrap();
    assert!(ids.iter().all(|id| store.contains(id)), "artifacts without a stored copy stay");
    store.share_all().unwrap();
    for id in ids.iter().chain([&last]) {
        assert_eq!(std::fs::read(in_shared(&dir, id)).unwrap().len(), 100);
    }
    let kept = ids.iter().chain([&last]).filter(|id| store.contains(id)).count();
    assert_eq!(kept, 1, "uploaded artifacts are evicted");
}

#[test]
fn artifacts_damaged_or_unknown_in_the_shared_store_are_not_evicted() {
    let ([one, _], dir) = hosts(Some(150));
    let first = one.put_bytes(&[1; 100]).unwrap();
    std::fs::write(in_shared(&dir, &first), [1; 99]).unwrap();
    let second = one.put_bytes(&[2; 100]).unwrap();
    assert!(one.contains(&first) && one.contains(&second));
    let silent =
        |_: &ArtifactId, _| Err(StorageError::ArtifactName(InvalidArtifactName("no answer".to_owned())));
    Cache::new(Some(0)).evict(&one.root, None, silent);
    assert!(one.contains(&first) && one.contains(&second));
    Cache::new(Some(0)).evict(&one.root, None, |_, _| Ok(true));
    assert!(!one.contains(&first) && !one.contains(&second));
}

#[test]
fn one_damaged_artifact_does_not_stop_the_upload_of_others() {
    let (alone, dir) = store();
    let ids: Vec<ArtifactId> = (0..5_u8).map(|byte| alone.put_bytes(&[byte; 100]).unwrap()).collect();
    std::fs::write(alone.path(&ids[2]), "damaged").unwrap();
    let store = alone.with_shared_store(SharedStore::open(&url(&dir)).unwrap(), None);
    store.share_all().unwrap();
    let shared: Vec<bool> = ids.iter().map(|id| in_shared(&dir, id).exists()).collect();
    assert_eq!(shared, [true, true, false, true, true]);
    assert!(
        matches!(store.read(&ids[2], 100), Err(StorageError::ArtifactMissing(_))),
        "the reader gets an error"
    );
}

#[test]
fn a_truncated_shared_artifact_is_uploaded_again() {
    let (alone, dir) = store();
    let store = alone.with_shared_store(SharedStore::open(&url(&dir)).unwrap(), None);
    let id = store.put_bytes(b"weights").unwrap();
    std::fs::write(in_shared(&dir, &id), b"wei").unwrap();
    store.put_bytes(b"weights").unwrap();
    assert_eq!(std::fs::read(in_shared(&dir, &id)).unwrap(), b"weights");
}

#[test]
fn two_processes_fetch_into_one_folder() {
    let ([one, two], dir) = hosts(None);
    let ids: Vec<ArtifactId> = (0..20_u8).map(|byte| one.put_bytes(&vec![byte; 50_000]).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let beside = SharedStore::open(&url(&dir)).unwrap();
            let beside = ArtifactStore::open(&two.root).unwrap().with_shared_store(beside, Some(400_000));
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
fn storing_and_linking_survive_concurrent_eviction() {
    let ([one, _], dir) = hosts(None);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            // There is room for one of them.
            let beside = SharedStore::open(&url(&dir)).unwrap();
            let beside = ArtifactStore::open(&one.root).unwrap().with_shared_store(beside, Some(60_000));
            let linked = dir.path().join(format!("linked-{thread}"));
            scope.spawn(move || {
                for byte in (0..60_u8).map(|byte| byte % 20) {
                    let id = beside.put_bytes(&vec![byte; 50_000]).unwrap();
                    beside.link(&id, &linked).unwrap();
                    assert_eq!(std::fs::read(&linked).unwrap(), vec![byte; 50_000]);
                }
            });
        }
    });
}

#[test]
fn named_objects_are_replaced_and_limited_in_size() {
    let dir = tempfile::tempdir().unwrap();
    let shared = SharedStore::open(&url(&dir)).unwrap();
    assert_eq!(shared.get("experiments/a.json", 10).unwrap(), None);
    for text in ["{}", "{\"b\":1}"] {
        shared.put("experiments/a.json", text.into()).unwrap();
        assert_eq!(shared.get("experiments/a.json", 10).unwrap(), Some(text.into()));
    }
    assert!(shared.get("experiments/a.json", 3).is_err());
    assert!(
        shared.size("experiments/a.json").unwrap().is_some()
            && shared.size("experiments/b.json").unwrap().is_none()
    );
}

#[test]
fn an_artifact_is_downloaded_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let shared = SharedStore::open(&url(&dir)).unwrap();
    for bytes in [0, 1, 99, 100, 101, 300, 350_u64] {
        let whole: Vec<u8> = (0..=255).cycle().take(bytes.try_into().unwrap()).collect();
        shared.put("large", whole.clone()).unwrap();
        let (mut got, mut pieces) = (Vec::new(), 0);
        let mut sink = |piece: &[u8]| {
            pieces += 1;
            got.extend_from_slice(piece);
            Ok(())
        };
        assert_eq!(shared.download("large", 350, 100, &mut sink).unwrap(), Some(bytes));
        assert_eq!((got, pieces), (whole, bytes.div_ceil(100)));
    }
    assert!(shared.download("large", 349, 100, &mut |_| Ok(())).is_err());
    let gone = shared.download("large", 350, 100, &mut |_| {
        std::fs::remove_file(dir.path().join("shared/large")).unwrap();
        Ok(())
    });
    assert!(matches!(gone, Ok(None)), "the second piece is requested: {gone:?}");
}

#[test]
fn invalid_store_urls_are_errors_that_say_why() {
    for (url, reason) in [
        ("nonsense", "relative URL"),
        ("http://host/x", "use file:///folder or s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "set them in the environment"),
        ("file:///proc/nowhere", "file:///proc/nowhere"),
    ] {
        let said = SharedStore::open(url).unwrap_err().to_string();
        assert!(said.contains(reason) && !said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn a_store_can_be_used_and_dropped_within_a_runtime() {
    let ([one, two], _dir) = hosts(None);
    let id = one.put_bytes(b"weights").unwrap();
    assert_eq!(two.read(&id, 100).unwrap(), b"weights");
    drop((one, two));
}

/// Against a real service, named by `DISSENT_TEST_S3` (`s3://bucket/prefix`, with the AWS_* variables).
#[cfg(feature = "s3")]
#[test]
fn a_bucket_is_a_shared_store() {
    let url = std::env::var("DISSENT_TEST_S3").map_err(|_| "DISSENT_TEST_S3 names no bucket");
    let Some(url) = crate::required::optional(url) else { return };
    let dir = tempfile::tempdir().unwrap();
    let host = |name: &str| {
        ArtifactStore::open(dir.path().join(name))
            .unwrap()
            .with_shared_store(SharedStore::open(&url).unwrap(), None)
    };
    let (one, two) = (host("one"), host("two"));
    for bytes in [b"weights".to_vec(), vec![9; 20 << 20]] {
        let id = one.put_bytes(&bytes).unwrap();
        assert_eq!(two.read(&id, 1 << 30).unwrap(), bytes);
        let mut hasher = blake3::Hasher::new();
        let mut sink = |piece: &[u8]| {
            hasher.update(piece);
            Ok(())
        };
        let got = one.shared().unwrap().download(&shared_name(&id), 1 << 30, 6 << 20, &mut sink).unwrap();
        assert_eq!((got, ArtifactId(hasher.finalize())), (Some(bytes.len() as u64), id), "in pieces too");
    }
    let none = one.put_bytes(b"").unwrap();
    assert_eq!(two.read(&none, 0).unwrap(), b"");
    assert!(matches!(two.read(&ArtifactId::of(b"never"), 10), Err(StorageError::ArtifactMissing(_))));
    one.shared().unwrap().put("experiments/a.json", b"{}".to_vec()).unwrap();
    assert_eq!(two.shared().unwrap().get("experiments/a.json", 10).unwrap(), Some(b"{}".to_vec()));
}
