//! People and their experiments.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::accounts::{Access, AccountsError, PersonChange};

#[test]
fn names_are_unique_in_any_case_and_the_last_admin_stays() {
    let place = Place::new();
    let accounts = &place.accounts;
    let admin = place.person("Zoë", Role::Admin);
    assert!(matches!(accounts.create(" ZOË ", Role::Viewer, NOW), Err(AccountsError::NameTaken)));
    for name in ["", "  ", "a\nb", "\u{202e}abc", &"x".repeat(81)] {
        assert!(
            matches!(accounts.create(name, Role::Viewer, NOW), Err(AccountsError::BadInput { .. })),
            "{name:?}"
        );
    }
    let change = |role: Option<Role>, disabled: Option<bool>| PersonChange { role, disabled, name: None };
    assert!(matches!(
        accounts.change(&admin, &change(Some(Role::Viewer), None), None),
        Err(AccountsError::LastAdmin)
    ));
    assert!(matches!(
        accounts.change(&admin, &change(None, Some(true)), None),
        Err(AccountsError::LastAdmin)
    ));
    assert!(matches!(accounts.erase(&admin), Err(AccountsError::LastAdmin)));
    let other = place.person("other", Role::Admin);
    accounts.change(&other, &change(None, Some(true)), None).unwrap();
    assert!(matches!(accounts.erase(&admin), Err(AccountsError::LastAdmin)), "the other is disabled");
    accounts.change(&other, &change(None, Some(false)), None).unwrap();
    let revision = accounts.person(&admin).unwrap().revision;
    let changed = accounts.change(&admin, &change(Some(Role::Viewer), None), Some(revision)).unwrap();
    assert_eq!((changed.role, changed.revision), (Role::Viewer, revision + 1));
    let stale = accounts.change(&admin, &change(Some(Role::Admin), None), Some(revision));
    assert!(matches!(stale, Err(AccountsError::Stale)));
}

