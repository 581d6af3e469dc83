use serde_json::{Map, Value, json};

use super::*;

fn rendered(source: &str, context: &Map<String, Value>) -> Result<String, String> {
    render(source, context, Dialect::Jinja2(TemplateDate::default()), false)
}

/// Returns the variables of a case, as transformers completes them.
fn variables(tokens: &Value, context: &Value) -> Map<String, Value> {
    let mut variables =
        Map::from_iter([("tools".to_owned(), Value::Null), ("documents".to_owned(), Value::Null)]);
    for source in [tokens, context] {
        variables.extend(source.as_object().expect("an object").clone());
    }
    let messages = variables["messages"].as_array().expect("messages");
    variables.insert("messages".to_owned(), messages.iter().map(crate::template::normalised).collect());
    variables
}

/// Compares with Jinja2 as transformers 5.24 uses it: see `jinja.py` beside the golden file. Where Jinja2
/// fails, minijinja may be more tolerant. It may refuse what Jinja2 renders only in the listed cases.
#[test]
fn templates_render_as_with_jinja2() {
    const REFUSED: [(&str, &str); 3] = [
        ("percent", "% operator"),
        ("pprint", "filter pprint is not supported"),
        ("implicit arguments", "uses kwargs in a macro"),
    ];
    let golden: Value =
        serde_json::from_str(include_str!("../../tests/golden/jinja.json")).expect("a golden file");
    let mut wrong = Vec::new();
    for case in golden["cases"].as_array().expect("cases") {
        let (name, source) =
            (case["name"].as_str().expect("a name"), case["template"].as_str().expect("a source"));
        for (chat, context) in golden["contexts"].as_object().expect("contexts") {
            let result = rendered(source, &variables(&golden["tokens"], context));
            let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
            let right = match (&result, case["renderings"][chat].as_str(), refused) {
                (Err(reason), _, Some((_, part))) => reason.contains(part),
                (Ok(text), Some(expected), None) => text == expected,
                (_, None, None) => true,
                _ => false,
            };
            if !right {
                wrong.push(format!(
                    "{name} ({chat}):\n got {result:?}\nwant {:?}",
                    case["renderings"][chat].as_str()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Compares with templates that are not in this repository: `tests/parity/real_templates.py` writes the file
/// that
/// `DISSENT_TEMPLATE_CORPUS` names.
#[test]
#[ignore = "needs the templates that tests/parity/real_templates.py collects"]
fn real_templates_render_as_with_jinja2() {
    let path = std::env::var("DISSENT_TEMPLATE_CORPUS").expect("DISSENT_TEMPLATE_CORPUS names a file");
    let corpus = std::fs::read_to_string(path).expect("a corpus");
    let (mut equal, mut both_fail, mut different) = (0, 0, Vec::new());
    for line in corpus.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let context = variables(&json!({}), &case["context"]);
        let result = rendered(case["template"].as_str().expect("a source"), &context);
        match (&result, case["rendering"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => equal += 1,
            (Err(_), None) => both_fail += 1,
            (result, expected) => {
                different.push(format!("{}: got {result:?}, want {expected:?}", case["name"]))
            }
        }
    }
    let report = different.join("\n");
    assert!(
        different.is_empty(),
        "{equal} equal, {both_fail} fail in both, {} differ:\n{report}",
        different.len()
    );
    assert!(equal > 0, "no case");
}

#[test]
fn templates_have_bounded_size() {
    let source = "x".repeat(SOURCE_BYTES_MAX + 1);
    assert!(rendered(&source, &Map::new()).expect_err("too long").contains("limit"));
}

#[test]
fn the_first_dialect_has_no_current_date() {
    let render = |source: &str| render(source, &Map::new(), Dialect::First, false);
    assert_eq!(render("{{ strftime_now is defined }}").as_deref(), Ok("False"));
    assert!(render("{{ strftime_now('%d') }}").expect_err("no date").contains("current date"));
}
