//! Decoder models as graphs.
//!
//! All families have one forward pass and the same interface. The inputs are token ids and a key-value cache;
//! the outputs are the extended cache and the head's outputs at the selected positions. Generation, scoring
//! of completions and reward models all use this graph.

mod decoder;
mod forward;
mod score;

use crate::adapter::{LoraAdapter, LoraPair, LoraTarget};
use crate::checkpoint::{Dtype, ModelConfig, Rope, Weights};
use crate::error::{InvalidKind, ModelError};
use crate::onnx::graph::AttentionCache;
use crate::onnx::op::{AttentionRule, RotaryHeads};
use crate::onnx::{Dim, ElementType, Graph, Shape, Value};

pub(crate) use decoder::{hidden_states, logits};
pub(crate) use forward::Forward;

/// The longest sequence that the rotary tables of a graph cover, in tokens.
pub const POSITIONS_MAX: usize = 32_768;

/// Names of the graph's inputs and outputs.
pub mod names {
    /// `[batch, seq]`, 32-bit integers.
    pub const INPUT_IDS: &str = "input_ids";
    /// `[batch, seq]`, 64-bit integers; only where [`super::DecoderGraph::needs_positions`].
    pub const POSITION_IDS: &str = "position_ids";
    /// `[batch]`, 32-bit integers: each row's length after this run, minus one.
    pub const SEQLENS_K: &str = "seqlens_k";
    /// `[1]`, a 32-bit integer: the longest length after this run.
    pub const TOTAL_SEQUENCE_LENGTH: &str = "total_sequence_length";
    /// `[selected]`, 32-bit integers: the indices, among the batch · seq positions in row-major order, for
    /// which the head is computed.
    pub const SELECTED: &str = "selected";
    /// `[selected, 1]`, 32-bit integers: the tokens whose log-probabilities are computed.
    pub const TARGETS: &str = "targets";
    /// `[selected, vocabulary, labels or 1]`, 32-bit floats.
    pub const OUTPUT: &str = "output";
    /// `[labels, hidden]`: the score head, if an adapter provides it.
    pub const SCORE: &str = "score.weight";

    /// `[batch, kv_heads, capacity, head_dim]`, one per layer.
    #[must_use]
    pub fn past(layer: usize) -> [String; 2] {
        [format!("past.{layer}.key"), format!("past.{layer}.value")]
    }

    /// Returns the cache after the run, in the shape of [`past`].
    #[must_use]
    pub fn present(layer: usize) -> [String; 2] {
        [format!("present.{layer}.key"), format!("present.{layer}.value")]
    }

    /// `A [rank, in]` and `B [out, rank]` of a LoRA target, with B already scaled.
    #[must_use]
    pub fn lora(target: &crate::adapter::LoraTarget) -> [String; 2] {
        ["a", "b"].map(|side| format!("lora.{}.{}.{side}", target.layer, target.module))
    }
}

/// The head on top of the last hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Logits over the vocabulary.
    Vocabulary,
    /// The log-probability of one given token at each position, in nats.
    Logprobs,
    /// The outputs of a sequence-classification head.
    Score,
}

/// A decoder's graph, with the facts that are needed to run it.
#[derive(Debug, Clone)]
pub struct DecoderGraph {
    /// The graph, with the inputs and outputs of [`names`].
    pub graph: Graph,
    /// Whether [`names::POSITION_IDS`] is an input. The attention operator cannot rotate heads of unusual
    /// widths itself.
    pub needs_positions: bool,
    /// Width of the output: the vocabulary, the number of labels, or 1 for log-probabilities.
    pub output_width: usize,
}

/// How the weights of an adapter are part of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterPlace {
    /// As inputs: adapters with the same targets can be swapped in one session.
    Inputs,
    /// As constants. A session packs them into the layout in which a product's rows do not depend on the
    /// number of rows.
    Constants,
}

/// B of a low-rank change, times its scaling.
pub(crate) fn scaled_b(pair: &LoraPair) -> Vec<f32> {
    pair.b.iter().map(|number| number * pair.scaling).collect()
}

