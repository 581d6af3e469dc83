//! `dissent schema`: prints the JSON Schema of a configuration, for editors.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::paths::{self, is_stream};
use crate::config::schema;
use crate::files;

/// Print the JSON Schema of a configuration, for editors
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dissent schema --output experiment.schema.json

An editor with the extension Even Better TOML then completes keys and marks mistakes in a file that begins with
  #:schema ./experiment.schema.json
The schema also has the conditions between keys, such as a rule that needs a budget. Models and data are not checked: see
`dissent run CONFIG.toml --dry-run`.")]
pub(crate) struct SchemaArgs {
    /// Output file; `-` is stdout.
    #[arg(value_parser = paths::path(), long, short, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

pub(crate) fn run(args: &SchemaArgs) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(&schema::schema())?;
    text.push('\n');
    if is_stream(&args.output) {
        return std::io::stdout().write_all(text.as_bytes()).context("failed to write to stdout");
    }
    files::write(&text, &args.output)
}
