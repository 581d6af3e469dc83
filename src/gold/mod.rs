//! Gold rewards without a model: sentiment, and likeness to reference answers.
//!
//! The third kind is the reward of a model, which is opened with the other models.

mod reference_answers;
mod sentiment;

pub use reference_answers::{ReferenceAnswers, UnsuitableAnswers};
pub use sentiment::{SENTIMENT_FINGERPRINT, Sentiment};
