"""Training a language model: from a recipe and a corpus to a run folder, and the loop in between."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from eru.lm.batches import Streams, segments
from eru.lm.build import build_model, check_model_fits
from eru.lm.evaluation import perplexity_of
from eru.lm.model import LanguageModel
from eru.lm.recipes import Recipe, make_recipe
from eru.lm.result import Result, is_finished, model_card, result_of
from eru.lm.run import create_run, open_start, remove_run, resume_run, run_config, with_shape_of
from eru.lm.steps import begin, end_epoch, learning_rate, train_step
from eru.lm.text.corpus import Corpus, load_corpus
from eru.lm.text.tokenizer import build_tokenizer
from eru.lm.text.tokens import TokenSplit, encode_corpus
from eru.training import (
    Interrupted,
    Limits,
    Precision,
    Progress,
    Ranks,
    RunFolder,
    Session,
    StopSignals,
    TrainingState,
    machine,
    make_optimizer,
    plot_curve,
    run_epoch,
    seed_everything,
    why_not_drawn,
)

_MANY_UNKNOWN = 0.2  # of the validation text; the Penn Treebank marks a twentieth of its words as unknown


def train(
    recipe: Recipe | str,
    corpus: Corpus | str | Path,
    out: str | Path,
    *,
    epochs: int | None = None,
    resume: bool = False,
    start: str | Path | None = None,
    max_steps: int | None = None,
    minutes: float | None = None,
    stop: Callable[[], bool] | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    quiet: bool = False,
) -> Result:
    """Train a language model into a run folder.

    A run that was stopped, or killed, and resumed, in a copy of its folder too, equals one that never was. Several
    processes share the streams of a batch; a run may go on with more or fewer of them, and then other masks of
    the dropout and other samples of the words are drawn.

    Args:
        recipe: What to do, or the name of a recipe, which then takes over the shape of the start.
        corpus: The text, or its name or folder as `load_corpus` takes it.
        out: The run folder. It must hold no run unless ``resume``.
        epochs: The recipe's epochs, where they are to be others than it has.
        resume: Go on from the last checkpoint. Without one the run starts, and when it is finished nothing happens.
        start: The folder of another run, or the name of a trained model of the package, whose best weights and
            tokenizer a new run starts from. The optimiser starts afresh. A resumed run has them already.
        max_steps: The steps of the whole run after which this call ends.
        minutes: The time after which this call ends.
        stop: A question that is asked before the first step and after each; this call ends where it answers true.
        device: Where to compute.
        precision: ``"float32"``, or ``"bfloat16"`` for products in bfloat16.
        quiet: Show no progress.

    Raises:
        ValueError: The corpus is too small, the folder, the start or a number does not fit, the machine's memory is
            too small, or the loss is no longer finite (the last checkpoint then stays as it is).
        Interrupted: SIGINT, SIGTERM or SIGHUP came. The step was finished and the checkpoint saved.
    """
    limits = Limits(max_steps=max_steps, minutes=minutes, stop=stop)
    if isinstance(recipe, str):  # which says nothing about a shape, so that of the start is taken
        recipe = make_recipe(recipe) if start is None else with_shape_of(make_recipe(recipe), start)
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    corpus = corpus if isinstance(corpus, Corpus) else load_corpus(str(corpus))
    ranks = Ranks.from_environment(device)
    quiet = quiet or not ranks.is_main
    with ExitStack() as stack:
        stack.callback(ranks.close)
        source = None if start is None else open_start(start, recipe, corpus)
        config = run_config(recipe, corpus, precision, source)
        run = resume_run(out, recipe, config, ranks) if resume else None
        if run is None and ranks.is_main:
            RunFolder(Path(out), {}).check_free()  # before a long text is read for nothing
        if not quiet:
            size = corpus.path("train").stat().st_size / 1e6
            print(f"reading the corpus {corpus.name}: {size:,.1f} MB of training text", file=sys.stderr)
        if run is not None:
            tokenizer = run.tokenizer
        elif source is not None:
            tokenizer = source.tokenizer
        else:
            tokenizer = build_tokenizer(recipe.tokenizer, corpus.lines("train"), recipe.vocab_size)
        if not ranks.is_main:
            ranks.barrier()  # The others read what the first one encodes.
        splits = encode_corpus(corpus, tokenizer, quiet=quiet)
        if ranks.is_main:
            ranks.barrier()
        streams = Streams(splits["train"].ids, recipe.batch_size, ranks.rank, ranks.world_size)
        ranks.check_parts(recipe.batch_size, recipe.accumulate)
        check_model_fits(recipe, tokenizer.vocab_size, ranks.device, training=True)
        seed_everything(recipe.seed)
        model = build_model(recipe, tokenizer.vocab_size).to(ranks.device)
        if source is not None:
            model.load_state_dict(source.load_model().state_dict())
        ranks.broadcast(model)
        if not quiet:
            _tell_what_is_trained(model, recipe, out, ranks, splits)
        is_new = run is None
        run = run or create_run(out, recipe, tokenizer, config, ranks)
        if ranks.is_main:
            stack.enter_context(run.folder.held())
        try:
            state = fit(
                model,
                recipe,
                run.folder,
                streams,
                splits["valid"].ids,
                ranks=ranks,
                limits=limits,
                precision=precision,
                pretrained=source is not None,
                quiet=quiet,
            )
        except Exception:
            if is_new and ranks.is_main and not run.folder.has_begun():
                remove_run(run.folder)  # So that it does not stand in the way of the corrected call.
            raise
        result = result_of(run, corpus, splits, state, ranks)
        if not quiet and result.steps and not run.folder.curve_path.exists():
            print(why_not_drawn(run.folder.curve_path.name), file=sys.stderr)
        if ranks.is_main:
            run.folder.write_card(model_card(recipe, corpus, result, run.folder.config))
        return result


def fit(
    model: LanguageModel,
    recipe: Recipe,
    folder: RunFolder,
    streams: Streams,
    valid: np.ndarray,
    *,
    ranks: Ranks,
    limits: Limits,
    precision: Precision = "float32",
    pretrained: bool = False,
    quiet: bool = False,
) -> TrainingState:
    """Train any model of this kind in place, from the folder's checkpoint where there is one: the loop itself.

    It reads ``streams``, this process's part of the training text, and validates on the ids of ``valid``. Weights that
    are ``pretrained`` are worth keeping until there are better ones.

    Raises:
        ValueError: A checkpoint does not fit, or the loss is no longer finite.
        Interrupted: SIGINT, SIGTERM or SIGHUP came. The step was finished and the checkpoint saved.
    """
    optimizer = make_optimizer(
        recipe.optimizer,
        model.parameters(),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        beta1=recipe.beta1,
    )
    state = TrainingState(model, optimizer)
    begin(state, recipe, folder, valid, ranks, pretrained)
    position = state.position
    with StopSignals() as signals, Progress(first_step=position.step, unit="tokens", quiet=quiet) as progress:
        every = {"log_every": recipe.log_every, "checkpoint_every": recipe.checkpoint_every}
        session = Session(folder, ranks, limits, signals, progress, **every, unit="tokens", told=_told)
        over = session.is_called_off(position.step) or is_finished(recipe, position.epoch, position.history)
        if ranks.is_main and not over:
            event = "resume" if position.step else "start"
            folder.log({"event": event, "step": position.step, "processes": ranks.world_size, **machine(ranks.device)})
        while not over:
            # What an epoch reads follows from its number alone, so a resumed run goes on inside of it.
            draw = {"seed": recipe.seed, "epoch": position.epoch}
            windows = segments(streams.length, recipe.bptt, **draw, randomised=recipe.random_bptt)
            text = streams.shuffled(**draw) if recipe.partial_shuffle else streams
            steps = position.step - position.batch + (recipe.epochs - position.epoch) * len(windows)
            progress.expect(steps if limits.max_steps is None else min(steps, limits.max_steps))
            rate_of = partial(learning_rate, recipe, position.epoch, batches=len(windows))
            take_step = partial(train_step, state, text, recipe, rate_of, ranks, precision)
            # A window of all streams is one batch.
            over = run_epoch(state, windows[position.batch :], len(windows), take_step, rate_of, session)
            end_epoch(state, recipe, valid, rate_of, len(windows), session)
            state.save(folder, ranks)
            if ranks.is_main:
                plot_curve(folder.metrics(), folder.curve_path, quantity="perplexity", of_loss=perplexity_of)
            over = over or session.is_called_off(position.step)
            over = over or is_finished(recipe, position.epoch, position.history)
    if signals.received is not None:
        raise Interrupted(signals.received, position.step)
    return state


def _tell_what_is_trained(
    model: LanguageModel, recipe: Recipe, out: str | Path, ranks: Ranks, splits: dict[str, TokenSplit]
) -> None:
    """Say on stderr how large the text and the model are, and warn of words that the vocabulary lacks."""
    parameters, unknown = sum(p.numel() for p in model.parameters()), splits["valid"].unknown_rate
    print(
        f"{len(splits['train'].ids):,} training tokens of {model.vocab_size:,} kinds; "
        f"{unknown:.2%} of the validation text is unknown\n"
        f"{out}: an {recipe.cell.upper()} of {parameters:,} parameters on "
        f"{ranks.device.type}; epochs: {recipe.epochs}, a line follows after each",
        file=sys.stderr,
    )
    if unknown > _MANY_UNKNOWN:
        advice = "whatever is unknown is easy to predict; the tokenizer sentencepiece lacks nothing"
        print(f"note: {unknown:.0%} of the words of the validation text are unknown, and {advice}", file=sys.stderr)


def _told(loss: float) -> str:
    return f"training perplexity {perplexity_of(loss):.2f}"