/// Builds the graph of a model with a head and the low-rank changes of the adapter.
///
/// Hidden states, products and the cache have the element type `element`. Outputs are 32-bit floats.
///
/// # Errors
/// [`ModelError::Invalid`] for missing tensors, shapes that do not match, or sizes that the operators do not
/// support.
pub fn decoder_graph(
    config: &ModelConfig,
    weights: &Weights,
    adapter: Option<&LoraAdapter>,
    adapter_place: AdapterPlace,
    head: Head,
    element: ElementType,
) -> Result<DecoderGraph, ModelError> {
    if let Some(adapter) = adapter {
        adapter.check(config)?;
    }
    let mut decoder = Decoder::new(config, weights, adapter, adapter_place, element)?;
    let hidden = hidden_states(&mut decoder)?;
    let output = match head {
        Head::Score => {
            let (class, own) = (config.class.as_deref(), adapter.and_then(|adapter| adapter.score.as_ref()));
            let hidden = decoder.graph.cast(hidden, ElementType::F32);
            score::scores(&mut decoder.graph, hidden, weights, class, own)?
        }
        Head::Vocabulary => logits(&mut decoder, hidden, &vocabulary_head(config, weights)?)?,
        Head::Logprobs => {
            let logits = logits(&mut decoder, hidden, &vocabulary_head(config, weights)?)?;
            let shape = vec![Dim::Named("selected"), Dim::Fixed(1)];
            let targets = decoder.graph.input(names::TARGETS, ElementType::I32, shape);
            let logprobs = decoder.graph.log_softmax(logits);
            decoder.graph.gather_elements(logprobs, targets)?
        }
    };
    let output_width = match decoder.graph.info(output).shape.last() {
        Some(Dim::Fixed(width)) => *width,
        Some(Dim::Named(_)) | None => 0,
    };
    decoder.graph.output(output, names::OUTPUT);
    let needs_positions = decoder.needs_positions();
    Ok(DecoderGraph { graph: decoder.graph, needs_positions, output_width })
}

/// Returns the name of the tensor of the vocabulary head.
///
/// # Errors
/// [`ModelError::Invalid`] if there is none: the checkpoint was saved without its head.
pub(crate) fn vocabulary_head(config: &ModelConfig, weights: &Weights) -> Result<String, ModelError> {
    let head = config.head();
    match (config.tied_embeddings, weights.contains(head)) {
        (true, _) => Ok(config.embedding()),
        (false, true) => Ok(head.to_owned()),
        (false, false) => Err(ModelError::invalid(
            InvalidKind::MissingTensor,
            format!("the checkpoint has no language head ({head}): a policy needs one"),
        )),
    }
}

/// A decoder under construction.
struct Decoder<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    adapter: Option<&'a LoraAdapter>,
    adapter_place: AdapterPlace,
    element: ElementType,
    graph: Graph,
    input_ids: Value,
    selected: Value,
    seqlens_k: Value,
    total_sequence_length: Value,
    /// Cosines and sines of each rotary embedding.
    rotary: Vec<(Value, Value)>,
    /// Whether the attention operator rotates.
    rotates: bool,
    /// The positions of the tokens, if the attention operator cannot rotate or positions are learned.
    position_ids: Option<Value>,
}

