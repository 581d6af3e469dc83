//! `tie_word_embeddings`, by the rule of transformers 5: the tensors that are stored count.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};

use super::config::ModelConfig;
use super::weights::{TensorRef, Weights, decode_f32};

/// The number of elements that are compared at a time.
const CHUNK_ELEMENTS: usize = 1 << 18;

/// Names the output head as the embedding, where the model ties them and stores the head only.
pub(super) fn find_embedding(config: &ModelConfig, weights: &mut Weights) -> Result<(), String> {
    let embedding = config.embedding();
    match weights.get(config.head()) {
        Ok(head) if config.tied_embeddings && !weights.contains(&embedding) => {
            let head = head.clone();
            weights.insert(embedding, head)
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Unties a head that is stored beside different embeddings. Version 0.1 used the embeddings.
pub(super) fn keep_own_head(config: &mut ModelConfig, weights: &Weights) -> Result<(), String> {
    let name = config.head();
    if !config.tied_embeddings || !weights.contains(name) {
        return Ok(());
    }
    let tensor = |name: &str| weights.get(name).map_err(|error| error.to_string());
    let (head, embedding) = (tensor(name)?, tensor(&config.embedding())?);
    if equal(head, embedding).map_err(|error| format!("tensor {name}: {error}"))? {
        return Ok(());
    }
    config.tied_embeddings = false;
    tracing::warn!(
        head = name,
        "using the stored output head, which differs from the embeddings: set tie_word_embeddings to false in config.json"
    );
    Ok(())
}

/// Whether two tensors hold the same numbers.
fn equal(left: &TensorRef, right: &TensorRef) -> std::io::Result<bool> {
    if left == right {
        return Ok(true);
    }
    if left.shape != right.shape {
        return Ok(false);
    }
    let open = |tensor: &TensorRef| -> std::io::Result<_> {
        let mut file = File::open(&tensor.file)?;
        file.seek(SeekFrom::Start(tensor.offset))?;
        Ok(BufReader::new(file.take(tensor.bytes)))
    };
    let (mut left_file, mut right_file) = (open(left)?, open(right)?);
    let mut elements = left.shape.iter().product::<usize>();
    while elements > 0 {
        let count = elements.min(CHUNK_ELEMENTS);
        let mut left_bytes = vec![0; count * left.dtype.size()];
        let mut right_bytes = vec![0; count * right.dtype.size()];
        left_file.read_exact(&mut left_bytes)?;
        right_file.read_exact(&mut right_bytes)?;
        if decode_f32(left.dtype, &left_bytes) != decode_f32(right.dtype, &right_bytes) {
            return Ok(false);
        }
        elements -= count;
    }
    Ok(true)
}
