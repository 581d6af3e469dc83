use std::path::Path;

use dissent_domain::plan::GuardPlan;
use dissent_domain::training::PpoSettings;
use serde_json::Value;

use super::*;
use crate::config::broker::RabbitConfig;
use crate::config::worker::fields;
use crate::config::{
    ArtifactsConfig, Config, ConflictConfig, EvaluationConfig, ExperimentConfig, FeedbackConfig,
    GenerationConfig, GoldModelConfig, LoraConfig, PolicyConfig, PromptsConfig, RefinementConfig,
    RewardConfig, RuntimeConfig, TuningConfig,
};

/// Checks a value against the keywords that this schema uses. Any other keyword is a failure of the test.
fn problem(schema: &Value, value: &Value) -> Option<String> {
    if let Value::Bool(allowed) = schema {
        return (!allowed).then(|| "not allowed".to_owned());
    }
    let schema = schema.as_object().unwrap();
    schema.iter().find_map(|(keyword, rule)| {
        broken(keyword, rule, schema, value).map(|why| format!("{keyword}: {why}"))
    })
}

fn broken(keyword: &str, rule: &Value, schema: &Map<String, Value>, value: &Value) -> Option<String> {
    let fails = |wrong: bool| wrong.then(|| value.to_string());
    let list = |rule: &Value| rule.as_array().unwrap().clone();
    match keyword {
        "$schema" | "title" | "description" | "then" | "else" => None,
        "type" => fails(match rule.as_str().unwrap() {
            "object" => !value.is_object(),
            "array" => !value.is_array(),
            "string" => !value.is_string(),
            "boolean" => !value.is_boolean(),
            "number" => !value.is_number(),
            "integer" => !(value.is_i64() || value.is_u64()),
            other => panic!("type {other}"),
        }),
        "enum" => fails(!list(rule).contains(value)),
        "const" => fails(!is_same(value, rule)),
        "minimum" => fails(value.as_f64().is_some_and(|value| value < rule.as_f64().unwrap())),
        "maximum" => fails(value.as_f64().is_some_and(|value| value > rule.as_f64().unwrap())),
        "exclusiveMinimum" => fails(value.as_f64().is_some_and(|value| value <= rule.as_f64().unwrap())),
        "exclusiveMaximum" => fails(value.as_f64().is_some_and(|value| value >= rule.as_f64().unwrap())),
        "pattern" => {
            let pattern = fancy_regex::Regex::new(rule.as_str().unwrap()).unwrap();
            fails(value.as_str().is_some_and(|text| !pattern.is_match(text).unwrap()))
        }
        "minLength" => {
            fails(value.as_str().is_some_and(|text| (text.chars().count() as u64) < rule.as_u64().unwrap()))
        }
        "maxLength" => {
            fails(value.as_str().is_some_and(|text| text.chars().count() as u64 > rule.as_u64().unwrap()))
        }
        "minItems" => {
            fails(value.as_array().is_some_and(|items| (items.len() as u64) < rule.as_u64().unwrap()))
        }
        "maxItems" => {
            fails(value.as_array().is_some_and(|items| items.len() as u64 > rule.as_u64().unwrap()))
        }
        "maxProperties" => {
            fails(value.as_object().is_some_and(|keys| keys.len() as u64 > rule.as_u64().unwrap()))
        }
        "items" => value.as_array()?.iter().find_map(|item| problem(rule, item)),
        "required" => {
            let keys = value.as_object()?;
            let missing = list(rule).into_iter().find(|key| !keys.contains_key(key.as_str().unwrap()));
            missing.map(|key| format!("{key} is missing"))
        }
        "properties" => value
            .as_object()?
            .iter()
            .find_map(|(key, value)| problem(rule.get(key)?, value).map(|why| format!("{key}: {why}"))),
        "additionalProperties" => {
            assert_eq!(rule, &Value::Bool(false));
            let known = schema.get("properties").and_then(Value::as_object).unwrap();
            value.as_object()?.keys().find(|key| !known.contains_key(*key)).cloned()
        }
        "dependencies" => {
            let keys = value.as_object()?;
            let needs = rule.as_object().unwrap().iter().filter(|(key, _)| keys.contains_key(*key));
            let missing = |needed: &Value| {
                list(needed).into_iter().find(|key| !keys.contains_key(key.as_str().unwrap()))
            };
            needs.filter_map(|(_, needed)| missing(needed)).next().map(|key| key.to_string())
        }
        "not" => fails(problem(rule, value).is_none()),
        "allOf" => list(rule).iter().find_map(|rule| problem(rule, value)),
        "anyOf" => fails(list(rule).iter().all(|rule| problem(rule, value).is_some())),
        "if" => {
            let branch = if problem(rule, value).is_none() { "then" } else { "else" };
            problem(schema.get(branch)?, value)
        }
        other => panic!("the test does not know the keyword {other}"),
    }
}

