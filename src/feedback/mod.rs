//! Comparisons that wait for judgements, as commands and the API give them to people.

pub(crate) mod comparisons;
mod recorded;

pub(crate) use recorded::RecordedExperiment;
