//! The rights table: what each route needs of its caller.
//!
//! A route that the table lacks answers nobody, so a new route cannot be forgotten. A test holds the table
//! against the description of the API, and every role against every route.

use axum::http::{Method, StatusCode};
use dissent_storage::accounts::{Access, Accounts, Action, Role, Scope, may};

use crate::serving::gate::{Caller, Via};
use crate::serving::problem::Problem;

/// What a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: the routes of the sign-in, which check secrets themselves.
    Nothing,
    /// A caller, of any role.
    SignedIn,
    /// A caller whose role may do this, with a token of this scope if the caller uses one.
    May(Action, Scope),
    /// The same, on the experiment that the path names, which the caller must own or share.
    On(Action, Scope, Access),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) need: Need,
}

const fn right(method: &'static str, path: &'static str, need: Need) -> Right {
    Right { method, path, need }
}

/// The rights table.
pub(super) const RIGHTS: &[Right] = {
    use Access::{Read as Shared, Write as Own};
    use Action as A;
    use Need::{May, Nothing, On, SignedIn};
    use Scope::{Judge, Operate, Read, Work, Write};
    &[
        // The description of the API.
        right("GET", "/api/v1/openapi.json", SignedIn),
        right("GET", "/api/v1/docs", SignedIn),
        right("GET", "/api/v1/docs/{*file}", SignedIn),
        // Pages. Each shows what its reader may read, and its script calls the API.
        right("GET", "/", SignedIn),
        right("GET", "/sign-in", Nothing),
        right("GET", "/invitation", Nothing),
        right("GET", "/link", Nothing),
        right("GET", "/static/{version}/{file}", Nothing),
        right("GET", "/server", May(A::ReadServer, Read)),
        right("GET", "/people", May(A::ReadPeople, Read)),
        right("GET", "/experiments/{name}", On(A::ReadExperiments, Read, Shared)),
        right("GET", "/experiments/{name}/conflicts", On(A::ReadTables, Read, Shared)),
        right("GET", "/experiments/{name}/history", On(A::ReadExperiments, Read, Shared)),
        // Sign-in.
        right("GET", "/api/v1/session", Nothing),
        right("POST", "/api/v1/session", Nothing),
        right("DELETE", "/api/v1/session", Nothing),
        right("POST", "/api/v1/session/link", Nothing),
        right("POST", "/api/v1/session/invitation", Nothing),
        right("PUT", "/api/v1/session/password", SignedIn),
        // Experiments.
        right("GET", "/api/v1/experiments", May(A::ReadExperiments, Read)),
        right("POST", "/api/v1/experiments", May(A::CreateExperiments, Write)),
        right("GET", "/api/v1/experiments/{name}", On(A::ReadExperiments, Read, Shared)),
        right("GET", "/api/v1/experiments/{name}/hosting", On(A::ReadExperiments, Read, Shared)),
        right("GET", "/api/v1/experiments/{name}/state", On(A::ReadExperiments, Read, Shared)),
        right("GET", "/api/v1/experiments/{name}/report", On(A::ReadExperiments, Read, Shared)),
        right("GET", "/api/v1/experiments/{name}/events", On(A::ReadExperiments, Read, Shared)),
        right("GET", "/api/v1/experiments/{name}/tables/{table}", On(A::ReadTables, Read, Shared)),
        right("GET", "/api/v1/experiments/{name}/comparisons", On(A::ReadTables, Judge, Shared)),
        right("POST", "/api/v1/experiments/{name}/judgements", On(A::SendJudgements, Judge, Own)),
        right("POST", "/api/v1/experiments/{name}/retry", On(A::OrderExperiments, Write, Own)),
        right("POST", "/api/v1/experiments/{name}/fork", On(A::CreateExperiments, Write, Shared)),
        right("POST", "/api/v1/experiments/{name}/orders/{action}", On(A::OrderExperiments, Write, Own)),
        right("POST", "/experiments/{name}/{action}", On(A::OrderExperiments, Write, Own)),
        right("GET", "/api/v1/experiments/{name}/sharing", On(A::ReadExperiments, Read, Shared)),
        right(
            "PUT",
            "/api/v1/experiments/{name}/sharing/{person}",
            On(A::ShareExperiments, Write, Access::Owner),
        ),
        right(
            "DELETE",
            "/api/v1/experiments/{name}/sharing/{person}",
            On(A::ShareExperiments, Write, Access::Owner),
        ),
        // Files that configurations name.
        right("POST", "/api/v1/artifacts", May(A::UploadArtifacts, Write)),
        right("GET", "/api/v1/artifacts/{hash}", May(A::UploadArtifacts, Write)),
        right("PATCH", "/api/v1/artifacts/{hash}", May(A::UploadArtifacts, Write)),
        // What workers need.
        right("GET", "/api/v1/server", May(A::Work, Work)),
        right("GET", "/api/v1/experiments/{name}/configuration", May(A::Work, Work)),
        // People.
        right("GET", "/api/v1/people", May(A::ReadPeople, Read)),
        right("POST", "/api/v1/people", May(A::ManagePeople, Operate)),
        right("GET", "/api/v1/people/{person}", May(A::ReadPeople, Read)),
        right("PATCH", "/api/v1/people/{person}", May(A::ManagePeople, Operate)),
        right("DELETE", "/api/v1/people/{person}", May(A::ErasePeople, Operate)),
        right("POST", "/api/v1/people/{person}/invitation", May(A::ManagePeople, Operate)),
        right("GET", "/api/v1/people/{person}/links", May(A::ManageLinks, Operate)),
        right("POST", "/api/v1/people/{person}/links", May(A::ManageLinks, Operate)),
        right("DELETE", "/api/v1/links/{id}", May(A::ManageLinks, Operate)),
        right("GET", "/api/v1/tokens", May(A::ManageOwnTokens, Operate)),
        right("POST", "/api/v1/tokens", May(A::ManageOwnTokens, Operate)),
        right("DELETE", "/api/v1/tokens/{id}", May(A::ManageOwnTokens, Operate)),
        right("GET", "/api/v1/audit", May(A::ReadAudit, Operate)),
        right("GET", "/api/v1/webhooks", May(A::ManageWebhooks, Operate)),
        right("POST", "/api/v1/webhooks", May(A::ManageWebhooks, Operate)),
        right("DELETE", "/api/v1/webhooks/{id}", May(A::ManageWebhooks, Operate)),
        right("GET", "/api/v1/webhooks/{id}/deliveries", May(A::ManageWebhooks, Operate)),
        // Operations.
        right("GET", "/api/v1/status", May(A::ReadServer, Read)),
        right("GET", "/api/v1/queues", May(A::Operate, Operate)),
        right("GET", "/api/v1/dead", May(A::Operate, Operate)),
        right("POST", "/api/v1/dead/{id}/retry", May(A::Operate, Operate)),
        right("DELETE", "/api/v1/dead/{id}", May(A::Operate, Operate)),
        right("GET", "/api/v1/log", May(A::ReadServer, Read)),
        right("POST", "/api/v1/verifications", May(A::Operate, Operate)),
        right("POST", "/api/v1/backups", May(A::Operate, Operate)),
        right("POST", "/backup", May(A::Operate, Operate)),
    ]
};

