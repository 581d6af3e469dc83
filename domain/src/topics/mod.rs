//! Topics: groups of similar prompts, and the groups on which the proxy errs most.
//!
//! [`topics`] clusters prompts by feature vectors or by their words, and names every cluster by its
//! distinctive words. [`rank_topics`] estimates the proxy's error in each topic from judged prompts. Few
//! judgements fall into a topic, so estimates are shrunk towards the mean of all topics, and the test
//! accounts for the number of topics.

mod beta;
mod kmeans;
mod names;
mod ranking;
mod settings;
mod vectors;

use serde::{Deserialize, Serialize};

use kmeans::{Clustering, choose};
use vectors::Rows;

pub use ranking::{JudgedPrompt, RankedTopic, RankingSettings, TopicRanking, rank_topics};
pub use settings::{PROMPTS_MIN, TopicSettings};
pub use vectors::FeatureError;

/// Prompts in topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topics {
    /// The topic of each prompt, shape `[prompts]`; `None` for a prompt without a feature or known word.
    pub of_prompt: Vec<Option<usize>>,
    /// The topics, the largest first.
    pub topics: Vec<Topic>,
    /// The mean silhouette of the prompts, in [−1, 1]: near 0 where topics run into each other.
    pub silhouette: f64,
}

/// A group of similar prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topic {
    /// Its distinctive words, the most distinctive first; at most 5, perhaps none.
    pub words: Vec<String>,
    /// Its prompts, by position, ascending.
    pub prompts: Vec<usize>,
}

/// Divides prompts into topics.
///
/// `texts` are the prompts, shape `[prompts]`. `features` are vectors of shape `[prompts][d]` in any unit,
/// such as last hidden states of a model. They are centred, and projected to 128 dimensions if d is larger
/// (Achlioptas, 2003). Without them, a prompt is the tf-idf vector of its words. Function words, words of one
/// prompt alone and words of more than a third of the prompts do not count. Short prompts of one subject
/// share few words, so these vectors are projected to at most 16 latent dimensions.
///
/// Vectors have length 1, and spherical k-means (Dhillon and Modha, 2001) with k-means++ starts maximises the
/// sum of cosines. The number of topics is the one with the highest mean silhouette among 2 to `most`; at
/// equal values the smaller one. The silhouette of a prompt compares its cosine with the nearest other
/// centroid with that of its own centroid, computed without the prompt. Otherwise many small topics would
/// look good. Below [`PROMPTS_MIN`] prompts, and where every silhouette is below 0, there is one topic.
///
/// The same arguments give the same topics.
///
/// # Errors
/// If the features do not fit the prompts.
pub fn topics(
    texts: &[&str],
    features: Option<&[Vec<f32>]>,
    settings: &TopicSettings,
) -> Result<Topics, FeatureError> {
    let rows = match features {
        Some(features) => Rows::of_features(features, texts.len(), settings.seed)?,
        None => Rows::of_texts(texts, settings.seed),
    };
    let clustering = choose(&rows, settings);
    Ok(named(texts, &rows, &clustering))
}

fn named(texts: &[&str], rows: &Rows, clustering: &Clustering) -> Topics {
    let mut members = vec![Vec::new(); clustering.clusters];
    for (prompt, cluster) in clustering.of_row.iter().enumerate() {
        if !rows.is_empty(prompt) {
            members[*cluster].push(prompt);
        }
    }
    members.retain(|prompts| !prompts.is_empty());
    members.sort_by_key(|prompts| (usize::MAX - prompts.len(), prompts.first().copied()));
    let mut of_prompt = vec![None; texts.len()];
    for (topic, prompts) in members.iter().enumerate() {
        prompts.iter().for_each(|prompt| of_prompt[*prompt] = Some(topic));
    }
    let words = names::distinctive_words(texts, &of_prompt, members.len());
    let topics = words.into_iter().zip(members).map(|(words, prompts)| Topic { words, prompts }).collect();
    Topics { of_prompt, topics, silhouette: clustering.silhouette }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
