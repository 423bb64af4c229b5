"""The model card that a run writes about itself."""

from collections.abc import Mapping
from typing import Any

from eru.lm.recipes import Recipe


def model_card(recipe: Recipe, corpus: str, result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Markdown that says what the model is, what it was trained on and how well it does.

    Args:
        recipe: the numbers of the training.
        corpus: name of the text.
        result: the fields of :class:`eru.lm.train.Result`.
        config: of the run folder.
    """
    kind = "ERU" if recipe.cell == "eru" else "LSTM"
    used = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    start = f"from the weights of the run `{config['start']['run']}`, " if "start" in config else ""
    return f"""# {kind} language model, recipe `{recipe.name}`

A {recipe.num_layers}-layer {kind} language model with an embedding of {recipe.embedding_size} tied to the softmax,
{result["parameters"]:,} parameters in all, over {recipe.tokenizer} tokens.

| | |
|---|---|
| corpus | {corpus}, {result["train_tokens"]:,} training tokens |
| fingerprint of the corpus | `{result["fingerprint"]}` |
| training | {start}{result["epochs"]} epochs, {result["steps"]} steps, seed {recipe.seed} |
| training perplexity (last epoch, with dropout) | {result["train_perplexity"]:.2f} |
| validation perplexity (best epoch) | {result["valid_perplexity"]:.2f} |
| unigram and bigram, same text | {result["unigram_perplexity"]:.2f} and {result["bigram_perplexity"]:.2f} |
| unknown tokens in the validation text | {result["unknown_rate"]:.2%} |
| made with | {used} |

Perplexities are per {recipe.tokenizer} token and compare only with those of the same tokens. `lm-eval` gives exact
ones, and bits per byte, which compare between tokenizers.

The model predicts the next token of text like its corpus. It states no facts, and it repeats whatever biases and
errors that text has. The rights to the text are those of its authors; see the corpus.

`config.json` holds every number of the training, `metrics.jsonl` its course.
"""
