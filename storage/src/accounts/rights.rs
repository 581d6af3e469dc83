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
        found.ok_or_else(|| AccountsError::bad("role", "use admin, researcher, annotator, viewer or worker"))
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
    /// Export whole tables.
    Export,
    /// Create and fork experiments.
    CreateExperiments,
    /// Start, pause, resume, cancel and retry.
    OrderExperiments,
    /// Let others read or change an experiment.
    ShareExperiments,
    /// Send judgements of any annotator.
    SendJudgements,
    /// Read the own tasks, without a score.
    ReadTasks,
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
    /// List and revoke the API tokens of everybody.
    ManageAllTokens,
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
    pub const ALL: [Self; 21] = [
        Self::ReadExperiments,
        Self::ReadTables,
        Self::Export,
        Self::CreateExperiments,
        Self::OrderExperiments,
        Self::ShareExperiments,
        Self::SendJudgements,
        Self::ReadTasks,
        Self::JudgeTasks,
        Self::UploadArtifacts,
        Self::ReadPeople,
        Self::ManagePeople,
        Self::ErasePeople,
        Self::ManageLinks,
        Self::ManageOwnTokens,
        Self::ManageAllTokens,
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
/// | researcher | what a viewer may; create, order and share experiments; exports; judgements; uploads |
/// | | people's names; links of annotators; webhooks; the state of the server; own tasks |
/// | annotator | read and judge own tasks |
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
                | A::Export
                | A::CreateExperiments
                | A::OrderExperiments
                | A::ShareExperiments
                | A::SendJudgements
                | A::ReadTasks
                | A::JudgeTasks
                | A::UploadArtifacts
                | A::ReadPeople
                | A::ManageLinks
                | A::ManageOwnTokens
                | A::ManageWebhooks
                | A::ReadServer
        ),
        Role::Annotator => matches!(action, A::ReadTasks | A::JudgeTasks),
        Role::Viewer => matches!(action, A::ReadExperiments | A::ReadTables | A::ManageOwnTokens),
        Role::Worker => matches!(action, A::Work | A::ManageOwnTokens),
    }
}

/// Whether a person of role `role` may make and revoke personal links of a person of role `of`. A link acts
/// as its person, so it must not give more rights than its maker has.
#[must_use]
pub const fn may_link(role: Role, of: Role) -> bool {
    may(role, Action::ManageLinks)
        && match role {
            Role::Admin => !matches!(of, Role::Admin),
            Role::Researcher => matches!(of, Role::Annotator),
            Role::Annotator | Role::Viewer | Role::Worker => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table, as people read it: one letter a role that may.
    const TABLE: &str = "\
        ReadExperiments A R V\nReadTables A R V\nExport A R\nCreateExperiments A R\nOrderExperiments A R\nShareExperiments A R\n\
        SendJudgements A R\nReadTasks A R N\nJudgeTasks A R N\nUploadArtifacts A R\nReadPeople A R\nManagePeople A\nErasePeople A\n\
        ManageLinks A R\nManageOwnTokens A R V W\nManageAllTokens A\nManageWebhooks A R\nReadAudit A\nReadServer A R\nOperate A\nWork A W\n";

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

    #[test]
    fn links_give_no_more_rights_than_their_maker_has() {
        for (role, of) in Role::ALL.into_iter().flat_map(|role| Role::ALL.map(|of| (role, of))) {
            let is_expected = match role {
                Role::Admin => of != Role::Admin,
                Role::Researcher => of == Role::Annotator,
                Role::Annotator | Role::Viewer | Role::Worker => false,
            };
            assert_eq!(may_link(role, of), is_expected, "{role} {of}");
            if may_link(role, of) {
                assert!(Action::ALL.into_iter().all(|action| may(role, action) || !may(of, action)));
            }
        }
    }
}
