//! The form of a policy's weights while it samples.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The form of a policy's weights while it samples.
///
/// Other forms than [`WeightForm::F32`] need less memory and decode faster, and make a slightly different
/// policy. Scoring and training always use 32-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightForm {
    /// 32-bit floats.
    #[default]
    F32,
    /// The numbers of a quantised GGUF file, without dequantising them. Inputs of products are rounded to 8
    /// bits.
    AsStored,
    /// 8-bit integers in blocks of 32, from the weights of any checkpoint. Inputs of products are rounded to
    /// 8 bits.
    Int8,
}

impl WeightForm {
    /// Whether it is the default, which plans do not write.
    #[must_use]
    pub const fn is_f32(&self) -> bool {
        matches!(self, Self::F32)
    }
}

impl fmt::Display for WeightForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::AsStored => "as-stored",
            Self::Int8 => "int8",
        })
    }
}

/// The name of no weight form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown weights {0:?}: use f32, as-stored or int8")]
pub struct UnknownWeightForm(String);

impl FromStr for WeightForm {
    type Err = UnknownWeightForm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::F32, Self::AsStored, Self::Int8];
        known
            .into_iter()
            .find(|form| form.to_string() == text)
            .ok_or_else(|| UnknownWeightForm(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_in_plans_and_options() {
        for (form, name) in
            [(WeightForm::F32, "f32"), (WeightForm::AsStored, "as-stored"), (WeightForm::Int8, "int8")]
        {
            assert_eq!(serde_json::to_value(form).unwrap(), name);
            assert_eq!(name.parse(), Ok(form));
        }
        assert!("q4".parse::<WeightForm>().unwrap_err().to_string().contains("as-stored"));
    }
}
