//! The forward pass over packed sequences, with the trained parameters taken from one vector.
//!
//! The families are those of inference ([`crate::arch`]). This file implements their parts without a cache
//! and with a gradient.

use std::collections::BTreeMap;

use crate::adapter::LoraTarget;
use crate::arch::{Forward, hidden_states, logits, rotary_tables, vocabulary_head};
use crate::checkpoint::{ModelConfig, Weights};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::op::RotaryHeads;
use crate::onnx::{Dim, ElementType, Graph, Shape, Value};

use super::parameters::{ParameterLayout, Role};
use super::spec::{PositionReport, TrainingHead};

/// Names of the inputs of every training and evaluation graph.
pub(super) mod names {
    pub(in crate::training) const PARAMETERS: &str = "parameters";
    pub(in crate::training) const IDS: &str = "input_ids";
    pub(in crate::training) const POSITIONS: &str = "position_ids";
    pub(in crate::training) const SELECTED: &str = "selected";
    pub(in crate::training) const SELECTED_INVERSE: &str = "selected_inverse";
    pub(in crate::training) const TARGETS: &str = "targets";
    pub(in crate::training) const QUERY_INDEX: &str = "query_index";
    pub(in crate::training) const QUERY_INVERSE: &str = "query_inverse";
    pub(in crate::training) const KEY_INDEX: &str = "key_index";
    pub(in crate::training) const KEY_INVERSE: &str = "key_inverse";
    /// The shapes of queries and keys in the padded layout.
    pub(in crate::training) const QUERY_SHAPE: &str = "query_shape";
    pub(in crate::training) const KEY_SHAPE: &str = "key_shape";
    pub(in crate::training) const MASK: &str = "mask";
    pub(in crate::training) const WINDOW_MASK: &str = "window_mask";
}

/// A dimension's names in the graph.
pub(super) mod dims {
    use crate::onnx::Dim;

    pub(in crate::training) const TOKENS: Dim = Dim::Named("tokens");
    pub(in crate::training) const SELECTED: Dim = Dim::Named("selected");
    pub(in crate::training) const SEQUENCES: Dim = Dim::Named("sequences");
    pub(super) const LONGEST: Dim = Dim::Named("longest");
    pub(super) const QUERY_ROWS: Dim = Dim::Named("query_rows");
    pub(super) const TOKEN_QUERIES: Dim = Dim::Named("token_queries");
    pub(super) const TOKEN_KEYS: Dim = Dim::Named("token_keys");
    /// Places of one sequence, and of all sequences.
    pub(super) const QUERY_COLUMNS: Dim = Dim::Named("query_columns");
    pub(super) const QUERY_PLACES: Dim = Dim::Named("query_places");
    pub(super) const KEY_COLUMNS: Dim = Dim::Named("key_columns");
    pub(super) const KEY_PLACES: Dim = Dim::Named("key_places");
}

/// The outputs from which a loss is built.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeadOutputs {
    /// `[sequences]`.
    pub(super) scores: Option<Value>,
    /// `[selected]`: log π of each target, in nats.
    pub(super) logprobs: Option<Value>,
    /// `[selected]`.
    pub(super) values: Option<Value>,
    /// `[selected]`: −Σ π log π over the vocabulary, in nats.
    pub(super) entropy: Option<Value>,
    /// `[selected]`: 1 if no token is more likely than the target, else 0.
    pub(super) hits: Option<Value>,
}

/// A forward pass with its inputs.
pub(super) struct ForwardPass {
    pub(super) graph: Graph,
    /// The parameter vector, `[elements]`.
    pub(super) parameters: Value,
    pub(super) outputs: HeadOutputs,
}

/// Options of a forward pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct ForwardOptions {
    pub(super) head: TrainingHead,
    /// Whether layers are marked for recomputation.
    pub(super) recompute: bool,
    /// The additional outputs per position.
    pub(super) report: PositionReport,
    /// The element type of the operands of matrix products. Everything else is of 32 bits.
    pub(super) products: ElementType,
}

