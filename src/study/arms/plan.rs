//! The experiments of a study and their configurations.

use std::collections::BTreeMap;

use dissent_domain::conflict::{LogprobKind, Rule};
use dissent_domain::feedback::Opponent;
use serde::Deserialize;
use toml::{Table, Value};

use crate::error::BadInput;
use crate::study::path_keys::PATHS;
use crate::study::preparation::{CategoriesConfig, PREPARED, Prepared};

/// The configuration of a study of experiments: the common sections, and the arms.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmsConfig {
    /// `[[arm]]`, in their order.
    pub arms: Vec<ArmConfig>,
    /// The seeds of every arm.
    pub seeds: Vec<u64>,
    /// The sections of `dissent run`, common to all experiments.
    pub base: Table,
    /// `[categories]`: the data and models that the study prepares for every seed.
    pub categories: Option<CategoriesConfig>,
}

/// `[[arm]]`: a rule with its budgets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmConfig {
    /// The selection rule of the arm.
    pub rule: Rule,
    /// The budgets; empty for a rule without a budget.
    #[serde(default)]
    pub budgets: Vec<u64>,
    /// The opponent of a selected completion in its comparison. Default: `random` for the rule `random`,
    /// `conflict` for the others. Another one is part of the arm's name. Rules that select pairs of
    /// completions ignore it.
    pub opponent: Option<Opponent>,
}

/// One experiment of a study.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// The rule.
    pub rule: Rule,
    /// The budget.
    pub budget: Option<u64>,
    /// The opponent of a selected completion; `None`: the default of the rule, or a rule that selects pairs.
    pub opponent: Option<Opponent>,
    /// The seed.
    pub seed: u64,
    /// The unique name of the arm.
    pub name: String,
    /// The name of the experiment. All arms of a seed share it, each in a separate log. The arms therefore
    /// begin with the same completions and share all draws outside the rule.
    pub experiment: String,
    /// The configuration for `dissent run`.
    pub config: String,
}

impl ArmsConfig {
    /// Returns the kind of log-probability that PACS uses.
    #[must_use]
    pub fn logprob(&self) -> LogprobKind {
        let name =
            self.base.get("conflict").and_then(|conflict| conflict.get("logprob")).and_then(Value::as_str);
        name.and_then(|name| name.parse().ok()).unwrap_or_default()
    }

    /// Returns every experiment, all arms of a seed before those of the next seed. An interrupted study is
    /// then a smaller study.
    ///
    /// # Errors
    /// If an arm lacks a budget or occurs twice, or a path names an unknown prepared folder.
    pub fn arms(&self, study: &str, prepared: &BTreeMap<u64, Prepared>) -> anyhow::Result<Vec<Arm>> {
        let mut found: Vec<Arm> = Vec::new();
        for &seed in &self.seeds {
            let base = with_prepared_paths(self.base.clone(), prepared.get(&seed))?;
            for arm in &self.arms {
                if arm.budgets.is_empty() && arm.rule.needs_budget() {
                    return refuse(format!(
                        "arm {} has no budgets: add them, such as budgets = [50, 100]",
                        arm.rule
                    ));
                }
                let budgets: Vec<Option<u64>> = match arm.budgets.as_slice() {
                    [] => vec![None],
                    budgets => budgets.iter().copied().map(Some).collect(),
                };
                for budget in budgets {
                    let arm = experiment(&base, study, arm, budget, seed)?;
                    if found.iter().any(|other| other.name == arm.name) {
                        return refuse(format!("arm {} occurs twice: remove one", arm.name));
                    }
                    found.push(arm);
                }
            }
        }
        Ok(found)
    }
}

/// Builds the configuration of one experiment from the common sections.
fn experiment(
    base: &Table,
    study: &str,
    arm: &ArmConfig,
    budget: Option<u64>,
    seed: u64,
) -> anyhow::Result<Arm> {
    let default = if arm.rule == Rule::Random { Opponent::Random } else { Opponent::Conflict };
    let has_opponent = !arm.rule.selects_pairs() && base.contains_key("feedback");
    let opponent = arm.opponent.filter(|opponent| has_opponent && *opponent != default);
    let opponent_name = opponent.map(|opponent| format!("-{}", opponent.name())).unwrap_or_default();
    let budget_name = budget.map(|budget| format!("-{budget}")).unwrap_or_default();
    let name = format!("{study}-{}{opponent_name}{budget_name}-seed{seed}", arm.rule);
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
    if has_opponent {
        let opponent = Value::String(opponent.unwrap_or(default).name().to_owned());
        section(&mut config, "feedback")?.insert("opponent".to_owned(), opponent);
    }
    if config.contains_key("feedback") {
        // The whole budget of an arm is its rule's: the study itself draws at random.
        section(&mut config, "feedback")?.entry("audit").or_insert(Value::Float(0.0));
    }
    Ok(Arm {
        rule: arm.rule,
        budget,
        opponent,
        seed,
        name,
        experiment: common,
        config: toml::to_string(&config)?,
    })
}

/// Replaces `prepared:…` by the paths of the prepared folders.
fn with_prepared_paths(mut base: Table, prepared: Option<&Prepared>) -> anyhow::Result<Table> {
    for (section, key) in PATHS {
        let Some(Value::String(path)) = base.get_mut(section).and_then(|section| section.get_mut(key)) else {
            continue;
        };
        let Some(name) = path.strip_prefix(PREPARED) else { continue };
        let Some(prepared) = prepared else {
            return refuse(format!("{section}.{key} = {path:?} needs a prepared folder: add [categories]"));
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
    section.as_table_mut().ok_or_else(|| BadInput(format!("{name} is not a section: write [{name}]")).into())
}
