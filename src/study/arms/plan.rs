//! Which experiments a study is made of.

use std::collections::BTreeMap;

use dissent_domain::conflict::{LogprobKind, Rule};
use dissent_domain::feedback::Opponent;
use serde::Deserialize;
use toml::{Table, Value};

use crate::error::BadInput;
use crate::study::path_keys::PATHS;
use crate::study::preparation::{CategoriesConfig, PREPARED, Prepared};

/// A study of experiments, as its file says it: what all have in common, and what each differs in.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmsConfig {
    /// `[[arm]]`, in their order.
    pub arms: Vec<ArmConfig>,
    /// The seeds of every arm.
    pub seeds: Vec<u64>,
    /// The other sections, those of `dissent run`.
    pub base: Table,
    /// `[categories]`: what is prepared for every seed.
    pub categories: Option<CategoriesConfig>,
}

/// `[[arm]]`: a rule at some budgets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmConfig {
    /// The rule.
    pub rule: Rule,
    /// Its budgets; empty for a rule that needs none.
    #[serde(default)]
    pub budgets: Vec<u64>,
    /// What selected answers are compared with; for rules over answers. Unset: `random` for `random`,
    /// `conflict` for the others.
    pub opponent: Option<Opponent>,
}

/// One experiment of a study.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// The rule.
    pub rule: Rule,
    /// Its budget.
    pub budget: Option<u64>,
    /// The seed.
    pub seed: u64,
    /// Its name among the arms.
    pub name: String,
    /// The experiment's name: all arms of a seed have the same, each in a log of its own, so that they begin
    /// with the same answers and every draw that a rule has no part in is the same.
    pub experiment: String,
    /// Its configuration, for `dissent run`.
    pub config: String,
}

impl ArmsConfig {
    /// Which log-probability PACS is made of.
    #[must_use]
    pub fn logprob(&self) -> LogprobKind {
        let name =
            self.base.get("conflict").and_then(|conflict| conflict.get("logprob")).and_then(Value::as_str);
        name.and_then(|name| name.parse().ok()).unwrap_or_default()
    }

    /// Every experiment, all arms of a seed before those of the next: what is known after a part of a study
    /// is a smaller study.
    ///
    /// # Errors
    /// If an arm lacks a budget or is given twice, or a path names something that was not prepared.
    pub fn arms(&self, study: &str, prepared: &BTreeMap<u64, Prepared>) -> anyhow::Result<Vec<Arm>> {
        let mut found: Vec<Arm> = Vec::new();
        for &seed in &self.seeds {
            let base = with_paths(self.base.clone(), prepared.get(&seed))?;
            for arm in &self.arms {
                if arm.budgets.is_empty() && arm.rule.needs_budget() {
                    return refuse(format!(
                        "the arm {} needs budgets, such as budgets = [50, 100]",
                        arm.rule
                    ));
                }
                let budgets: Vec<Option<u64>> = match arm.budgets.as_slice() {
                    [] => vec![None],
                    budgets => budgets.iter().copied().map(Some).collect(),
                };
                for budget in budgets {
                    let arm = experiment(&base, study, arm, budget, seed)?;
                    if found.iter().any(|known| known.name == arm.name) {
                        return refuse(format!("the arm {} is given twice", arm.name));
                    }
                    found.push(arm);
                }
            }
        }
        Ok(found)
    }
}

/// One experiment, from what all of its seed have in common.
fn experiment(
    base: &Table,
    study: &str,
    arm: &ArmConfig,
    budget: Option<u64>,
    seed: u64,
) -> anyhow::Result<Arm> {
    let budget_name = budget.map(|budget| format!("-{budget}")).unwrap_or_default();
    let name = format!("{study}-{}{budget_name}-seed{seed}", arm.rule);
    let common = format!("{study}-seed{seed}");
    let mut config = base.clone();
    let experiment = section(&mut config, "experiment")?;
    experiment.insert("name".to_owned(), Value::String(common.clone()));
    experiment.insert("seed".to_owned(), Value::Integer(i64::try_from(seed)?));
    let conflict = section(&mut config, "conflict")?;
    conflict.insert("rule".to_owned(), Value::String(arm.rule.to_string()));
    if let Some(budget) = budget {
        conflict.insert("budget".to_owned(), Value::Integer(i64::try_from(budget)?));
    }
    if !arm.rule.selects_pairs() && config.contains_key("feedback") {
        let usual = if arm.rule == Rule::Random { Opponent::Random } else { Opponent::Conflict };
        let opponent = Value::try_from(arm.opponent.unwrap_or(usual))?;
        section(&mut config, "feedback")?.insert("opponent".to_owned(), opponent);
    }
    Ok(Arm { rule: arm.rule, budget, seed, name, experiment: common, config: toml::to_string(&config)? })
}

/// With the paths of what was prepared.
fn with_paths(mut base: Table, prepared: Option<&Prepared>) -> anyhow::Result<Table> {
    for (section, key) in PATHS {
        let Some(Value::String(path)) = base.get_mut(section).and_then(|section| section.get_mut(key)) else {
            continue;
        };
        let Some(name) = path.strip_prefix(PREPARED) else { continue };
        let Some(prepared) = prepared else {
            return refuse(format!("{section}.{key} = {path:?}: nothing is prepared without [categories]"));
        };
        *path = prepared.resolve(name)?.to_string_lossy().into_owned();
    }
    Ok(base)
}

fn refuse<T>(reason: String) -> anyhow::Result<T> {
    Err(BadInput(reason).into())
}

fn section<'a>(config: &'a mut Table, name: &str) -> anyhow::Result<&'a mut Table> {
    let section = config.entry(name).or_insert_with(|| Value::Table(Table::new()));
    section.as_table_mut().ok_or_else(|| BadInput(format!("{name}: must be a section")).into())
}