/// Returns what a route needs; `None` if the table lacks it.
pub(super) fn need(method: &Method, path: &str) -> Option<Need> {
    // A route that answers GET answers HEAD.
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    RIGHTS.iter().find(|right| right.method == method && right.path == path).map(|right| right.need)
}

/// Whether the table has a path, for any method.
pub(super) fn has_path(path: &str) -> bool {
    RIGHTS.iter().any(|right| right.path == path)
}

/// Checks that a caller has what a route needs. `experiment` is the one that the path names.
///
/// # Errors
/// The response to a caller who lacks it. Nothing tells whether an experiment of others exists.
pub(super) fn check(
    caller: &Caller,
    need: Need,
    experiment: Option<&str>,
    accounts: Option<&Accounts>,
) -> Result<(), Problem> {
    let (action, scope, access) = match need {
        Need::Nothing => return Ok(()),
        Need::SignedIn => return caller.role.map(drop).ok_or_else(not_signed_in),
        Need::May(action, scope) => (action, scope, None),
        Need::On(action, scope, access) => (action, scope, Some(access)),
    };
    let role = caller.role.ok_or_else(not_signed_in)?;
    if !may(role, action) {
        return Err(Problem::forbidden(format!("your role, {role}, does not allow this")));
    }
    if let Via::Token { scope: granted, .. } = &caller.via
        && !granted.contains(&scope)
    {
        return Err(Problem::forbidden(format!("the token lacks the scope {scope}")));
    }
    match (access, experiment) {
        (Some(access), Some(experiment)) => check_experiment(caller, role, experiment, access, accounts),
        (Some(_), None) => Err(Problem::internal(anyhow::anyhow!("the path names no experiment"))),
        (None, _) => Ok(()),
    }
}

fn check_experiment(
    caller: &Caller,
    role: Role,
    experiment: &str,
    access: Access,
    accounts: Option<&Accounts>,
) -> Result<(), Problem> {
    if let Via::Token { experiments: Some(listed), .. } = &caller.via
        && !listed.iter().any(|listed| listed == experiment)
    {
        return Err(unknown(experiment));
    }
    let (Some(person), Some(accounts)) = (&caller.person, accounts) else { return Ok(()) };
    if role == Role::Admin {
        return Ok(());
    }
    let found = accounts.access(person, experiment).map_err(Problem::internal)?;
    match found {
        Some(found) if found >= access => Ok(()),
        Some(_) => Err(Problem::forbidden(format!("{experiment} is shared with you for reading only"))),
        None => Err(unknown(experiment)),
    }
}

fn not_signed_in() -> Problem {
    Problem::unauthorized("sign in, or send an API token")
}

fn unknown(experiment: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("unknown experiment {experiment}"))
}
