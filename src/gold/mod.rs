//! What stands for the truth where no model does: how positive an answer sounds, or answers that people
//! wrote.
//!
//! The reward of a model is the third kind; it is opened with the other models.

mod reference_answers;
mod sentiment;

pub use reference_answers::ReferenceAnswers;
pub use sentiment::{SENTIMENT_FINGERPRINT, Sentiment};
