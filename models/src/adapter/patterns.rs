//! The module patterns of `adapter_config.json`, matched as PEFT matches them.
//!
//! PEFT runs them with Python's `re`. A pattern that the regex library would read otherwise is refused by
//! name.

use std::collections::BTreeSet;

use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// The longest accepted pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 4096;
/// The highest accepted number of patterns of one setting.
const PATTERNS_MAX: usize = 1 << 14;
/// The largest compiled pattern, in bytes.
const PROGRAM_BYTES_MAX: usize = 1 << 20;
/// The highest number of steps that matching one name may go back.
const STEPS_MAX: usize = 100_000;
/// The escapes of Python's `re`, besides digits and punctuation. `\Z` and `\N` are missing in the library.
const ESCAPES: &str = "AbBdDsSwWafnrtvxuU";

/// `rank_pattern` or `alpha_pattern`: values of modules by pattern, in the order of the file.
#[derive(Debug)]
pub(super) struct Patterns {
    setting: &'static str,
    values: Map<String, Value>,
}

impl Patterns {
    /// Reads the setting; null and a missing key mean no pattern.
    pub(super) fn read(settings: &Map<String, Value>, setting: &'static str) -> Result<Self, String> {
        let values = match settings.get(setting) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(values)) if values.len() <= PATTERNS_MAX => values.clone(),
            Some(Value::Object(values)) => {
                return Err(format!("{setting} has {} patterns: use at most {PATTERNS_MAX}", values.len()));
            }
            Some(_) => return Err(format!("{setting} is not an object of patterns and numbers")),
        };
        Ok(Self { setting, values })
    }

    /// Returns the value of each module: that of the first pattern that matches the end of its name, from a
    /// dot on.
    pub(super) fn of_modules(&self, names: &[&str]) -> Result<Vec<Option<&Value>>, String> {
        let mut found = vec![None; names.len()];
        // One pattern is compiled at a time, so that many of them need no more memory than one.
        for (pattern, value) in &self.values {
            let regex = compile(self.setting, pattern, &format!(r"\A(?:(.*\.)?({pattern})$)"))?;
            for (name, slot) in names.iter().zip(&mut found) {
                if slot.is_none() && matches(self.setting, &regex, name)? {
                    *slot = Some(value);
                }
            }
        }
        Ok(found)
    }
}

/// The settings that select the changed modules.
#[derive(Debug)]
pub(super) struct Targets {
    modules: Option<Names>,
    excluded: Option<Names>,
    /// The changed layers; all if empty.
    layers: Vec<u64>,
    /// The patterns that find a layer's number, `idx`, in a name.
    layer_patterns: Vec<Regex>,
}

/// `target_modules` or `exclude_modules`.
#[derive(Debug)]
enum Names {
    /// Full names, or their last parts.
    List(BTreeSet<String>),
    /// A pattern of full names.
    Pattern(Regex),
}

impl Targets {
    /// Reads the settings.
    pub(super) fn read(settings: &Map<String, Value>) -> Result<Self, String> {
        let layers = match settings.get("layers_to_transform") {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(layers)) => layers.iter().map(Value::as_u64).collect(),
            Some(layer) => layer.as_u64().map(|layer| vec![layer]),
        };
        let layer_pattern = |pattern: &String| {
            let form = format!(r"\A(?:(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.)");
            compile("layers_pattern", pattern, &form)
        };
        let layer_patterns = match texts(settings, "layers_pattern")? {
            Some(patterns) => patterns.iter().map(layer_pattern).collect::<Result<_, _>>()?,
            None => vec![compile("layers_pattern", "", r"\A(?:.*?\.[^.]*\.(?P<idx>\d+)\.)")?],
        };
        Ok(Self {
            modules: Names::read(settings, "target_modules")?,
            excluded: Names::read(settings, "exclude_modules")?,
            layers: layers.ok_or("layers_to_transform is neither a layer nor a list of layers")?,
            layer_patterns,
        })
    }

    /// Whether PEFT changes the module of this name.
    pub(super) fn include(&self, name: &str) -> Result<bool, String> {
        if let Some(excluded) = &self.excluded
            && excluded.include("exclude_modules", name)?
        {
            return Ok(false);
        }
        let Some(modules) = &self.modules else { return Ok(true) };
        if !modules.include("target_modules", name)? {
            return Ok(false);
        }
        match modules {
            // A pattern, and a name that is listed in full, say themselves which layers are meant.
            Names::Pattern(_) => Ok(true),
            Names::List(names) if names.contains(name) || self.layers.is_empty() => Ok(true),
            Names::List(_) => Ok(self.layer(name)?.is_some_and(|layer| self.layers.contains(&layer))),
        }
    }

    /// Returns the layer's number in the name of a module.
    fn layer(&self, name: &str) -> Result<Option<u64>, String> {
        for pattern in &self.layer_patterns {
            let found =
                pattern.captures(name).map_err(|error| too_slow("layers_pattern", pattern, &error))?;
            if let Some(found) = found {
                return Ok(found.name("idx").and_then(|number| number.as_str().parse().ok()));
            }
        }
        Ok(None)
    }
}

