//! The feedback step: judgements of comparisons, by an oracle or by people.

pub(crate) mod inbox;
pub(crate) mod oracle;
