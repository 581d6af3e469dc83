//! Uses of the accounts, and the responses to their failures.

use axum::http::StatusCode;
use dissent_storage::accounts::AccountsError;

use crate::serving::problem::Problem;

/// Uses the accounts on a thread that may block.
///
/// # Errors
/// The response to the failure.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AccountsError> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?.map_err(problem_of_accounts)
}

/// The response to a failure of the accounts.
pub(super) fn problem_of_accounts(error: AccountsError) -> Problem {
    let status = match &error {
        AccountsError::NotFound { .. } => StatusCode::NOT_FOUND,
        AccountsError::NameTaken | AccountsError::LastAdmin => StatusCode::CONFLICT,
        AccountsError::WrongCredentials | AccountsError::Ended => StatusCode::UNAUTHORIZED,
        AccountsError::Throttled { retry_after_seconds } => {
            return Problem::too_many(error.to_string(), *retry_after_seconds);
        }
        AccountsError::Forbidden { .. } => StatusCode::FORBIDDEN,
        AccountsError::Stale => StatusCode::PRECONDITION_FAILED,
        AccountsError::BadInput { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        AccountsError::NewerVersion { .. }
        | AccountsError::NotWiped
        | AccountsError::Io { .. }
        | AccountsError::Damaged(_)
        | AccountsError::Sqlite(_) => return Problem::internal(error),
    };
    Problem::new(status, error.to_string())
}