/// Builds the forward pass of a model up to the outputs of its head.
pub(super) fn forward_pass(
    config: &ModelConfig,
    weights: &Weights,
    layout: &ParameterLayout,
    options: ForwardOptions,
) -> Result<ForwardPass, ModelError> {
    let mut model = PackedModel::new(config, weights, layout, options)?;
    let hidden = hidden_states(&mut model)?;
    let outputs = match options.head {
        TrainingHead::Score => {
            let head = model.trained(&Role::ScoreHead)?;
            let scores = model.graph.linear(hidden, head)?;
            // One token of each sequence is selected.
            let scores = model.graph.reshape(scores, vec![dims::SEQUENCES])?;
            HeadOutputs { scores: Some(scores), ..HeadOutputs::default() }
        }
        TrainingHead::Vocabulary => model.vocabulary(hidden, options.report)?,
        TrainingHead::VocabularyAndValue => {
            let outputs = model.vocabulary(hidden, options.report)?;
            let head = model.trained(&Role::ValueHead)?;
            let values = model.graph.linear(hidden, head)?;
            HeadOutputs { values: Some(model.graph.squeeze(values, -1)?), ..outputs }
        }
    };
    Ok(ForwardPass { graph: model.graph, parameters: model.parameters, outputs })
}

/// A model under construction.
struct PackedModel<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    layout: &'a ParameterLayout,
    recompute: bool,
    products: ElementType,
    graph: Graph,
    parameters: Value,
    /// The trained tensors, in the order of the layout, with B of a low-rank change already scaled.
    trained: Vec<Value>,
    /// The trained weights by name.
    trained_weights: BTreeMap<&'a str, Value>,
    ids: Value,
    /// The tokens that the head reads, and the index of each token among them, or −1.
    selected: (Value, Value),
    /// The places of the queries in the padded layout, and the inverse.
    queries: (Value, Value),
    keys: (Value, Value),
    mask: Value,
    /// The mask of layers with a window, if there are any.
    window_mask: Option<Value>,
    positions: Value,
    /// Cosines and sines of each rotary embedding.
    rotary: Vec<(Value, Value)>,
}

impl<'a> PackedModel<'a> {
    fn new(
        config: &'a ModelConfig,
        weights: &'a Weights,
        layout: &'a ParameterLayout,
        options: ForwardOptions,
    ) -> Result<Self, ModelError> {
        let mut graph = Graph::new();
        let parameters =
            graph.input(names::PARAMETERS, ElementType::F32, vec![Dim::Fixed(layout.elements())]);
        let mut indices = |name: &str, shape: &[Dim]| graph.input(name, ElementType::I64, shape.to_vec());
        let ids = indices(names::IDS, &[dims::TOKENS]);
        // A score head reads one token of each sequence.
        let selected_dim = match options.head {
            TrainingHead::Score => dims::SEQUENCES,
            TrainingHead::Vocabulary | TrainingHead::VocabularyAndValue => dims::SELECTED,
        };
        let selected =
            (indices(names::SELECTED, &[selected_dim]), indices(names::SELECTED_INVERSE, &[dims::TOKENS]));
        let query_index = indices(names::QUERY_INDEX, &[dims::SEQUENCES, dims::QUERY_COLUMNS]);
        let query_inverse = indices(names::QUERY_INVERSE, &[dims::TOKEN_QUERIES]);
        let key_index = indices(names::KEY_INDEX, &[dims::SEQUENCES, dims::KEY_COLUMNS]);
        let key_inverse = indices(names::KEY_INVERSE, &[dims::TOKEN_KEYS]);
        let positions = indices(names::POSITIONS, &[dims::TOKENS, Dim::Fixed(1)]);
        for (name, rows) in [(names::QUERY_SHAPE, dims::QUERY_ROWS), (names::KEY_SHAPE, dims::LONGEST)] {
            graph.shape_input(name, padded_shape(config, rows));
        }
        let queries = (graph.reshape(query_index, vec![dims::QUERY_PLACES])?, query_inverse);
        let keys = (graph.reshape(key_index, vec![dims::KEY_PLACES])?, key_inverse);
        let mut mask =
            |name: &str| graph.input(name, ElementType::F32, vec![dims::QUERY_ROWS, dims::LONGEST]);
        let window_mask = config.decoder.window().map(|_| mask(names::WINDOW_MASK));
        let mask = mask(names::MASK);
        let rotary = rotary_tables(&mut graph, config, ElementType::F32);
        let trained = trained_tensors(&mut graph, parameters, layout)?;
        let named = layout.parameters().iter().zip(&trained);
        let trained_weights = named
            .filter(|(parameter, _)| parameter.role == Role::Weight)
            .map(|(parameter, &value)| (parameter.name.as_str(), value))
            .collect();
        Ok(Self {
            config,
            weights,
            layout,
            recompute: options.recompute,
            products: options.products,
            graph,
            parameters,
            trained,
            trained_weights,
            ids,
            selected,
            queries,
            keys,
            mask,
            window_mask,
            positions,
            rotary,
        })
    }