impl<'a> Decoder<'a> {
    fn new(
        config: &'a ModelConfig,
        weights: &'a Weights,
        adapter: Option<&'a LoraAdapter>,
        adapter_place: AdapterPlace,
        element: ElementType,
    ) -> Result<Self, ModelError> {
        if !config.head_dim.is_multiple_of(8) {
            return Err(ModelError::invalid(
                InvalidKind::Unsupported,
                format!(
                    "heads of width {} are not supported: the width must be a multiple of 8",
                    config.head_dim
                ),
            ));
        }
        let mut graph = Graph::new();
        let ids_shape = vec![Dim::Named("batch"), Dim::Named("seq")];
        let input_ids = graph.input(names::INPUT_IDS, ElementType::I32, ids_shape.clone());
        let selected = graph.input(names::SELECTED, ElementType::I32, vec![Dim::Named("selected")]);
        let seqlens_k = graph.input(names::SEQLENS_K, ElementType::I32, vec![Dim::Named("batch")]);
        let total_sequence_length =
            graph.input(names::TOTAL_SEQUENCE_LENGTH, ElementType::I32, vec![Dim::Fixed(1)]);
        // The attention operator rotates blocks of 16 dimensions.
        let whole_blocks = |rope: &Rope| rope.rotary_dims.is_multiple_of(16);
        let rotates = config.head_dim.is_multiple_of(16) && config.decoder.ropes.iter().all(whole_blocks);
        let needed = !rotates || config.positions().is_some();
        let position_ids = needed.then(|| graph.input(names::POSITION_IDS, ElementType::I64, ids_shape));
        let rotary = rotary_tables(&mut graph, config, element);
        Ok(Self {
            config,
            weights,
            adapter,
            adapter_place,
            element,
            graph,
            input_ids,
            selected,
            seqlens_k,
            total_sequence_length,
            rotary,
            rotates,
            position_ids,
        })
    }

    fn needs_positions(&self) -> bool {
        self.position_ids.is_some()
    }
}

impl Forward for Decoder<'_> {
    fn config(&self) -> &ModelConfig {
        self.config
    }

    fn graph(&mut self) -> &mut Graph {
        &mut self.graph
    }

    fn element(&self) -> ElementType {
        self.element
    }

    fn token_shape(&self) -> Shape {
        vec![Dim::Named("batch"), Dim::Named("seq")]
    }

    fn weight(&mut self, name: &str) -> Result<Value, ModelError> {
        Ok(self.graph.weight_in(self.element, name, self.weights.get(name)?))
    }

    fn product(&mut self, x: Value, weight: &str, inputs_first: bool) -> Result<Value, ModelError> {
        match self.weights.packed(weight) {
            Some(matrix) => self.graph.packed_linear(x, weight, matrix),
            None => forward::product_of_floats(self, x, weight, inputs_first),
        }
    }

    fn embedding(&mut self, table: &str) -> Result<Value, ModelError> {
        if let Some(matrix) = self.weights.only_packed(table) {
            return self.graph.packed_rows(table, matrix, self.input_ids);
        }
        let table = self.weight(table)?;
        Ok(self.graph.gather(table, self.input_ids))
    }

    fn position_embedding(&mut self, table: &str) -> Result<Value, ModelError> {
        let table = self.weight(table)?;
        let positions = self.position_ids.ok_or_else(|| {
            ModelError::invalid(InvalidKind::Graph, "the graph has no positions for the learned table")
        })?;
        Ok(self.graph.gather(table, positions))
    }

    fn low_rank(&mut self, target: LoraTarget) -> Result<Option<(Value, Value)>, ModelError> {
        let Some(pair) = self.adapter.and_then(|adapter| adapter.layers.get(&target)) else {
            return Ok(None);
        };
        let [a, b] = names::lora(&target);
        let (a_shape, b_shape) = ([pair.rank, pair.inputs], [pair.outputs, pair.rank]);
        let (a, b) = match self.adapter_place {
            AdapterPlace::Inputs => (
                self.graph.input(a, ElementType::F32, a_shape.map(Dim::Fixed).to_vec()),
                self.graph.input(b, ElementType::F32, b_shape.map(Dim::Fixed).to_vec()),
            ),
            AdapterPlace::Constants => (
                self.graph.constant_f32(&a, &a_shape, &pair.a),
                self.graph.constant_f32(&b, &b_shape, &scaled_b(pair)),
            ),
        };
        Ok(Some((self.graph.cast(a, self.element), self.graph.cast(b, self.element))))
    }

    /// Extends the layer's cache.
    fn attention(
        &mut self,
        layer: usize,
        mut query: Value,
        mut key: Value,
        value: Value,
    ) -> Result<Value, ModelError> {
        let ModelConfig { heads, kv_heads, head_dim, ref decoder, .. } = *self.config;
        let place = decoder.layers[layer];
        let tables = place.rope.map(|index| (self.rotary[index], decoder.ropes[index].rotary_dims));
        if let (Some((tables, dims)), Some(positions), false) = (tables, self.position_ids, self.rotates) {
            let part = |heads| RotaryHeads { heads, dims, interleaved: decoder.interleaved };
            query = self.graph.rotary(query, positions, tables, part(heads));
            key = self.graph.rotary(key, positions, tables, part(kv_heads));
        }
        let shape =
            vec![Dim::Named("batch"), Dim::Fixed(kv_heads), Dim::Named("capacity"), Dim::Fixed(head_dim)];
        let [past_key, past_value] =
            names::past(layer).map(|name| self.graph.input(name, self.element, shape.clone()));
        let cache = AttentionCache {
            past_key,
            past_value,
            seqlens_k: self.seqlens_k,
            total_sequence_length: self.total_sequence_length,
            rotary: tables.filter(|_| self.rotates).map(|(tables, _)| tables),
        };
        #[expect(clippy::cast_precision_loss, reason = "a head has far fewer than 2²⁴ dimensions")]
        let usual = (head_dim as f32).sqrt().recip();
        let rule = AttentionRule {
            scale: Some(decoder.attention_scale).filter(|scale| scale.to_bits() != usual.to_bits()),
            cap: decoder.score_cap,
            window: place.window,
            interleaved: decoder.interleaved,
        };
        let (output, present_key, present_value) =
            self.graph.group_query_attention(query, key, value, &cache, rule)?;
        let [key_name, value_name] = names::present(layer);
        self.graph.output(present_key, &key_name);
        self.graph.output(present_value, &value_name);
        Ok(output)
    }

    fn select_positions(&mut self, x: Value) -> Result<Value, ModelError> {
        let width = self.graph.info(x).shape.last().copied().unwrap_or(Dim::Fixed(1));
        let rows = self.graph.reshape(x, vec![Dim::Named("rows"), width])?;
        Ok(self.graph.gather(rows, self.selected))
    }

    fn add_rms_norm(&mut self, x: Value, y: Value, weight: Value) -> Result<(Value, Value), ModelError> {
        Ok(self.graph.add_rms_norm(x, y, weight, self.config.decoder.norm_epsilon))
    }
}

