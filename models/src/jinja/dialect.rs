//! The rules of a rendering.

use super::date::TemplateDate;

/// The rules of a rendering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Version 0.1's: no current date. Constructs that it rendered otherwise than Jinja2 are refused.
    First,
    /// Those of Jinja2, with a fixed date in place of the current one.
    Jinja2(TemplateDate),
}
