//! The prompts of a plan as an artifact.

use dissent_domain::plan::PromptSource;
use dissent_domain::prompt::Prompt;
use dissent_storage::ArtifactStore;

/// Stores prompts as an artifact of JSON Lines.
pub(super) fn store(prompts: &[Prompt], artifacts: &ArtifactStore) -> anyhow::Result<PromptSource> {
    let mut lines = Vec::new();
    for prompt in prompts {
        serde_json::to_writer(&mut lines, prompt)?;
        lines.push(b'\n');
    }
    let artifact = artifacts.put_bytes(&lines)?.to_string();
    Ok(PromptSource { artifact, count: u32::try_from(prompts.len())? })
}
