"""A Penn Treebank result to publish, made from a run folder: the training, its course, and its exact perplexities.

    python benchmarks/ptb.py runs/NAME... [--data-dir FOLDER] [--device cuda] [--test]
    python benchmarks/ptb.py runs/NAME --reports FILE...

The first call writes NAME.json below --out. With --test, to be given once for a model that is to be reported, the test
text is looked at too; a file that holds a test figure is never written anew. The second call adds reports that
`lm-eval runs/NAME --json > FILE` wrote (dynamic evaluation, cache, temperature) to that file.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from environment import RESULTS, environment

from eru.lm.evaluation import evaluate, perplexity_of
from eru.lm.recipes import make_recipe, shape_of
from eru.lm.run import TRAINED, LanguageModelRun, open_run
from eru.lm.text.corpus import Corpus, load_corpus
from eru.training import RunFolder, read_json, write_json

PTB = RESULTS / "ptb"


def course(run: LanguageModelRun) -> list[dict[str, Any]]:
    """Perplexities and seconds of training of every epoch."""
    rows, before = [], 0.0
    for record in run.folder.epochs():
        rows.append(
            {
                "epoch": record["epoch"],
                "train_perplexity": round(perplexity_of(record["train_loss"]), 2),
                "valid_perplexity": round(perplexity_of(record["valid_loss"]), 2),
                "averaging": record["averaging"],
                "seconds": round(record["seconds"] - before, 1),
            }
        )
        before = record["seconds"]
    return rows


def places(folder: RunFolder) -> list[dict[str, Any]]:
    """Where each call that trained the run computed, equal ones once; a run older than this record has none."""
    names = ("device", "threads", "variables", "torch")
    calls = [record for record in folder.metrics() if record["event"] in ("start", "resume")]
    found = [{name: record[name] for name in names if name in record} for record in calls if "device" in record]
    return [place for number, place in enumerate(found) if place not in found[:number]]


def start_name(run: str, weights: str) -> str:
    """The run that another started from, as a command names it: the package's own copy where its weights are those."""
    packaged = RunFolder(TRAINED / run, {})
    is_packaged = packaged.weights_path.exists() and packaged.weights_sha256() == weights
    return run if is_packaged else f"runs/{run}"


def train_command(run: LanguageModelRun) -> str:
    """The command that trains the run again, for as many epochs as it has."""
    recipe, config, done = asdict(run.recipe), run.folder.config, run.folder.epochs()
    plain = asdict(make_recipe(run.recipe.name))
    parts = [f"python cli.py lm-train --data ptb --recipe {run.recipe.name} --precision {config['precision']}"]
    if "start" in config:  # the run that it started from brings its shape
        plain |= shape_of(run.recipe)
    parts += [f"--set {name}={str(value).lower()}" for name, value in recipe.items() if value != plain[name]]
    if len(done) < run.recipe.epochs:
        parts.append(f"--max-steps {done[-1]['step']}")
    if "start" in config:
        parts.append(f"--from {start_name(**config['start'])}")
    return " ".join([*parts, f"--out runs/{run.folder.path.name}"])


def result_of(run: LanguageModelRun, corpus: Corpus, device: str, *, test: bool) -> dict[str, Any]:
    """Everything that is published of a run but the reports of other evaluations."""
    name, config, epochs = run.folder.path.name, run.folder.config, course(run)
    if not epochs:
        raise ValueError(f"{run.folder.path} has no complete epoch yet")
    if config["data"]["fingerprint"] != corpus.fingerprint:
        raise ValueError(f"{run.folder.path} was trained on another text than {corpus.name}")
    command = f"python benchmarks/ptb.py runs/{name}" + (" --test" if test else "")
    result = {
        "environment": {**environment(device), "command": command},
        "run": name,
        "training": {
            "command": train_command(run),
            "fingerprint": corpus.fingerprint,
            **{field: config[field] for field in ("precision", "versions", "start") if field in config},
            "places": places(run.folder),
            "recipe": asdict(run.recipe),
        },
        "parameters": sum(p.numel() for p in run.load_model().parameters()),
        "epochs": len(epochs),
        "seconds": round(sum(row["seconds"] for row in epochs), 1),
        "exact_valid_perplexity": round(evaluate(run, "valid", data=corpus, device=device).perplexity, 2),
    }
    if test:
        result["exact_test_perplexity"] = round(evaluate(run, "test", data=corpus, device=device).perplexity, 2)
    return {**result, "evaluations": [], "course": epochs}


def export(folder: Path, corpus: Corpus, out: Path, device: str, *, test: bool) -> dict[str, Any]:
    """Write a run's result; an older file without a test figure is replaced, but for its reports."""
    run = open_run(folder.resolve())
    path = out / f"{run.folder.path.name}.json"
    older = read_json(path) if path.exists() else {"evaluations": []}
    if "exact_test_perplexity" in older or any(report["split"] == "test" for report in older["evaluations"]):
        raise ValueError(f"{path} holds a test figure and stays as it is: the test text is looked at once for a model")
    result = {**result_of(run, corpus, device, test=test), "evaluations": older["evaluations"]}
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


def add_reports(folder: Path, files: Sequence[Path], out: Path) -> dict[str, Any]:
    """Add reports of lm-eval to a run's result."""
    name = folder.resolve().name
    weights = open_run(folder).folder.weights_sha256()
    result = read_json(out / f"{name}.json")
    for file in files:
        report = read_json(file)
        if not isinstance(report, dict) or not {"run", "weights", "split", "perplexity"} <= report.keys():
            raise ValueError(f"{file} holds no report of lm-eval --json")
        if report["weights"] != weights:
            raise ValueError(f"{file} is a report of other weights, those of {report['run']}, than {folder} has")
        report = {**report, "run": name}
        if report in result["evaluations"]:
            raise ValueError(f"{file} is in {out / name}.json already")
        result["evaluations"].append(report)
    write_json(out / f"{name}.json", result)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or complete the results of the runs named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--data-dir")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=PTB)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--reports", type=Path, nargs="+", metavar="FILE")
    args = parser.parse_args(arguments)
    if args.reports and (args.test or len(args.runs) > 1):
        parser.error("--reports takes one run, and no --test")
    try:
        if args.reports:
            results = [add_reports(args.runs[0], args.reports, args.out)]
        else:
            corpus = load_corpus("ptb", args.data_dir)
            results = [export(folder, corpus, args.out, args.device, test=args.test) for folder in args.runs]
    except ValueError as error:
        parser.error(str(error))
    for result in results:
        print(
            f"{result['run']}: {result['parameters']:,} parameters, {result['epochs']} epochs, "
            f"valid {result['exact_valid_perplexity']}, test {result.get('exact_test_perplexity', 'not looked at')}, "
            f"{len(result['evaluations'])} reports"
        )


if __name__ == "__main__":
    main()