/// Whether two values are equal; numbers also as an integer and a fraction.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.total_cmp(&other).is_eq(),
        _ => one == other,
    }
}

fn json_of(text: &str) -> Value {
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

fn keys_of(section: &str) -> Vec<String> {
    let pointer = format!("/properties/{}", section.replace('.', "/properties/"));
    let schema = schema();
    let properties = schema.pointer(&pointer).unwrap()["properties"].as_object().unwrap().clone();
    properties.keys().cloned().collect()
}

#[test]
fn every_section_has_the_keys_of_its_type() {
    let sorted = |keys: &[&str]| {
        let mut keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        keys.sort();
        keys
    };
    let own: Vec<String> = schema()["properties"].as_object().unwrap().keys().cloned().collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    assert_eq!(sorted(&own), sorted(fields::<Config>()));
    for (section, fields) in [
        ("experiment", fields::<ExperimentConfig>()),
        ("prompts", fields::<PromptsConfig>()),
        ("policy", fields::<PolicyConfig>()),
        ("reward", fields::<RewardConfig>()),
        ("generation", fields::<GenerationConfig>()),
        ("conflict", fields::<ConflictConfig>()),
        ("feedback", fields::<FeedbackConfig>()),
        ("refinement", fields::<RefinementConfig>()),
        ("refinement.lora", fields::<LoraConfig>()),
        ("tuning", fields::<TuningConfig>()),
        ("tuning.ppo", fields::<PpoSettings>()),
        ("evaluation", fields::<EvaluationConfig>()),
        ("guards", fields::<GuardPlan>()),
        ("runtime", fields::<RuntimeConfig>()),
        ("artifacts", fields::<ArtifactsConfig>()),
    ] {
        assert!(!fields.is_empty(), "{section}");
        let keys = keys_of(section);
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        assert_eq!(sorted(&keys), sorted(fields), "{section}");
    }
    // The variants of these are told by their kind.
    let with_kind = |fields: &[&str]| sorted(&[fields, &["kind"]].concat());
    let own = keys_of("gold");
    assert_eq!(
        sorted(&own.iter().map(String::as_str).collect::<Vec<_>>()),
        with_kind(fields::<GoldModelConfig>())
    );
    let own = keys_of("broker");
    assert_eq!(
        sorted(&own.iter().map(String::as_str).collect::<Vec<_>>()),
        with_kind(fields::<RabbitConfig>())
    );
}

#[test]
fn configurations_of_the_repository_are_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let past =
        std::fs::read_dir(root.join("tests/fixtures/past")).unwrap().map(|entry| entry.unwrap().path());
    let past = past.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let files: Vec<_> = past.chain([root.join("examples/demo/demo.toml")]).collect();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(problem(&schema(), &json_of(&text)), None, "{}", file.display());
    }
}

const SMALLEST: &str =
    "[experiment]\nname = \"e\"\n[prompts]\npath = \"p\"\n[policy]\npath = \"m\"\n[reward]\npath = \"m\"\n";
const LOOP: &str = "[feedback]\nsource = \"oracle\"\n[gold]\nkind = \"sentiment\"\n[tuning]\n[evaluation]\nprompts = \"h\"\n";

/// Replaces a line of the complete configuration, or adds lines to it if `from` is empty.
fn changed(from: &str, to: &str) -> String {
    let whole = format!("{SMALLEST}{LOOP}");
    if from.is_empty() {
        return format!("{whole}{to}\n");
    }
    assert!(whole.contains(from), "{from}");
    whole.replacen(from, to, 1)
}

