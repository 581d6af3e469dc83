//! The first day of a new user: each test is a step that once failed, through the program itself.

mod experiments;
mod figures;
mod flat_rows;
mod focus;
mod forking;
mod new_configuration;
mod options;
mod overrides;
mod prompts;
mod walk;
