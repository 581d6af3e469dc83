//! Several threads and connections at the same time.

use super::*;
use crate::accounts::{AccountsError, Claim, PersonChange};

#[test]
fn threads_use_the_accounts_together() {
    let place = Place::new();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let accounts = place.accounts.clone();
            scope.spawn(move || {
                for m in 0..20 {
                    let person = accounts.create(&format!("{n}-{m}"), Role::Annotator, NOW).unwrap();
                    let link = accounts.create_link(&person.id, NOW + DAY, NOW).unwrap();
                    assert_eq!(accounts.open_link(&link.secret, NOW).unwrap().person.id, person.id);
                }
            });
        }
    });
    assert_eq!(place.accounts.people(1000, None).unwrap().rows.len(), 160);
}

#[test]
fn a_link_of_single_use_is_redeemed_once_by_many_threads() {
    let place = Place::new();
    let secret = place.accounts.first_admin_link(NOW).unwrap().unwrap();
    let redeemed = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|n| {
                let (accounts, secret) = (place.accounts.clone(), secret.clone());
                scope.spawn(move || {
                    accounts.redeem(&secret, Some(&format!("root {n}")), PASSWORD, NOW).is_ok()
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).filter(|is_ok| *is_ok).count()
    });
    assert_eq!(redeemed, 1);
    assert_eq!(place.accounts.people(10, None).unwrap().rows.len(), 1);
}

#[test]
fn one_admin_stays_when_all_are_erased_disabled_and_demoted_together() {
    let place = Place::new();
    let admins: Vec<PersonId> = (0..9).map(|n| place.person(&format!("root {n}"), Role::Admin)).collect();
    let refused: usize = std::thread::scope(|scope| {
        let calls: Vec<_> = admins
            .iter()
            .enumerate()
            .map(|(n, id)| {
                let accounts = place.accounts.clone();
                scope.spawn(move || {
                    let done = match n % 3 {
                        0 => accounts.erase(id),
                        1 => accounts
                            .change(
                                id,
                                &PersonChange { disabled: Some(true), ..PersonChange::default() },
                                None,
                            )
                            .map(drop),
                        _ => accounts
                            .change(
                                id,
                                &PersonChange { role: Some(Role::Viewer), ..PersonChange::default() },
                                None,
                            )
                            .map(drop),
                    };
                    usize::from(matches!(done, Err(AccountsError::LastAdmin)))
                })
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).sum()
    });
    assert_eq!(refused, 1);
    let people = place.accounts.people(100, None).unwrap().rows;
    assert_eq!(people.iter().filter(|person| person.role == Role::Admin && !person.disabled).count(), 1);
}

#[test]
fn a_request_is_claimed_once_by_many_connections() {
    let place = Place::new();
    let path = place.folder.path().join(FILE);
    let claims: Vec<Claim> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let accounts = Accounts::open(&path).unwrap();
                scope.spawn(move || accounts.claim(None, "k", b"r", NOW).unwrap())
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(claims.iter().filter(|claim| **claim == Claim::New).count(), 1);
    assert!(claims.iter().all(|claim| matches!(claim, Claim::New | Claim::InFlight)));
}

#[test]
fn simultaneous_wrong_passwords_cost_few_hashes_and_others_sign_in_meanwhile() {
    let place = Place::new();
    for name in ["ann", "ben"] {
        place.with_password(name, Role::Researcher);
    }
    let before = place.accounts.passwords().hashes();
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..32)
            .map(|n| {
                let accounts = place.accounts.clone();
                scope.spawn(move || {
                    for m in 0..50 {
                        let name = if n % 2 == 0 { "ann".to_owned() } else { format!("name {n} {m}") };
                        assert!(accounts.sign_in(&name, "wrong password", "192.0.2.66", NOW).is_err());
                    }
                })
            })
            .collect();
        let begun = std::time::Instant::now();
        let signed_in = place.accounts.sign_in("ben", PASSWORD, "198.51.100.7", NOW);
        assert!(signed_in.is_ok(), "{signed_in:?} after {:?}", begun.elapsed());
        attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    });
    let hashes = place.accounts.passwords().hashes() - before;
    assert!(hashes <= 20 + 1, "{hashes} hashes for 1600 wrong passwords");
}

#[test]
fn a_backup_is_whole_while_others_write() {
    let place = Place::new();
    let backups = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let accounts = place.accounts.clone();
        let writer = scope.spawn(move || {
            for n in 0..200 {
                accounts.create(&format!("n{n:03}"), Role::Viewer, NOW).unwrap();
            }
        });
        for n in 0..5 {
            place.accounts.backup(&backups.path().join(n.to_string())).unwrap();
        }
        writer.join().unwrap();
    });
    for n in 0..5 {
        let copy = Accounts::open(&backups.path().join(n.to_string()).join(FILE)).unwrap();
        let names: Vec<String> = copy.people(1000, None).unwrap().rows.into_iter().map(|p| p.name).collect();
        let expected: Vec<String> = (0..names.len()).map(|n| format!("n{n:03}")).collect();
        assert_eq!(names, expected, "a copy has a prefix of the history");
    }
}
