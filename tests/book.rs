//! The book lists every event type.

use dissent_domain::event::EventType;

const FORMATS: &str = include_str!("../docs/book/src/formats.md");

#[test]
fn the_book_lists_every_event_type() {
    for kind in EventType::ALL {
        let row = format!("| `{}` |", kind.name());
        assert!(FORMATS.contains(&row), "docs/book/src/formats.md lacks a row `{row}`");
    }
    assert!(FORMATS.contains(&format!("There are {} types", EventType::ALL.len())));
}
