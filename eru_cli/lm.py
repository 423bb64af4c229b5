"""lm-train, lm-eval and lm-generate."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import click

from eru.lm.adapt.search import default_grid, parse_values
from eru.lm.evaluation import evaluate
from eru.lm.generation import generate, lacking
from eru.lm.loop import train
from eru.lm.recipes import RECIPES, Recipe, make_recipe, parse_field
from eru.lm.result import Result, how_trained
from eru.lm.run import open_folder, open_run, trained_on, with_shape_of
from eru.lm.text.corpus import load_corpus
from eru_cli.options import (
    answer,
    as_json,
    data_dir,
    deterministic,
    device,
    next_steps,
    only_deterministic,
    resolve_device,
    resumable,
    say,
    speaks,
)

_SAMPLE = 60  # tokens of the text that a training ends with


@click.command("lm-train")
@click.option("--data", help="stdlib (the default), ptb, or a folder with train.txt, valid.txt and test.txt.")
@data_dir
@click.option("--recipe", type=click.Choice(list(RECIPES)), help="By default small.")
@click.option("--out", metavar="FOLDER", help="The run folder; by default runs/<data>-<recipe>.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint, with the run's own options.")
@click.option("--epochs", type=int, help="Passes over the text, over which the schedule runs: --set epochs=N.")
@click.option("--max-steps", type=int, help="Stop when the whole run has so many steps; --resume goes on.")
@click.option("--minutes", type=float, help="Stop this call after that time; --resume goes on.")
@click.option("--from", "start", metavar="RUN", help="Start from the weights of that run or trained model.")
@device
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), help="The type of the products; by default float32."
)
@deterministic
@click.option("--set", "fields", multiple=True, metavar="FIELD=VALUE", help="Change any field of the recipe.")
@as_json
def lm_train(
    data: str | None,
    data_dir: str | None,
    recipe: str | None,
    out: str | None,
    resume: bool,
    epochs: int | None,
    device: str,
    precision: Any,
    deterministic: bool,
    as_json: bool,
    fields: tuple[str, ...],
    **others: Any,
) -> None:
    r"""Train a language model into a run folder.

    \b
    python cli.py lm-train --data stdlib
    python cli.py lm-train --resume --out runs/stdlib-small
    """
    changes = dict(parse_field(text) for text in fields)
    if epochs is not None and changes.setdefault("epochs", epochs) != epochs:
        raise ValueError(f"--epochs {epochs} and --set epochs={changes['epochs']} differ: give one of them")
    place = resolve_device(device)
    out = out or f"runs/{Path(data or 'stdlib').resolve().name}-{recipe or 'small'}"
    if resume and (Path(out) / "config.json").exists():
        # The options of a run are in its folder. What is given besides is compared with them.
        folder, base = open_folder(out)
        base = base if recipe is None else make_recipe(recipe)
        data, precision = data or trained_on(folder)[0], precision or folder.config.get("precision")
    elif resume and data is None:
        raise ValueError(f"--resume: no run in {out}; name its folder with --out, or start one there with --data too")
    else:
        base, data, precision = make_recipe(recipe or "small"), data or "stdlib", precision or "float32"
    if others["start"] is not None:  # weights bring their shape, and what is set besides is compared with it
        base = with_shape_of(base, others["start"])
    plan = replace(base, **changes)
    where = "" if data_dir is None else f" --data-dir {shlex.quote(data_dir)}"
    going_on = f"lm-train --resume --out {shlex.quote(out)}{where}{' --deterministic' if deterministic else ''}"
    with only_deterministic(deterministic), resumable(out, going_on):
        corpus = load_corpus(data, data_dir)
        result = train(plan, corpus, out, resume=resume, device=place, precision=precision, **others)
        if not speaks():
            return
        learned = _learned(result, plan)
    run = shlex.quote(out)
    split = "test" if "test" in corpus.files else "valid"
    steps = {} if result.finished else {going_on: "goes on with the training"}
    steps[f"lm-generate {run}"] = "more of what it writes; --prompt TEXT goes on from a text"
    steps[f"lm-eval {run} --split {split}{where}"] = f"its exact perplexity on the {split} text"
    text = f"{learned}\n{next_steps(steps)}"
    if as_json:
        say(text)
    answer(asdict(result), as_json, text)


def _learned(result: Result, recipe: Recipe) -> str:
    """What a training came to, for a person who has never seen one."""
    run = open_run(result.run)
    state = "finished" if result.finished else "stopped"
    epoch = "the last epoch" if result.epochs else "the first epoch so far"
    lines = [
        f"{result.run}: {state} after step {result.steps}, {result.epochs} of {recipe.epochs} epochs complete; "
        f"{result.parameters:,} parameters, {result.tokens_per_second:,.0f} tokens/s",
        "perplexity of a token, the lower the better:",
        f"{result.valid_perplexity:10.2f}  on the validation text",
        f"{result.train_perplexity:10.2f}  on the training text, over {epoch}, {how_trained(result)}",
        "baselines, which only count, on the validation text:",
        f"{result.bigram_perplexity:10.2f}  from which token follows which (interpolated bigram)",
        f"{result.unigram_perplexity:10.2f}  from how often each token occurs (unigram)",
    ]
    if run.folder.weights_path.exists():
        sample = generate(run, "", _SAMPLE, temperature=0.8, seed=recipe.seed)
        lines += ["a sample of what it writes:"]
        lines += [fill(line, 100, initial_indent="  ", subsequent_indent="  ") for line in sample.splitlines()]
    files = {"model.safetensors": "the weights", "README.md": "the model card", "curve.png": "the learning curve"}
    there = [f"{name} ({what})" for name, what in files.items() if (run.folder.path / name).exists()]
    return "\n".join([*lines, f"the run folder has {', '.join(there)}"])


@click.command("lm-eval")
@click.argument("run")
@click.option("--data", help="Another corpus than the one it was trained on, as for lm-train.")
@data_dir
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", help="The text to predict.")
@click.option("--dynamic", is_flag=True, help="Dynamic evaluation: learn from the text that has been predicted.")
@click.option("--cache", is_flag=True, help="Neural cache: repeat words of the recent past where the states agree.")
@click.option("--temperature", metavar="T|auto", help="The temperature of the softmax; auto chooses it.")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="FIELD=VALUE[,...]",
    help="A number of the adaptation (learning_rate, decay, cache_window, cache_theta, cache_weight), or several to "
    "choose among. All that is not given is chosen on the validation text.",
)
@click.option("--choose-tokens", type=int, metavar="N", help="Choose on the first N validation tokens.")
@device
@as_json
def lm_eval(
    run: str,
    data: str | None,
    data_dir: str | None,
    split: str,
    dynamic: bool,
    cache: bool,
    temperature: str | None,
    fields: tuple[str, ...],
    choose_tokens: int | None,
    device: str,
    as_json: bool,
) -> None:
    r"""Measure the perplexity of the model in RUN.

    It is exact: every token is predicted once, with its whole past.

    RUN may also be the name of a trained model that comes with the package: ptb-awd-7m.

    \b
    python cli.py lm-eval runs/stdlib-small
    python cli.py lm-eval runs/stdlib-small --temperature auto --cache --dynamic
    """
    values = dict(parse_values(text) for text in fields)
    if temperature not in (None, "auto"):
        values |= [parse_values(f"temperature={temperature}")]
    asked = {"dynamic": dynamic, "cache": cache, "temperature": temperature is not None}
    grid = default_grid(*(kind for kind, wanted in asked.items() if wanted), **values)
    if grid.learns:
        say("dynamic evaluation: first the gradients of the whole training text, then a step every five tokens")
    if grid.combinations > 1:
        times = "once" if grid.readings == 1 else f"{grid.readings} times"
        read = f"for which validation text is read {times}, then the {split} text"
        say(f"choosing among {grid.combinations:,} adaptations, {read}")
    report = evaluate(
        run, split, data=data, data_dir=data_dir, grid=grid, choose_tokens=choose_tokens, device=resolve_device(device)
    )
    for note in report.notes:
        say(f"note: {note}")
    answer(asdict(report), as_json, str(report))


@click.command("lm-generate")
@click.argument("run", default="ptb-awd-7m")
@click.option("--prompt", default="", help="Text to go on from; by default the start of a line.")
@click.option("--tokens", type=int, default=100, help="How many tokens to add.")
@click.option(
    "--temperature", type=float, default=1.0, help="Below 1 the text is more likely; at 0 it is the likeliest."
)
@click.option("--top-k", type=int, help="Sample from the k likeliest tokens only.")
@click.option("--top-p", type=float, help="Sample from the likeliest tokens of this total probability only.")
@click.option("--seed", type=int, help="A number that gives the same text again.")
@device
@as_json
def lm_generate(run: str, prompt: str, tokens: int, device: str, as_json: bool, **sampling: Any) -> None:
    r"""Continue a text with the model in RUN.

    By default with the trained model that comes with the package, ptb-awd-7m: lower-case newspaper English.

    \b
    python cli.py lm-generate --prompt "the company said"
    python cli.py lm-generate runs/stdlib-small --tokens 50 --temperature 0.8
    """
    opened = open_run(run)
    if words := lacking(opened, prompt):
        others = f" and {len(words) - 5} others" if len(words) > 5 else ""
        say(f"note: the vocabulary lacks {', '.join(map(repr, words[:5]))}{others}, which the model reads as unknown")
    text = generate(opened, prompt, tokens, device=resolve_device(device), **sampling)
    answer({"prompt": prompt, "text": text}, as_json, text)