#[test]
fn lists_are_paged_in_order() {
    let place = Place::new();
    for n in 0..25 {
        place.person(&format!("Person {n:02}"), Role::Viewer);
    }
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let page = place.accounts.people(10, cursor.as_deref()).unwrap();
        names.extend(page.rows.into_iter().map(|person| person.name));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (0..25).map(|n| format!("Person {n:02}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn an_experiment_is_seen_by_its_owner_and_those_it_is_shared_with() {
    let place = Place::new();
    let accounts = &place.accounts;
    let [ann, ben, cy] = ["ann", "ben", "cy"].map(|name| place.person(name, Role::Researcher));
    accounts.set_owner("e", &ann).unwrap();
    accounts.share("e", &ben, Access::Read).unwrap();
    let access = |person| accounts.access(person, "e").unwrap();
    assert_eq!((access(&ann), access(&ben), access(&cy)), (Some(Access::Owner), Some(Access::Read), None));
    accounts.share("e", &ben, Access::Write).unwrap();
    assert!(access(&ben) > Some(Access::Read) && access(&ben) < Some(Access::Owner));
    assert!(
        accounts.share("e", &ann, Access::Read).is_err() && accounts.share("e", &cy, Access::Owner).is_err()
    );
    let names: Vec<String> = accounts.shares("e").unwrap().into_iter().map(|share| share.name).collect();
    assert_eq!(names, ["ann", "ben"]);
    assert_eq!(accounts.visible(&ben).unwrap(), ["e"]);
    accounts.unshare("e", &ben).unwrap();
    assert!(access(&ben).is_none() && accounts.unshare("e", &ann).is_err());
}

#[test]
fn an_experiment_has_one_owner_and_an_earlier_one_may_still_write() {
    let place = Place::new();
    let accounts = &place.accounts;
    let [ann, ben] = ["ann", "ben"].map(|name| place.person(name, Role::Researcher));
    accounts.set_owner("e", &ann).unwrap();
    accounts.set_owner("e", &ann).unwrap();
    accounts.set_owner("e", &ben).unwrap();
    let access = |person| accounts.access(person, "e").unwrap();
    assert_eq!((access(&ann), access(&ben)), (Some(Access::Write), Some(Access::Owner)));
    assert!(accounts.visible(&ann).unwrap() == ["e"] && accounts.access(&ann, "other").unwrap().is_none());
    let stranger: PersonId = "p_0000000000000000".parse().unwrap();
    assert!(matches!(accounts.set_owner("e", &stranger), Err(AccountsError::NotFound { .. })));
    assert!(matches!(accounts.share("e", &stranger, Access::Read), Err(AccountsError::NotFound { .. })));
    assert_eq!(access(&ben), Some(Access::Owner), "a failure changes nothing");
    for id in ["", &"x".repeat(201)] {
        assert!(accounts.set_owner(id, &ann).is_err() && accounts.share(id, &ann, Access::Read).is_err());
    }
}

#[test]
fn people_are_found_by_name_and_keep_it_within_a_revision() {
    let place = Place::new();
    let accounts = &place.accounts;
    let (ann, ben) = (place.person("Ann", Role::Viewer), place.person("Ben", Role::Viewer));
    assert_eq!(accounts.person_named(" aNN ").unwrap().id, ann);
    assert!(matches!(accounts.person_named("Cy"), Err(AccountsError::NotFound { .. })));
    let rename = |name: &str| PersonChange { name: Some(name.to_owned()), ..PersonChange::default() };
    assert!(matches!(accounts.change(&ben, &rename("ANN"), None), Err(AccountsError::NameTaken)));
    assert_eq!(accounts.change(&ann, &rename("ANN"), None).unwrap().name, "ANN", "the same in another case");
    assert_eq!(accounts.change(&ann, &rename("Anna"), Some(2)).unwrap().revision, 3);
    assert!(accounts.person_named("ann").is_err() && accounts.person_named("anna").is_ok());
    assert!(matches!(accounts.change(&ann, &rename("A"), Some(2)), Err(AccountsError::Stale)));
    assert_eq!(place.person("Ann", Role::Viewer).as_str().len(), 18);
    let stranger: PersonId = "p_0000000000000000".parse().unwrap();
    place.person("root", Role::Admin);
    accounts.erase(&ben).unwrap();
    let names = accounts.names(&[ann.clone(), ben, stranger]).unwrap();
    assert_eq!(names, BTreeMap::from([(ann, "Anna".to_owned())]));
}

#[test]
fn ids_are_opaque_and_nothing_else_is_one() {
    let place = Place::new();
    let id = place.person("ann", Role::Viewer);
    assert_eq!(id.to_string().parse::<PersonId>().unwrap(), id);
    assert_eq!(serde_json::from_str::<PersonId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    for text in ["", "p_", "ann", "p_0", "p_000000000000000A", "p_00000000000000000", "q_0000000000000000"] {
        assert!(
            text.parse::<PersonId>().is_err() && serde_json::from_value::<PersonId>(text.into()).is_err()
        );
    }
}

#[test]
fn pages_have_at_least_one_row_and_end() {
    let place = Place::new();
    for n in 0..3 {
        place.person(&format!("n{n}"), Role::Viewer);
    }
    let page = place.accounts.people(0, None).unwrap();
    assert!(page.rows.len() == 1 && page.next.is_some());
    let all = place.accounts.people(usize::MAX, None).unwrap();
    assert!(all.rows.len() == 3 && all.next.is_none());
    assert!(place.accounts.people(10, Some("n2")).unwrap().rows.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Shares are those of a map from experiment and person to access.
    #[test]
    fn shares_are_those_of_a_model(steps in prop::collection::vec((0_usize..2, 0_usize..3, 0_u8..4), 1..30)) {
        let place = Place::new();
        let accounts = &place.accounts;
        let people = ["ann", "ben", "cy"].map(|name| place.person(name, Role::Researcher));
        let experiments = ["e", "f"];
        let mut model: BTreeMap<(&str, &PersonId), Access> = BTreeMap::new();
        for (experiment, person, step) in steps {
            let (experiment, person) = (experiments[experiment], &people[person]);
            let is_owner = model.get(&(experiment, person)) == Some(&Access::Owner);
            let is_ok = match step {
                0 => {
                    let of_it = model.iter_mut().filter(|((of, _), _)| *of == experiment);
                    of_it.filter(|(_, access)| **access == Access::Owner).for_each(|(_, access)| *access = Access::Write);
                    model.insert((experiment, person), Access::Owner);
                    accounts.set_owner(experiment, person).is_ok()
                }
                3 => {
                    let is_shared = model.contains_key(&(experiment, person)) && !is_owner;
                    if is_shared {
                        model.remove(&(experiment, person));
                    }
                    accounts.unshare(experiment, person).is_ok() == is_shared
                }
                step => {
                    let access = if step == 1 { Access::Read } else { Access::Write };
                    if !is_owner {
                        model.insert((experiment, person), access);
                    }
                    accounts.share(experiment, person, access).is_ok() != is_owner
                }
            };
            prop_assert!(is_ok);
            for person in &people {
                let expected: BTreeSet<&str> =
                    experiments.into_iter().filter(|of| model.contains_key(&(*of, person))).collect();
                let visible = accounts.visible(person).unwrap();
                prop_assert_eq!(visible.iter().map(String::as_str).collect::<BTreeSet<_>>(), expected);
                for experiment in experiments {
                    let access = accounts.access(person, experiment).unwrap();
                    prop_assert_eq!(access, model.get(&(experiment, person)).copied());
                }
            }
        }
    }
}