#[test]
fn parser_and_schema_accept_the_same_changes() {
    for (from, to) in [
        ("", "[conflict]\nrule = \"budget\"\nbudget = 4"),
        ("", "[conflict]\nrule = \"none\"\ndelta = 0.0\ntau = 1.0\nquantile = 0.5\nlogprob = \"mean\""),
        ("", "[generation]\ntemperature = 1\ntop_p = 1.0\nstop = [\"a\"]"),
        ("", "[guards]\nkl_max = 5\ngold_patience = 2\nstop_on_reward_hacking = true"),
        ("", "[runtime]\nprovider = \"cuda\"\ndevice = 1\ndtype = \"bf16\""),
        ("", "[broker]\nkind = \"rabbitmq\"\nprefix = \"a-b\""),
        ("", "[broker]\nkind = \"embedded\""),
        ("", "[artifacts]\nurl = \"file:///x\"\ncache_gib = 2"),
        (
            "",
            "[refinement]\ndata = \"d\"\nformat = \"hh-rlhf\"\npreferred = \"safer\"\nwarmup_ratio = 0.1\nlora.r = 4",
        ),
        ("[tuning]", "[tuning]\nmethod = \"grpo\"\nppo.samples = 4\nfull = true"),
        ("[tuning]", "[tuning]\nmethod = \"ppo\"\nloss = \"sigmoid\""),
        ("[tuning]", "[tuning]\nbeta = 0.2\nloss = \"ipo\"\nadam_betas = [0.9, 0.99]\nsteps = 3"),
        ("kind = \"sentiment\"", "kind = \"answers\"\npath = \"a\""),
        ("kind = \"sentiment\"", "kind = \"model\"\npath = \"a\"\nscore = \"cost\"\nlabel = 1"),
        ("source = \"oracle\"", "source = \"people\"\noverlap = 3\nbudget = 9"),
        ("[policy]", "[policy]\ntemplate = \"chat@2026-01-31\"\nweights = \"int8\""),
        ("[reward]", "[reward]\ntemplate = \"{prompt} {completion}\"\nweights = [0.5, -1]\nkind = \"cost\""),
        ("path = \"p\"", "path = \"p\"\nignore = [\"note\"]"),
        ("name = \"e\"", "name = \"e.1\"\nrounds = 3\nseed = 7\ndata_dir = \"d\""),
    ] {
        let text = changed(from, to);
        Config::parse(&text, Path::new(".")).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(problem(&schema(), &json_of(&text)), None, "{to}");
    }
    Config::parse(SMALLEST, Path::new(".")).unwrap();
    assert_eq!(problem(&schema(), &json_of(SMALLEST)), None);
}