    fn trained(&self, role: &Role) -> Result<Value, ModelError> {
        let found = self.layout.position(role).and_then(|index| self.trained.get(index));
        found
            .copied()
            .ok_or_else(|| ModelError::invalid(InvalidKind::Graph, format!("{role:?} is not trained")))
    }

    fn vocabulary(&mut self, hidden: Value, report: PositionReport) -> Result<HeadOutputs, ModelError> {
        let logits = logits(self, hidden, &vocabulary_head(self.config, self.weights)?)?;
        token_outputs(&mut self.graph, logits, report)
    }

    /// Heads `[tokens, heads · head_dim]` in the padded layout, `[sequences, kv_heads, rows, head_dim]`.
    fn padded(&mut self, x: Value, rows: (Dim, Value, Value), tokens: Dim) -> Result<Value, ModelError> {
        let (row_dim, index, inverse) = rows;
        let heads = self.graph.reshape(x, vec![tokens, Dim::Fixed(self.config.head_dim)])?;
        let places = self.graph.gather_padded(heads, index, inverse);
        self.graph.reshape(places, padded_shape(self.config, row_dim))
    }

    /// The rows of a table. Where products are of 16 bits, a table that is not trained stays as stored.
    fn embedded(&mut self, table: &str, rows: Value) -> Result<Value, ModelError> {
        let table = match self.trained_weights.get(table) {
            Some(&trained) => trained,
            None if self.products == ElementType::F32 => self.weight(table)?,
            None => {
                let stored = self.weights.get(table)?;
                self.graph.weight_in(stored.dtype.into(), table, stored)
            }
        };
        let rows = self.graph.gather(table, rows);
        Ok(self.graph.cast(rows, ElementType::F32))
    }

    /// alpha · a · b over the last two axes, computed in the element type of products.
    fn attention_product(&mut self, a: Value, b: (Value, bool), alpha: f32) -> Result<Value, ModelError> {
        let (b, transpose_b) = b;
        let (a, b) = (self.graph.cast(a, self.products), self.graph.cast(b, self.products));
        let product = self.graph.product((a, false), (b, transpose_b), alpha)?;
        Ok(self.graph.cast(product, ElementType::F32))
    }

    fn rotated(&mut self, x: Value, heads: usize, rope: usize) -> Result<Value, ModelError> {
        let width = Dim::Fixed(heads * self.config.head_dim);
        // Each token is its own sequence for the operator, which refuses sequences longer than its tables.
        let column = self.graph.reshape(x, vec![dims::TOKENS, Dim::Fixed(1), width])?;
        let decoder = &self.config.decoder;
        let (dims, interleaved) = (decoder.ropes[rope].rotary_dims, decoder.interleaved);
        let heads = RotaryHeads { heads, dims, interleaved };
        Ok(self.graph.rotary(column, self.positions, self.rotary[rope], heads))
    }
}

