//! Sign in, sessions, tokens, links and invitations.

use super::*;
use crate::accounts::{AccountsError, PersonChange, Scope};

#[test]
fn the_first_admin_comes_by_a_link_that_works_once() {
    let place = Place::new();
    let accounts = &place.accounts;
    let old = accounts.first_admin_link(NOW).unwrap().unwrap();
    let link = accounts.first_admin_link(NOW).unwrap().unwrap();
    let redeem = |secret: &str, now| accounts.redeem(secret, Some("Ann"), PASSWORD, now);
    assert!(matches!(redeem(&old, NOW), Err(AccountsError::Ended)), "a newer link ends it");
    assert!(matches!(redeem(&link, NOW + DAY), Err(AccountsError::Ended)), "it expires");
    assert!(matches!(accounts.redeem(&link, None, PASSWORD, NOW), Err(AccountsError::BadInput { .. })));
    assert!(matches!(accounts.redeem(&link, Some("Ann"), "short", NOW), Err(AccountsError::BadInput { .. })));
    let signed_in = redeem(&link, NOW).unwrap();
    assert_eq!((signed_in.person.role, signed_in.person.name.as_str()), (Role::Admin, "Ann"));
    assert!(matches!(redeem(&link, NOW), Err(AccountsError::Ended)), "it works once");
    assert!(accounts.first_admin_link(NOW).unwrap().is_none());
    assert!(accounts.sign_in("ann ", PASSWORD, "a", NOW).is_ok());
}

#[test]
fn people_sign_in_by_password_and_sessions_end() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.with_password("Ann", Role::Researcher);
    let signed_in = accounts.sign_in("ANN", PASSWORD, "a", NOW).unwrap();
    let session = accounts.session(&signed_in.secret, NOW).unwrap();
    assert!(session.person.id == ann && session.has_csrf(&signed_in.csrf) && !session.has_csrf(""));
    assert!(accounts.session("other", NOW).is_err());
    // It lives while it is used, at most a week.
    let mut now = NOW;
    while now < NOW + 7 * DAY - 11 * HOUR {
        now += 11 * HOUR;
        accounts.session(&signed_in.secret, now).unwrap();
    }
    assert!(accounts.session(&signed_in.secret, NOW + 7 * DAY).is_err());
    let idle = accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap();
    assert!(accounts.session(&idle.secret, NOW + 12 * HOUR).is_err());
    // A change of the password ends the others; a disabled person has none.
    let (kept, other) = (
        accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap(),
        accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap(),
    );
    assert!(accounts.change_password(&ann, "wrong", "battery staple", &kept.secret, NOW).is_err());
    accounts.change_password(&ann, PASSWORD, "battery staple", &kept.secret, NOW).unwrap();
    assert!(accounts.session(&kept.secret, NOW).is_ok() && accounts.session(&other.secret, NOW).is_err());
    accounts.sign_out(&kept.secret).unwrap();
    assert!(accounts.session(&kept.secret, NOW).is_err());
    assert!(matches!(accounts.sign_in("ann", PASSWORD, "a", NOW), Err(AccountsError::WrongCredentials)));
    let open = accounts.sign_in("ann", "battery staple", "a", NOW).unwrap();
    let disabled = PersonChange { disabled: Some(true), ..PersonChange::default() };
    accounts.change(&ann, &disabled, None).unwrap();
    assert!(accounts.session(&open.secret, NOW).is_err());
    assert!(matches!(
        accounts.sign_in("ann", "battery staple", "a", NOW),
        Err(AccountsError::WrongCredentials)
    ));
}

#[test]
fn ten_thousand_wrong_passwords_lock_out_nobody_else_and_cost_few_hashes() {
    let place = Place::new();
    let accounts = &place.accounts;
    for name in ["ann", "ben"] {
        place.with_password(name, Role::Researcher);
    }
    accounts.sign_in("ann", PASSWORD, "home", NOW).unwrap();
    let begun = std::time::Instant::now();
    let one_hash = {
        accounts.sign_in("nobody", PASSWORD, "x", NOW).unwrap_err();
        begun.elapsed()
    };
    let begun = std::time::Instant::now();
    let throttled = (0..10_000)
        .filter(|n| {
            let name = if n % 2 == 0 { "ann".to_owned() } else { format!("name-{n}") };
            let wrong = accounts.sign_in(&name, "wrong password", "evil", NOW);
            matches!(wrong, Err(AccountsError::Throttled { .. }))
        })
        .count();
    assert!(throttled >= 10_000 - 25, "{throttled}");
    assert!(begun.elapsed() < one_hash * 1000, "{:?}, a hash takes {one_hash:?}", begun.elapsed());
    assert!(accounts.sign_in("ben", PASSWORD, "office", NOW).is_ok());
    assert!(accounts.sign_in("ann", PASSWORD, "home", NOW).is_ok(), "the owner, where she signed in before");
    assert!(accounts.sign_in("ann", PASSWORD, "evil", NOW).is_err());
}