/// Changes that are refused by the parser.
const REFUSED: [(&str, &str); 64] = [
    ("", "[conflict]\nrule = \"budget\""),
    ("", "[conflict]\nrule = \"lottery\""),
    ("", "[conflict]\ntau = 1.5"),
    ("", "[conflict]\ndelta = -1.0"),
    ("", "[conflict]\nquantile = 2.0"),
    ("", "[generation]\ntop_p = 0.0"),
    ("", "[generation]\nsamples = 1"),
    ("", "[generation]\nbatch_prompts = 0"),
    ("", "[generation]\ntemprature = 1.0"),
    ("", "[generation]\nstop = [\"\"]"),
    ("", "[guards]\nkl_max = 0.0"),
    ("", "[guards]\ngold_patience = 0"),
    ("", "[guards]\nagreement_drop = 2.0"),
    ("", "[runtime]\nthreads = 100000"),
    ("", "[runtime]\nprovider = \"tpu\""),
    ("", "[broker]\nkind = \"kafka\""),
    ("", "[broker]\nkind = \"embedded\"\nprefix = \"x\""),
    ("", "[broker]\nkind = \"rabbitmq\"\nlease_seconds = 1"),
    ("", "[broker]\nkind = \"rabbitmq\"\nprefix = \"A\""),
    ("", "[artifacts]\ncache_gib = 1.0"),
    ("", "[artifacts]\nurl = \"file:///x\"\ncache_gib = 0.0"),
    ("", "[artefacts]\nurl = \"file:///x\""),
    ("", "[refinement]\nwarmup_steps = 1\nwarmup_ratio = 0.1"),
    ("", "[refinement]\nsteps = 1\nepochs = 2.0"),
    ("", "[refinement]\nfull = true\nlora.r = 4"),
    ("", "[refinement]\nlora.r = 0"),
    ("", "[refinement]\nformat = \"hh-rlhf\""),
    ("", "[refinement]\ndata = \"d\"\nformat = \"parquet\""),
    ("", "[refinement]\npreferred = \"safer\""),
    ("", "[refinement]\nadam_betas = [0.9]"),
    ("[tuning]", "[tuning]\nmethod = \"grpo\""),
    ("[tuning]", "[tuning]\nppo.samples = 2"),
    ("[tuning]", "[tuning]\nmethod = \"ppo\"\nbeta = 0.2"),
    ("[tuning]", "[tuning]\nmethod = \"ppo\"\nloss = \"ipo\""),
    ("[tuning]", "[tuning]\nbeta = 0.0"),
    ("[tuning]", "[tuning]\nbatch_size = 0"),
    ("[tuning]", "[tuning]\nlearning_rte = 0.1"),
    ("[tuning]\n", ""),
    ("[evaluation]\nprompts = \"h\"\n", ""),
    ("prompts = \"h\"", "prompts = \"h\"\nsamples = 0"),
    ("[gold]\nkind = \"sentiment\"\n", ""),
    ("kind = \"sentiment\"", "kind = \"sentiment\"\npath = \"x\""),
    ("kind = \"sentiment\"", "kind = \"answers\""),
    ("kind = \"sentiment\"", "kind = \"answers\"\npath = \"x\"\nlayers = 2"),
    ("kind = \"sentiment\"", "kind = \"model\""),
    ("kind = \"sentiment\"", "kind = \"opinion\""),
    ("source = \"oracle\"", "source = \"oracle\"\noverlap = 2"),
    ("source = \"oracle\"", "source = \"people\"\noverlap = 0"),
    ("source = \"oracle\"", "source = \"people\"\nbudget = 0"),
    ("source = \"oracle\"", "source = \"dice\""),
    ("source = \"oracle\"\n", ""),
    ("[policy]", "[policy]\ntemplate = \"answer\""),
    ("[policy]", "[policy]\nweights = \"int4\""),
    ("[reward]", "[reward]\ntemplate = \"{prompt}\""),
    ("[reward]", "[reward]\ntemplate = \"{completion} {prompt}\""),
    ("[reward]", "[reward]\nlabel = 1\nweights = [1.0]"),
    ("[reward]", "[reward]\nlayers = -1"),
    ("name = \"e\"", "name = \"../e\""),
    ("name = \"e\"", "name = \"\""),
    ("name = \"e\"", "nmae = \"e\""),
    ("name = \"e\"", "name = \"e\"\nrounds = 0"),
    ("name = \"e\"", "name = \"e\"\nseed = -1"),
    ("path = \"p\"", "path = 3"),
    ("[prompts]\npath = \"p\"\n", ""),
];

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    for (from, to) in REFUSED {
        let text = changed(from, to);
        assert!(Config::parse(&text, Path::new(".")).is_err(), "the parser accepts {from:?} -> {to:?}");
        assert!(problem(&schema(), &json_of(&text)).is_some(), "the schema accepts {from:?} -> {to:?}");
    }
    for alone in [
        "[tuning]\n",
        "[evaluation]\nprompts = \"h\"\n",
        "[gold]\nkind = \"sentiment\"\n",
        "[guards]\nkl_max = 2.0\n",
        "[refinement]\nsteps = 3\n",
    ] {
        let text = format!("{SMALLEST}{alone}");
        assert!(Config::parse(&text, Path::new(".")).is_err(), "{alone}");
        assert!(problem(&schema(), &json_of(&text)).is_some(), "{alone}");
    }
    let rounds = SMALLEST.replace("name = \"e\"", "name = \"e\"\nrounds = 2");
    assert!(
        Config::parse(&rounds, Path::new(".")).is_err() && problem(&schema(), &json_of(&rounds)).is_some()
    );
}