impl Forward for PackedModel<'_> {
    fn config(&self) -> &ModelConfig {
        self.config
    }

    fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }

    fn token_shape(&self) -> Shape {
        vec![dims::TOKENS]
    }

    fn weight(&mut self, name: &str) -> Result<Value, ModelError> {
        if let Some(&trained) = self.trained_weights.get(name) {
            return Ok(trained);
        }
        Ok(self.graph.weight(name, self.weights.get(name)?))
    }

    fn product(&mut self, x: Value, weight: &str, inputs_first: bool) -> Result<Value, ModelError> {
        let weight = match self.trained_weights.get(weight) {
            Some(&trained) => self.graph.cast(trained, self.products),
            None => self.graph.weight_in(self.products, weight, self.weights.get(weight)?),
        };
        let x = self.graph.cast(x, self.products);
        let y = if inputs_first { self.graph.matmul(x, weight)? } else { self.graph.linear(x, weight)? };
        Ok(self.graph.cast(y, ElementType::F32))
    }

    fn embedding(&mut self, table: &str) -> Result<Value, ModelError> {
        self.embedded(table, self.ids)
    }

    fn position_embedding(&mut self, table: &str) -> Result<Value, ModelError> {
        let positions = self.graph.reshape(self.positions, vec![dims::TOKENS])?;
        self.embedded(table, positions)
    }

    fn low_rank(&mut self, target: LoraTarget) -> Result<Option<(Value, Value)>, ModelError> {
        if self.layout.scaling(&target).is_none() {
            return Ok(None);
        }
        let (a, b) = (self.trained(&Role::LoraA(target.clone()))?, self.trained(&Role::LoraB(target))?);
        Ok(Some((a, b)))
    }

    fn attention(
        &mut self,
        layer: usize,
        mut query: Value,
        mut key: Value,
        value: Value,
    ) -> Result<Value, ModelError> {
        let ModelConfig { heads, kv_heads, head_dim, ref decoder, .. } = *self.config;
        let place = decoder.layers[layer];
        let (scale, cap) = (decoder.attention_scale, decoder.score_cap);
        if let Some(rope) = place.rope {
            query = self.rotated(query, heads, rope)?;
            key = self.rotated(key, kv_heads, rope)?;
        }
        let ((query_index, query_inverse), (key_index, key_inverse)) = (self.queries, self.keys);
        let query =
            self.padded(query, (dims::QUERY_ROWS, query_index, query_inverse), dims::TOKEN_QUERIES)?;
        let keys = (dims::LONGEST, key_index, key_inverse);
        let key = self.padded(key, keys, dims::TOKEN_KEYS)?;
        let value = self.padded(value, keys, dims::TOKEN_KEYS)?;
        let mut scores = self.attention_product(query, (key, true), scale)?;
        if let Some(cap) = cap {
            scores = self.graph.soft_cap(scores, cap);
        }
        let mask = self.window_mask.filter(|_| place.window.is_some()).unwrap_or(self.mask);
        let masked = self.graph.add(scores, mask)?;
        let attention = self.graph.softmax(masked);
        let mixed = self.attention_product(attention, (value, false), 1.0)?;
        let places = self.graph.reshape(mixed, vec![dims::QUERY_PLACES, Dim::Fixed(head_dim)])?;
        let rows = self.graph.gather_paired(places, query_inverse, query_index);
        self.graph.reshape(rows, vec![dims::TOKENS, Dim::Fixed(heads * head_dim)])
    }

    /// Two operators, which have gradients.
    fn add_rms_norm(&mut self, x: Value, y: Value, weight: Value) -> Result<(Value, Value), ModelError> {
        let sum = self.graph.add(x, y)?;
        Ok((self.graph.rms_norm(sum, weight, self.config.decoder.norm_epsilon), sum))
    }

    fn select_positions(&mut self, x: Value) -> Result<Value, ModelError> {
        let (selected, inverse) = self.selected;
        Ok(self.graph.gather_paired(x, selected, inverse))
    }

    /// Begins a segment, except for the last layer: the backward pass reads that layer first.
    fn begin_layer(&mut self, layer: usize) {
        if !self.recompute {
            return;
        }
        if layer + 1 < self.config.layers {
            self.graph.begin_segment();
        } else {
            self.graph.end_segment();
        }
    }
}

/// The padded layout of queries or keys: `[sequences, kv_heads, rows, head_dim]`.
fn padded_shape(config: &ModelConfig, rows: Dim) -> Shape {
    vec![dims::SEQUENCES, Dim::Fixed(config.kv_heads), rows, Dim::Fixed(config.head_dim)]
}

/// Returns the outputs per target from logits `[selected, vocabulary]`.
fn token_outputs(
    graph: &mut Graph,
    logits: Value,
    report: PositionReport,
) -> Result<HeadOutputs, ModelError> {
    let all = graph.log_softmax(logits);
    let targets = graph.input(names::TARGETS, ElementType::I64, vec![dims::SELECTED, Dim::Fixed(1)]);
    let of_targets = graph.gather_elements(all, targets)?;
    let logprobs = graph.squeeze(of_targets, -1)?;
    let entropy = report.entropy.then(|| entropy(graph, all)).transpose()?;
    let hits = report.hits.then(|| hits(graph, all, of_targets)).transpose()?;
    Ok(HeadOutputs { logprobs: Some(logprobs), entropy, hits, ..HeadOutputs::default() })
}

/// The number of vocabulary columns whose share of the entropy is computed at a time. All columns together
/// would need as much memory again as the log-probabilities.
const ENTROPY_COLUMNS: usize = 8192;

