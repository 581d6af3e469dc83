use dissent_domain::training::{Demonstration, Dialogue};
use serde_json::{Value, json};

use super::*;
use crate::checkpoint::tokenizer::tests::from_parts;

fn conversation(row: &Value) -> Conversation {
    let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
    Conversation {
        messages: row["messages"].as_array().expect("messages").iter().map(object).collect(),
        tools: row.get("tools").cloned(),
        template_arguments: row.get("chat_template_kwargs").map(object).unwrap_or_default(),
    }
}

/// Returns the tokens and their labels in TRL's form: the first token is never learnt.
fn labels(sequence: &TrainingSequence) -> (Vec<i64>, Vec<i64>) {
    let is_learnt = |place: usize| place >= sequence.completion_start && !sequence.skipped.contains(&place);
    let ids: Vec<i64> = sequence.ids.iter().map(|&id| i64::from(id)).collect();
    let labels = ids.iter().enumerate().map(|(place, &id)| if is_learnt(place) { id } else { -100 });
    (ids.clone(), labels.collect())
}

fn expected(value: &Value) -> (Vec<i64>, Vec<i64>) {
    let (ids, mut labels): (Vec<i64>, Vec<i64>) = serde_json::from_value(value.clone()).expect("token ids");
    labels[0] = -100;
    (ids, labels)
}

/// Compares with the tokens and labels of TRL 1.16: see `trl_conversations.py` beside the golden file.
#[test]
fn conversations_encode_to_the_tokens_and_labels_of_trl() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/trl_conversations.json")).expect("golden");
    let mut compared = 0;
    for case in golden["cases"].as_array().expect("cases") {
        let template = case["chat_template"].as_str();
        let tokenizer = from_parts(
            case["tokenizer"].as_str().expect("a tokenizer"),
            template,
            Some("<begin>"),
            Some("<end>"),
        );
        for row in case["rows"].as_array().expect("rows") {
            for (name, learnt) in [("all", LearntTurns::All), ("assistant", LearntTurns::Assistant)] {
                let Some(wanted) = row.get(name) else { continue };
                let sequence =
                    PromptTemplate::Chat.encode_conversation(&tokenizer, &conversation(&row["row"]), learnt);
                assert_eq!(labels(&sequence.expect("a sequence")), expected(wanted), "{name} of {row}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 14);
}

fn with_template(template: &str) -> TextTokenizer {
    from_parts(crate::checkpoint::tokenizer::tests::WORDS, Some(template), Some("<s>"), Some("</s>"))
}

const TURNS: &str = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% endfor %}";

#[test]
fn turns_are_found_without_marks_where_earlier_turns_are_kept() {
    let tokenizer = with_template(
        "{% for m in messages %}{{ '? ' if m.role == 'user' else 'a ' }}{{ m.content }} {% endfor %}\
         {% if add_generation_prompt %}a {% endif %}",
    );
    let row = conversation(&json!({"messages": [
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "? b"},
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    ]}));
    let encode =
        |learnt| PromptTemplate::Chat.encode_conversation(&tokenizer, &row, learnt).expect("a sequence");
    let no = -100;
    assert_eq!(labels(&encode(LearntTurns::All)).1, [no, 3, 2, 4, 3, 4, 2, 2, 3]);
    assert_eq!(labels(&encode(LearntTurns::Assistant)).1, [no, no, no, 4, 3, no, no, no, 3]);
    assert_eq!(labels(&encode(LearntTurns::Last)).1, [no, no, no, no, no, no, no, no, 3]);
}

#[test]
fn a_template_that_rewrites_earlier_turns_is_refused_without_marks() {
    let tokenizer =
        with_template("{% for m in messages %}{{ m.content if loop.last else '' }} b {% endfor %}");
    let row = conversation(&json!({"messages": [
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "?"},
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    ]}));
    let error =
        PromptTemplate::Chat.encode_conversation(&tokenizer, &row, LearntTurns::Assistant).unwrap_err();
    assert!(error.to_string().contains("messages[1]"), "{error}");
}

#[test]
fn dropped_calls_and_keys_outside_chat_templates_are_named() {
    let call = json!({"messages": [
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "a"}}]},
    ]});
    let row = conversation(&call);
    let error = |template: &PromptTemplate, learnt| {
        template.encode_conversation(&with_template(TURNS), &row, learnt).unwrap_err().to_string()
    };
    assert!(error(&PromptTemplate::Chat, LearntTurns::All).contains("does not render tool_calls"));
    assert!(error(&PromptTemplate::Raw, LearntTurns::All).contains("messages[1].tool_calls"));
    let plain = Conversation::from(&Demonstration {
        prompt: Dialogue::Text("b".to_owned()),
        completion: "a".to_owned(),
    });
    assert_eq!(plain.demonstration().map(|row| row.completion), Ok("a".to_owned()));
    let error =
        PromptTemplate::Raw.encode_conversation(&with_template(TURNS), &plain, LearntTurns::Assistant);
    assert!(error.unwrap_err().to_string().contains("learn all or last"));
}
