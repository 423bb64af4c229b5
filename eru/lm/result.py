"""What a training came to, and the model card that a run writes about itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from eru.lm.evaluation import perplexity_of
from eru.lm.model import LanguageModel
from eru.lm.ngram import bigram_perplexity, unigram_perplexity
from eru.lm.recipes import Recipe
from eru.lm.run import LanguageModelRun
from eru.lm.text.corpus import Corpus
from eru.lm.text.tokens import TokenSplit
from eru.training import Ranks, TrainingState, has_stalled


@dataclass(frozen=True)
class Result:
    """What a training run came to.

    Attributes:
        run: The run folder.
        parameters: The parameters of the model, tied ones once.
        finished: Whether the training is over; otherwise a resumed call goes on.
        epochs: The epochs completed.
        steps: The steps done.
        train_tokens: The tokens of the training text.
        fingerprint: The fingerprint of the corpus.
        train_perplexity: The mean over the last epoch, with dropout.
        sampled: Whether a training step looks at a sample of the words, so that this mean is an estimate.
        valid_perplexity: That of the saved weights, the best of the run, as validated during training.
        unigram_perplexity: That of the validation text under word frequencies alone.
        bigram_perplexity: That of the validation text under an interpolated bigram model.
        unknown_rate: The share of unknown tokens in the validation text.
        tokens_per_second: The speed of the training, validation left out.
    """

    run: str
    parameters: int
    finished: bool
    epochs: int
    steps: int
    train_tokens: int
    fingerprint: str
    train_perplexity: float
    sampled: bool
    valid_perplexity: float
    unigram_perplexity: float
    bigram_perplexity: float
    unknown_rate: float
    tokens_per_second: float


def is_finished(recipe: Recipe, epoch: int, history: Sequence[float]) -> bool:
    """Whether a run has done its epochs, or validation has stalled for as long as the recipe has patience."""
    return epoch >= recipe.epochs or (recipe.patience > 0 and has_stalled(history, recipe.patience))


def result_of(
    run: LanguageModelRun, corpus: Corpus, splits: Mapping[str, TokenSplit], state: TrainingState, ranks: Ranks
) -> Result:
    """What a run has come to so far."""
    position, vocabulary = state.position, run.tokenizer.vocab_size
    ids, valid = splits["train"].ids, splits["valid"].ids
    return Result(
        run=str(run.folder.path),
        parameters=sum(p.numel() for p in state.model.parameters()),
        finished=is_finished(run.recipe, position.epoch, position.history),
        epochs=position.epoch,
        steps=position.step,
        train_tokens=len(ids),
        fingerprint=corpus.fingerprint,
        train_perplexity=perplexity_of(ranks.mean(position.running_loss)),
        sampled=cast(LanguageModel, state.model).chances is not None,
        valid_perplexity=perplexity_of(position.best),
        unigram_perplexity=unigram_perplexity(ids, valid, vocabulary),
        bigram_perplexity=bigram_perplexity(ids, valid, vocabulary),
        unknown_rate=splits["valid"].unknown_rate,
        tokens_per_second=position.rate,
    )


def how_trained(result: Result) -> str:
    """How the training perplexity was measured."""
    return "with dropout, estimated from samples of the words" if result.sampled else "with dropout"


def model_card(recipe: Recipe, corpus: Corpus, result: Result, config: Mapping[str, Any]) -> str:
    """Markdown that says what the model is, what it was trained on and how well it does; of its folder's config."""
    kind = "ERU" if recipe.cell == "eru" else "LSTM"
    used = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    start = f"from the weights of the run `{config['start']['run']}`, " if "start" in config else ""
    return f"""# {kind} language model, recipe `{recipe.name}`

A {recipe.num_layers}-layer {kind} language model with an embedding of {recipe.embedding_size} tied to the softmax,
{result.parameters:,} parameters in all, over {recipe.tokenizer} tokens.

| | |
|---|---|
| corpus | {corpus.name}, {result.train_tokens:,} training tokens |
| fingerprint of the corpus | `{result.fingerprint}` |
| training | {start}{result.epochs} epochs, {result.steps} steps, seed {recipe.seed} |
| training perplexity (last epoch, {how_trained(result)}) | {result.train_perplexity:.2f} |
| validation perplexity (best epoch) | {result.valid_perplexity:.2f} |
| baseline that counts tokens (unigram), same text | {result.unigram_perplexity:.2f} |
| baseline that counts pairs of them (bigram), same text | {result.bigram_perplexity:.2f} |
| unknown tokens in the validation text | {result.unknown_rate:.2%} |
| made with | {used} |

Perplexities are per {recipe.tokenizer} token and compare only with those of the same tokens. `lm-eval` gives exact
ones, and bits per byte, which compare between tokenizers.

The model predicts the next token of text like its corpus. It states no facts, and it repeats whatever biases and
errors that text has. The rights to the text are those of its authors; see the corpus.

`config.json` holds every number of the training, `metrics.jsonl` its course.
"""