/// −Σ π log π of each row of log-probabilities `[selected, vocabulary]`, `[selected]`.
fn entropy(graph: &mut Graph, logprobs: Value) -> Result<Value, ModelError> {
    let vocabulary = match graph.info(logprobs).shape.last() {
        Some(Dim::Fixed(vocabulary)) => *vocabulary,
        Some(Dim::Named(_)) | None => 0,
    };
    let mut total: Option<Value> = None;
    for start in (0..vocabulary).step_by(ENTROPY_COLUMNS) {
        let end = vocabulary.min(start + ENTROPY_COLUMNS);
        let part =
            if end - start == vocabulary { logprobs } else { graph.slice_last(logprobs, start, end)? };
        let probabilities = graph.exp(part);
        let products = graph.mul(probabilities, part)?;
        let sum = graph.sum(products, &[-1], false)?;
        total = Some(match total {
            Some(total) => graph.add(total, sum)?,
            None => sum,
        });
    }
    let total = total.ok_or_else(|| {
        ModelError::invalid(InvalidKind::Unsupported, "a model needs at least one vocabulary column")
    })?;
    Ok(graph.neg(total))
}

/// 1 for each row of log-probabilities `[selected, vocabulary]` whose target is the greatest, else 0:
/// `[selected]`. The targets' own are `[selected, 1]`.
fn hits(graph: &mut Graph, logprobs: Value, of_targets: Value) -> Result<Value, ModelError> {
    let greatest = graph.greatest(logprobs)?;
    let hits = graph.less_or_equal(greatest, of_targets)?;
    graph.squeeze(hits, -1)
}

/// Returns the tensors of the parameter vector, in the order of the layout and each in its shape, with B of a
/// low-rank change scaled.
fn trained_tensors(
    graph: &mut Graph,
    parameters: Value,
    layout: &ParameterLayout,
) -> Result<Vec<Value>, ModelError> {
    let sizes: Vec<usize> = layout.parameters().iter().map(super::parameters::Parameter::elements).collect();
    let parts = graph.split(parameters, 0, &sizes)?;
    let mut tensors = Vec::with_capacity(parts.len());
    for (parameter, part) in layout.parameters().iter().zip(parts) {
        let shape = parameter.shape.iter().map(|&size| Dim::Fixed(size)).collect();
        let tensor = graph.reshape(part, shape)?;
        let scaling = match &parameter.role {
            Role::LoraB(target) => layout.scaling(target),
            Role::LoraA(_) | Role::ScoreHead | Role::ValueHead | Role::Weight => None,
        };
        tensors.push(scaling.map_or(tensor, |scaling| graph.scale(tensor, scaling)));
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::LN_2;

    use super::*;
    use crate::onnx::reference::evaluate;
    use crate::onnx::reference::tensor::Tensor;

    #[test]
    fn hits_are_most_likely_targets_and_entropies_are_in_nats() {
        let mut graph = Graph::new();
        let logits = graph.input("logits", ElementType::F32, vec![dims::SELECTED, Dim::Fixed(3)]);
        let report = PositionReport { entropy: true, hits: true };
        let outputs = token_outputs(&mut graph, logits, report).expect("outputs");
        // Probabilities: (1/4, 1/2, 1/4) with its most likely token, a third each, (1/2, 1/8, 3/8) with its
        // second most likely.
        let rows = [0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 4.0, 1.0, 3.0_f64];
        let rows = rows.map(|weight| if weight > 0.0 { weight.ln() } else { 0.0 });
        let inputs = [
            ("logits".to_owned(), Tensor::new([3, 3], rows.to_vec())),
            (names::TARGETS.to_owned(), Tensor::new([3, 1], vec![1.0, 2.0, 2.0])),
        ];
        let run = evaluate(&graph, &BTreeMap::from(inputs));
        let numbers = |value: Option<Value>| run.get(value.expect("it is there")).data.clone();
        assert_eq!(numbers(outputs.hits), [1.0, 1.0, 0.0]);
        for (found, expected) in [
            (numbers(outputs.entropy), [1.039_721, 1.098_612, 0.974_315]),
            (numbers(outputs.logprobs), [-LN_2, -1.098_612, -0.980_829]),
        ] {
            assert!(found.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6), "{found:?} {expected:?}");
        }
    }
}