#[test]
fn tokens_act_for_their_person_within_their_scope_until_they_expire() {
    let place = Place::new();
    let accounts = &place.accounts;
    let (ann, ben) = (place.person("ann", Role::Researcher), place.person("ben", Role::Researcher));
    let scope = [Scope::Read, Scope::Judge];
    let experiments = ["e".to_owned()];
    let made = accounts.create_token(&ann, "tool", &scope, Some(&experiments), NOW + DAY, NOW).unwrap();
    let caller = accounts.token(&made.text, NOW).unwrap();
    assert_eq!((caller.person.id, caller.scope), (ann.clone(), scope.to_vec()));
    assert_eq!(caller.experiments.as_deref(), Some(&experiments[..]));
    let listed = accounts.tokens(Some(&ann)).unwrap();
    assert_eq!((listed.len(), listed[0].used_at), (1, Some(NOW)));
    assert!(accounts.tokens(Some(&ben)).unwrap().is_empty() && accounts.tokens(None).unwrap().len() == 1);
    let mut other = made.text.clone();
    other.pop();
    for wrong in ["", "dissent_", "dissent__", &other, &format!("{other}_"), &made.id] {
        assert!(matches!(accounts.token(wrong, NOW), Err(AccountsError::Ended)), "{wrong}");
    }
    assert!(accounts.token(&made.text, NOW + DAY).is_err(), "it expires");
    assert!(accounts.create_token(&ann, "x", &[], None, NOW + DAY, NOW).is_err());
    assert!(accounts.create_token(&ann, "x", &scope, None, NOW, NOW).is_err());
    assert!(accounts.create_token(&ann, "x", &scope, None, NOW + 400 * DAY, NOW).is_err());
    assert!(accounts.revoke_token(Some(&ben), &made.id).is_err(), "of another person");
    accounts.revoke_token(Some(&ann), &made.id).unwrap();
    assert!(accounts.token(&made.text, NOW).is_err());
}

#[test]
fn personal_links_open_sessions_until_they_are_revoked() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Annotator);
    let link = accounts.create_link(&ann, NOW + DAY, NOW).unwrap();
    let (one, two) =
        (accounts.open_link(&link.secret, NOW).unwrap(), accounts.open_link(&link.secret, NOW).unwrap());
    assert!(one.person.id == ann && one.secret != two.secret);
    assert!(accounts.open_link(&link.secret, NOW + DAY).is_err() && accounts.open_link("", NOW).is_err());
    assert!(matches!(accounts.redeem(&link.secret, None, PASSWORD, NOW), Err(AccountsError::Ended)));
    assert_eq!(accounts.links(&ann).unwrap().len(), 1);
    accounts.revoke_link(&link.id).unwrap();
    assert!(accounts.open_link(&link.secret, NOW).is_err() && accounts.session(&one.secret, NOW).is_err());
    assert!(accounts.revoke_link(&link.id).is_err());
    let admin = place.person("root", Role::Admin);
    assert!(accounts.create_link(&admin, NOW + DAY, NOW).is_err());
}

#[test]
fn an_invitation_sets_a_password_once() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Researcher);
    let (old, new) =
        (accounts.invite(&ann, NOW + DAY, NOW).unwrap(), accounts.invite(&ann, NOW + DAY, NOW).unwrap());
    assert!(accounts.redeem(&old, None, PASSWORD, NOW).is_err());
    assert!(accounts.open_link(&new, NOW).is_err(), "it is no personal link");
    assert_eq!(accounts.redeem(&new, None, PASSWORD, NOW).unwrap().person.id, ann);
    assert!(accounts.redeem(&new, None, PASSWORD, NOW).is_err());
    assert!(accounts.sign_in("ann", PASSWORD, "a", NOW).is_ok());
}

