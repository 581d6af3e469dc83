//! Configuration keys with paths.

/// The keys of `dissent run` whose values are paths, with their sections.
pub(super) const PATHS: [(&str, &str); 11] = [
    ("prompts", "path"),
    ("policy", "path"),
    ("policy", "adapter"),
    ("reward", "path"),
    ("reward", "adapter"),
    ("gold", "path"),
    ("gold", "adapter"),
    ("refinement", "data"),
    ("evaluation", "prompts"),
    ("runtime", "onnxruntime"),
    ("experiment", "data_dir"),
];