impl Names {
    /// Reads the setting. `None` selects no module in particular: null, or PEFT's `all-linear`.
    fn read(settings: &Map<String, Value>, setting: &'static str) -> Result<Option<Self>, String> {
        match settings.get(setting) {
            Some(Value::String(text)) if text.is_empty() || text.eq_ignore_ascii_case("all-linear") => {
                Ok(None)
            }
            Some(Value::String(pattern)) => {
                Ok(Some(Self::Pattern(compile(setting, pattern, &format!(r"\A(?:{pattern})\z"))?)))
            }
            _ => Ok(texts(settings, setting)?.map(|names| Self::List(names.into_iter().collect()))),
        }
    }

    fn include(&self, setting: &str, name: &str) -> Result<bool, String> {
        match self {
            Self::Pattern(regex) => matches(setting, regex, name),
            Self::List(names) => {
                let mut ends = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
                Ok(names.contains(name) || ends.any(|end| names.contains(end)))
            }
        }
    }
}

/// Reads one text or a list of texts; `None` if there are none.
fn texts(settings: &Map<String, Value>, setting: &str) -> Result<Option<Vec<String>>, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found = match settings.get(setting) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(values)) if values.len() <= PATTERNS_MAX => values.iter().map(text).collect(),
        Some(value) => text(value).map(|text| vec![text]),
    };
    let found = found.ok_or_else(|| format!("{setting} is neither a name nor a list of names"))?;
    Ok((!found.is_empty()).then_some(found))
}

/// Compiles a pattern in the form in which PEFT runs it.
fn compile(setting: &str, pattern: &str, form: &str) -> Result<Regex, String> {
    let refused = |reason: &dyn std::fmt::Display| {
        format!(
            "{setting} has the pattern {pattern:?}, which is not supported: {reason}; name the modules in full"
        )
    };
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!(
            "{setting} has a pattern of {} bytes: use at most {PATTERN_BYTES_MAX}",
            pattern.len()
        ));
    }
    if let Some(part) = read_otherwise(pattern) {
        return Err(refused(&format_args!("{part} has another meaning in Python")));
    }
    RegexBuilder::new(form)
        .backtrack_limit(STEPS_MAX)
        .delegate_size_limit(PROGRAM_BYTES_MAX)
        .delegate_dfa_size_limit(PROGRAM_BYTES_MAX)
        .build()
        .map_err(|error| refused(&error))
}

/// Returns the first part of a pattern that Python's `re` reads otherwise than the regex library: sets of
/// characters inside sets, and escapes that only the library knows.
fn read_otherwise(pattern: &str) -> Option<&str> {
    let bytes = pattern.as_bytes();
    // The first position inside the current set of characters.
    let mut set: Option<usize> = None;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = pattern.get(at..at + 2).unwrap_or_default();
        match (byte, set) {
            (b'\\', _) => {
                let escaped = bytes.get(at + 1).copied().unwrap_or_default();
                let known = !escaped.is_ascii_alphabetic() || ESCAPES.contains(char::from(escaped));
                if !known || matches!(escaped, b'<' | b'>') {
                    return Some(pair);
                }
                at += 1;
            }
            (b'[', None) => {
                // A bracket in the first place is a member of the set, also behind the sign of negation.
                let negated = usize::from(bytes.get(at + 1) == Some(&b'^'));
                set = Some(at + 1 + negated);
                at += negated;
            }
            (b']', Some(first)) if at > first => set = None,
            (b'[', Some(_)) => return pattern.get(at..=at),
            (_, Some(_)) if matches!(pair, "&&" | "--" | "~~") => return Some(pair),
            _ => {}
        }
        at += 1;
    }
    None
}

fn matches(setting: &str, regex: &Regex, name: &str) -> Result<bool, String> {
    regex.is_match(name).map_err(|error| too_slow(setting, regex, &error))
}

