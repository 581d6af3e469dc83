//! Roles, and what each may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::AccountsError;

/// The role of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, also people and operations.
    Admin,
    /// Own experiments, and those that are shared with the person.
    Researcher,
    /// Own judging tasks, and nothing else: never a score.
    Annotator,
    /// Experiments that are shared with the person, for reading.
    Viewer,
    /// What a worker needs of its server.
    Worker,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Admin, Self::Researcher, Self::Annotator, Self::Viewer, Self::Worker];

    /// The name of the role.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Researcher => "researcher",
            Self::Annotator => "annotator",
            Self::Viewer => "viewer",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = AccountsError;

    fn from_str(name: &str) -> Result<Self, AccountsError> {
        let found = Self::ALL.into_iter().find(|role| role.name() == name);
        found.ok_or_else(|| {
            AccountsError::bad("role", "use admin, researcher, annotator, viewer or worker")
        })
    }
}

/// What an API token allows, within the role of its person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read experiments and tables.
    Read,
    /// Create experiments and order them.
    Write,
    /// Read comparisons and send judgements.
    Judge,
    /// Manage people, tokens and the server.
    Operate,
    /// What a worker needs.
    Work,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Judge => "judge",
            Self::Operate => "operate",
            Self::Work => "work",
        })
    }
}

/// Something that a person does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read the state, the report and the events of experiments.
    ReadExperiments,
    /// Read tables, with the texts and scores of completions.
    ReadTables,
    /// Create and fork experiments.
    CreateExperiments,
    /// Start, pause, resume, cancel and retry.
    OrderExperiments,
    /// Let others read or change an experiment.
    ShareExperiments,
    /// Send judgements of any annotator.
    SendJudgements,
    /// Judge the own tasks.
    JudgeTasks,
    /// Upload the files of configurations.
    UploadArtifacts,
    /// Read who has an account.
    ReadPeople,
    /// Add and change people.
    ManagePeople,
    /// Erase people.
    ErasePeople,
    /// Make and revoke personal links.
    ManageLinks,
    /// Make and revoke own API tokens.
    ManageOwnTokens,
    /// Subscribe to events by webhooks.
    ManageWebhooks,
    /// Read who read and changed what.
    ReadAudit,
    /// Read the state of the server.
    ReadServer,
    /// Queues, dead letters, checks, backups.
    Operate,
    /// Take steps as a worker.
    Work,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 18] = [
        Self::ReadExperiments,
        Self::ReadTables,
        Self::CreateExperiments,
        Self::OrderExperiments,
        Self::ShareExperiments,
        Self::SendJudgements,
        Self::JudgeTasks,
        Self::UploadArtifacts,
        Self::ReadPeople,
        Self::ManagePeople,
        Self::ErasePeople,
        Self::ManageLinks,
        Self::ManageOwnTokens,
        Self::ManageWebhooks,
        Self::ReadAudit,
        Self::ReadServer,
        Self::Operate,
        Self::Work,
    ];
}

/// Whether a role may do something. Access to a single experiment is checked besides: see
/// [`access`](super::Accounts::access).
///
/// | role | may |
/// |---|---|
/// | admin | everything |
/// | researcher | read, create, order and share experiments; tables; judgements; uploads; people's names; links; own tokens; webhooks; the state of the server |
/// | annotator | judge own tasks |
/// | viewer | read experiments and tables; own tokens |
/// | worker | take steps; own tokens |
#[must_use]
pub const fn may(role: Role, action: Action) -> bool {
    use Action as A;
    match role {
        Role::Admin => true,
        Role::Researcher => matches!(
            action,
            A::ReadExperiments
                | A::ReadTables
                | A::CreateExperiments
                | A::OrderExperiments
                | A::ShareExperiments
                | A::SendJudgements
                | A::JudgeTasks
                | A::UploadArtifacts
                | A::ReadPeople
                | A::ManageLinks
                | A::ManageOwnTokens
                | A::ManageWebhooks
                | A::ReadServer
        ),
        Role::Annotator => matches!(action, A::JudgeTasks),
        Role::Viewer => matches!(action, A::ReadExperiments | A::ReadTables | A::ManageOwnTokens),
        Role::Worker => matches!(action, A::Work | A::ManageOwnTokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table, as people read it: one letter a role that may.
    const TABLE: &str = "\
        ReadExperiments A R V\nReadTables A R V\nCreateExperiments A R\nOrderExperiments A R\nShareExperiments A R\n\
        SendJudgements A R\nJudgeTasks A R N\nUploadArtifacts A R\nReadPeople A R\nManagePeople A\nErasePeople A\n\
        ManageLinks A R\nManageOwnTokens A R V W\nManageWebhooks A R\nReadAudit A\nReadServer A R\nOperate A\nWork A W\n";

    #[test]
    fn each_role_may_do_what_the_table_says_and_nothing_else() {
        let letter = |role| match role {
            Role::Admin => "A",
            Role::Researcher => "R",
            Role::Annotator => "N",
            Role::Viewer => "V",
            Role::Worker => "W",
        };
        let mut lines = TABLE.lines();
        for action in Action::ALL {
            let line = lines.next().unwrap();
            let mut words = line.split(' ');
            assert_eq!(words.next().unwrap(), format!("{action:?}"));
            let allowed: Vec<&str> = words.collect();
            for role in Role::ALL {
                assert_eq!(may(role, action), allowed.contains(&letter(role)), "{role} {action:?}");
            }
        }
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn names_of_roles_are_read_back() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
        assert!("root".parse::<Role>().is_err());
    }
}