#[test]
fn people_sign_out_everywhere_and_have_a_bounded_number_of_sessions() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Annotator);
    let link = accounts.create_link(&ann, NOW + 10 * DAY, NOW).unwrap();
    let open = |now| accounts.open_link(&link.secret, now).unwrap().secret;
    let first = open(NOW);
    let later: Vec<String> = (1..=100).map(|n| open(NOW + n)).collect();
    assert!(accounts.session(&first, NOW + 100).is_err(), "the oldest one ends");
    assert!(later.iter().all(|secret| accounts.session(secret, NOW + 100).is_ok()));
    assert_eq!(accounts.sign_out_everywhere(&ann).unwrap(), 100);
    assert!(later.iter().all(|secret| accounts.session(secret, NOW + 100).is_err()));
    assert_eq!(accounts.sign_out_everywhere(&ann).unwrap(), 0);
}

#[test]
fn a_link_ends_only_its_own_sessions_and_they_end_with_it() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.with_password("ann", Role::Researcher);
    let (link, other) = (
        accounts.create_link(&ann, NOW + HOUR, NOW).unwrap(),
        accounts.create_link(&ann, NOW + DAY, NOW).unwrap(),
    );
    assert_eq!(accounts.link(&link.secret, NOW).unwrap().id, ann);
    assert_eq!(accounts.person_of_link(&link.id).unwrap().id, ann);
    assert!(matches!(accounts.person_of_link(&link.secret), Err(AccountsError::NotFound { what: "link" })));
    let by_link = accounts.open_link(&link.secret, NOW).unwrap().secret;
    assert_eq!(accounts.session(&by_link, NOW).unwrap().link, Some(link.id.clone()));
    let by_other = accounts.open_link(&other.secret, NOW).unwrap().secret;
    let by_password = accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap().secret;
    assert!(accounts.session(&by_link, NOW + HOUR - 1).is_ok());
    assert!(accounts.session(&by_link, NOW + HOUR).is_err(), "it ends with its link");
    assert!(matches!(accounts.link(&link.secret, NOW + HOUR), Err(AccountsError::Ended)));
    accounts.revoke_link(&link.id).unwrap();
    assert!(accounts.session(&by_link, NOW).is_err());
    assert!(accounts.session(&by_other, NOW).is_ok());
    assert_eq!(accounts.session(&by_password, NOW).unwrap().link, None);
}

#[test]
fn a_new_admin_loses_personal_links() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Researcher);
    let link = accounts.create_link(&ann, NOW + DAY, NOW).unwrap();
    let change = |role| PersonChange { role: Some(role), ..PersonChange::default() };
    place.person("root", Role::Admin);
    accounts.change(&ann, &change(Role::Admin), None).unwrap();
    accounts.change(&ann, &change(Role::Researcher), None).unwrap();
    assert!(accounts.open_link(&link.secret, NOW).is_err() && accounts.links(&ann).unwrap().is_empty());
}

#[test]
fn personal_links_are_bounded_and_expired_ones_do_not_count() {
    let place = Place::new();
    let ann = place.person("ann", Role::Annotator);
    let create = |now| place.accounts.create_link(&ann, now + DAY, now);
    for _ in 0..100 {
        create(NOW).unwrap();
    }
    assert!(matches!(create(NOW), Err(AccountsError::BadInput { field: "links", .. })));
    assert!(create(NOW + DAY).is_ok());
    for until in [NOW, NOW - 1, NOW + 367 * DAY] {
        assert!(
            place.accounts.create_link(&ann, until, NOW).is_err()
                && place.accounts.invite(&ann, until, NOW).is_err()
        );
    }
}

#[test]
fn an_invitation_ends_when_it_is_revoked_or_the_password_is_set_otherwise() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Viewer);
    let redeem = |secret: &str| accounts.redeem(secret, None, PASSWORD, NOW);
    let invite = || accounts.invite(&ann, NOW + DAY, NOW).unwrap();
    let revoked = invite();
    accounts.revoke_invitation(&ann).unwrap();
    assert!(matches!(redeem(&revoked), Err(AccountsError::Ended)));
    let overtaken = invite();
    accounts.set_password(&ann, PASSWORD).unwrap();
    assert!(matches!(redeem(&overtaken), Err(AccountsError::Ended)));
    let disabled = invite();
    let change = PersonChange { disabled: Some(true), ..PersonChange::default() };
    accounts.change(&ann, &change, None).unwrap();
    assert!(matches!(redeem(&disabled), Err(AccountsError::Ended)));
    assert!(matches!(redeem("unknown"), Err(AccountsError::Ended)));
}