fn too_slow(setting: &str, regex: &Regex, error: &fancy_regex::Error) -> String {
    format!("{setting} cannot be matched with {}: {error}; name the modules in full", regex.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const Q: &str = "model.layers.1.self_attn.q_proj";

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn value(patterns: Value, name: &str) -> Result<Option<i64>, String> {
        let settings = object(json!({"rank_pattern": patterns}));
        let patterns = Patterns::read(&settings, "rank_pattern")?;
        Ok(patterns.of_modules(&[name])?[0].and_then(Value::as_i64))
    }

    /// The values are those of `re.match(rf"(.*\.)?({key})$", name)` in Python.
    #[test]
    fn a_pattern_matches_the_end_of_a_name_as_in_peft() {
        for (pattern, expected) in [
            ("q_proj", true),
            ("proj", false),
            ("self_attn.q_proj", true),
            ("self.attn.q.proj", true),
            ("self_attn", false),
            ("^model.layers.1.self_attn.q_proj", true),
            ("^layers.1.self_attn.q_proj", false),
            ("^q_proj", false),
            (r".*\.1\.self_attn\.q_proj", true),
            (r".*\.0\.self_attn\.q_proj", false),
            (r"layers\.(0|1)\..*", true),
            (r"layers\.\d+\.self_attn\.[qk]_proj", true),
            (r"(?!.*mlp).*_proj", true),
            // PEFT's prefix may end behind the word that the pattern excludes.
            (r"(?!.*attn).*_proj", true),
            (r"^(?!.*attn).*_proj", false),
            // A group of one's own is the third: PEFT's form has two.
            (r"(q)_proj|(q)\3", true),
            // Alternatives end PEFT's group, and are matched from the beginning of the name.
            ("x)|(model.*", true),
            ("base_model.model.model.layers.1.self_attn.q_proj", false),
        ] {
            let found = value(json!({pattern: 3}), Q).expect(pattern);
            assert_eq!(found.is_some(), expected, "{pattern}");
        }
    }

    #[test]
    fn the_first_pattern_in_the_order_of_the_file_counts() {
        assert_eq!(value(json!({"q_proj": 1, "layers.1.self_attn.q_proj": 2}), Q), Ok(Some(1)));
        assert_eq!(value(json!({"layers.1.self_attn.q_proj": 2, "q_proj": 1}), Q), Ok(Some(2)));
        assert_eq!(value(json!({}), Q), Ok(None));
        assert_eq!(value(Value::Null, Q), Ok(None));
    }

    #[test]
    fn patterns_that_python_reads_otherwise_are_refused_by_name() {
        for pattern in
            [r"[[a]q]_proj", "[a-z&&q]_proj", "[q--a]_proj", r"\<q_proj", r"\hq_proj", r"q_proj\Z", "(q"]
        {
            let reason = value(json!({pattern: 3}), Q).expect_err(pattern);
            assert!(reason.contains("rank_pattern") && reason.contains(&format!("{pattern:?}")), "{reason}");
        }
        for pattern in [r"[]q]_proj", r"[^]a]_proj", r"[\]q]_proj", r"[\[q]_proj", "q_proj{1,1}"] {
            assert_eq!(value(json!({pattern: 3}), Q), Ok(Some(3)), "{pattern}");
        }
    }

    #[test]
    fn hostile_patterns_end_with_an_error() {
        let long = "a".repeat(5000);
        for pattern in [r"(?=(a+)+$)b", r"(\w{1000}){1000}", long.as_str()] {
            let started = std::time::Instant::now();
            let name = format!("model.{}", "a".repeat(60));
            let found = value(json!({pattern: 3}), &name);
            assert!(found.is_err() || found == Ok(None), "{pattern}: {found:?}");
            assert!(started.elapsed().as_secs() < 5, "{pattern}");
        }
    }

    #[test]
    fn targets_follow_the_rule_of_peft() {
        let include = |settings: Value| {
            Targets::read(&object(settings)).and_then(|targets| targets.include(Q)).expect("settings")
        };
        for (settings, expected) in [
            (json!({}), true),
            (json!({"target_modules": null}), true),
            (json!({"target_modules": "all-linear"}), true),
            (json!({"target_modules": ["q_proj"]}), true),
            (json!({"target_modules": ["self_attn.q_proj"]}), true),
            (json!({"target_modules": [Q]}), true),
            (json!({"target_modules": ["proj", "v_proj"]}), false),
            // A single text is a pattern of the whole name.
            (json!({"target_modules": "q_proj"}), false),
            (json!({"target_modules": r".*\.layers\.[01]\.self_attn\.(q|v)_proj"}), true),
            (json!({"target_modules": r"(?!.*visual).*q_proj"}), true),
            (json!({"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]}), false),
            (json!({"target_modules": ["q_proj"], "exclude_modules": ["v_proj"]}), true),
            (json!({"target_modules": ["q_proj"], "exclude_modules": r".*\.1\..*"}), false),
            (json!({"target_modules": ["q_proj"], "layers_to_transform": [1]}), true),
            (json!({"target_modules": ["q_proj"], "layers_to_transform": 0}), false),
            (json!({"target_modules": ["q_proj"], "layers_to_transform": []}), true),
            (json!({"target_modules": [Q], "layers_to_transform": [0]}), true),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
                true,
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "l.*s"]}),
                true,
            ),
            (json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "h"}), false),
        ] {
            assert_eq!(include(settings.clone()), expected, "{settings}");
        }
    }
}
