//! PEFT LoRA adapters: low-rank changes of a model's projections (arXiv 2106.09685), and the score head of a
//! reward model.

mod config;
mod lora;
mod patterns;
mod read;
mod settings;
mod slots;
mod value_head;
mod write;

pub use lora::{AdapterTask, LoraAdapter, LoraPair, LoraTarget, ScoreHead};
pub use slots::{Adapters, LoraSlots};
pub use value_head::ValueHead;

#[cfg(test)]
mod tests;