#[test]
fn tokens_are_bounded_and_expired_ones_leave_the_list_later() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Viewer);
    let create = |experiments: Option<&[String]>, now| {
        accounts.create_token(&ann, "t", &[Scope::Read, Scope::Read], experiments, now + DAY, now)
    };
    for _ in 0..100 {
        create(None, NOW).unwrap();
    }
    assert!(matches!(create(None, NOW), Err(AccountsError::BadInput { field: "tokens", .. })));
    create(None, NOW + DAY).unwrap();
    assert_eq!(accounts.tokens(Some(&ann)).unwrap().len(), 101, "expired ones are still listed");
    create(None, NOW + 92 * DAY).unwrap();
    let listed = accounts.tokens(Some(&ann)).unwrap();
    assert_eq!((listed.len(), listed[0].scope.as_slice()), (1, &[Scope::Read][..]));
    for wrong in [vec![], vec![String::new()], vec!["e".repeat(300)], vec!["e".to_owned(); 101]] {
        assert!(matches!(
            create(Some(&wrong), NOW),
            Err(AccountsError::BadInput { field: "experiments", .. })
        ));
    }
}

#[test]
fn the_use_of_a_token_is_noted_once_a_minute() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.person("ann", Role::Viewer);
    let token = accounts.create_token(&ann, "t", &[Scope::Read], None, NOW + DAY, NOW).unwrap();
    let used = |now| {
        accounts.token(&token.text, now).unwrap();
        accounts.tokens(Some(&ann)).unwrap()[0].used_at
    };
    assert_eq!((used(NOW), used(NOW + 59), used(NOW + 60)), (Some(NOW), Some(NOW), Some(NOW + 60)));
    let change = PersonChange { disabled: Some(true), ..PersonChange::default() };
    accounts.change(&ann, &change, None).unwrap();
    assert!(matches!(accounts.token(&token.text, NOW), Err(AccountsError::Ended)));
}

#[test]
fn no_secret_is_kept_in_the_database() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.with_password("ann", Role::Researcher);
    let session = accounts.sign_in("ann", PASSWORD, "a", NOW).unwrap().secret;
    let token = accounts.create_token(&ann, "t", &[Scope::Read], None, NOW + DAY, NOW).unwrap().text;
    let link = accounts.create_link(&ann, NOW + DAY, NOW).unwrap().secret;
    let invitation = accounts.invite(&ann, NOW + DAY, NOW).unwrap();
    for secret in [&session, &token, &link, &invitation, &PASSWORD.to_owned()] {
        assert!(!holds(place.folder.path(), secret.as_bytes()), "{secret}");
    }
}

#[test]
fn every_refused_sign_in_costs_one_hash_and_a_throttled_one_none() {
    let place = Place::new();
    let accounts = &place.accounts;
    let disabled = place.with_password("disabled", Role::Viewer);
    let change = PersonChange { disabled: Some(true), ..PersonChange::default() };
    accounts.change(&disabled, &change, None).unwrap();
    place.person("without", Role::Viewer);
    place.with_password("ann", Role::Viewer);
    let cost = |name: &str, password: &str| {
        let before = accounts.passwords().hashes();
        let refused = accounts.sign_in(name, password, name, NOW);
        assert!(refused.is_err(), "{name}");
        accounts.passwords().hashes() - before
    };
    for name in ["disabled", "without", "ann", "unknown", "", &"x".repeat(5000)] {
        assert_eq!(cost(name, "wrong password"), 1, "{name}");
    }
    assert_eq!((cost("disabled", PASSWORD), cost("without", "")), (1, 1));
    (0..10).for_each(|_| drop(accounts.sign_in("ann", "wrong password", "ann", NOW)));
    assert_eq!(cost("ann", PASSWORD), 0);
}

#[test]
fn a_session_with_a_stolen_cookie_cannot_guess_the_password() {
    let place = Place::new();
    let accounts = &place.accounts;
    let ann = place.with_password("ann", Role::Viewer);
    let session = accounts.sign_in("ann", PASSWORD, "home", NOW).unwrap();
    let change = |old: &str, now| accounts.change_password(&ann, old, "battery staple", &session.secret, now);
    let checked = (0..100).filter(|_| matches!(change("guess", NOW), Err(AccountsError::WrongCredentials)));
    assert_eq!(checked.count(), 5);
    assert!(matches!(change(PASSWORD, NOW), Err(AccountsError::Throttled { .. })));
    assert!(accounts.sign_in("ann", PASSWORD, "home", NOW).is_ok(), "signing in is not affected");
    change(PASSWORD, NOW + HOUR).unwrap();
}