/// Returns the cosines and sines of all positions, `[positions, rotary_dims / 2]`, for each rotary embedding.
/// They are computed in 64 bits.
pub(crate) fn rotary_tables(
    graph: &mut Graph,
    config: &ModelConfig,
    element: ElementType,
) -> Vec<(Value, Value)> {
    let positions = config.context_length.min(POSITIONS_MAX);
    let mut tables = Vec::with_capacity(config.decoder.ropes.len());
    for (index, rope) in config.decoder.ropes.iter().enumerate() {
        let frequencies = rope.inverse_frequencies();
        let angles = (0..positions).flat_map(|position| {
            // Frequency and angle are rounded to 32 bits, because the models were trained with these
            // roundings.
            frequencies
                .iter()
                .map(move |&frequency| f64::from(round(round(frequency) as f64 * position as f64)))
        });
        let magnitude = rope.magnitude();
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|angle| (round(angle.cos() * magnitude), round(angle.sin() * magnitude))).unzip();
        let shape = [positions, frequencies.len()];
        let [cos, sin] = [("cos", cos), ("sin", sin)].map(|(name, table)| {
            let table = graph.constant_f32(&format!("rotary.{index}.{name}"), &shape, &table);
            graph.cast(table, element)
        });
        tables.push((cos, sin));
    }
    tables
}

#[expect(clippy::cast_possible_truncation, reason = "the function rounds to 32 bits")]
fn round(number: f64) -> f32 {
    number as f32
}

/// Size of the key-value cache of one token, in bytes, for elements of this type.
#[must_use]
pub fn cache_bytes_per_token(config: &ModelConfig, element: Dtype) -> usize {
    2 * config.layers * config.kv_heads * config.head_dim * element.size()
}
