"""Large texts, large vocabularies and several processes: time and memory.

    python benchmarks/scale.py [--words 1000000,10000000,100000000]

- Corpora of a million to a hundred million words are read, encoded and trained on, each in a process of its own.
  Memory is the most that the process itself ever had resident; the processes that encode beside it are told apart.
- A step of training with a vocabulary of 250,000, with the softmax in one step, in two, and over a sample of words.
- The same training by one process and by two, each with one thread, and the exchange of gradients by itself.

Needs 2 GB of disk, and Linux.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import write_result

from eru.lm.build import build_model
from eru.lm.loop import train
from eru.lm.recipes import make_recipe
from eru.lm.text.corpus import load_corpus
from eru.lm.text.tokenizer import build_tokenizer
from eru.lm.text.tokens import encode_corpus
from eru.training import Ranks, RunFolder, make_optimizer, update

VOCABULARY, LARGE, LINE, STEPS = 10_000, 250_000, 20, 20
CLI = Path(__file__).parents[1] / "cli.py"


def draw_corpus(folder: Path, words: int) -> None:
    """Lines of words whose frequencies fall as those of a language do."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, VOCABULARY + 1)
    limits = np.cumsum(shares / shares.sum())
    names = np.array([f"w{number}" for number in range(VOCABULARY)])
    for split, count in (("train", words), ("valid", 20_000)):
        with (folder / f"{split}.txt").open("w") as file:
            for start in range(0, count, 1_000_000):
                lines = names[np.searchsorted(limits, rng.random((min(count - start, 1_000_000) // LINE, LINE)))]
                file.write("\n".join(" ".join(line) for line in lines) + "\n")


def peak(who: int) -> float:
    """The most memory, in MB, that this process, or one of those it has waited for, ever had resident."""
    return resource.getrusage(who).ru_maxrss / 1e3


def measure(words: str, place: str) -> dict[str, Any]:
    """Use a corpus that lies in a folder, step by step."""
    folder = Path(place)
    row: dict[str, Any] = {"words": int(words), "text_mb": (folder / "train.txt").stat().st_size / 1e6}

    def timed(name: str, start: float) -> None:
        row[f"{name}_seconds"] = time.perf_counter() - start
        row[f"{name}_mb"] = peak(resource.RUSAGE_SELF)

    start = time.perf_counter()
    corpus = load_corpus(folder)
    timed("check", start)
    start = time.perf_counter()
    tokenizer = build_tokenizer("word", corpus.lines("train"), VOCABULARY)
    timed("vocabulary", start)
    start = time.perf_counter()
    encode_corpus(corpus, tokenizer)
    timed("encode", start)
    row["encoders_mb"] = peak(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    train(make_recipe("small", vocab_size=VOCABULARY), corpus, folder / "run", max_steps=STEPS, quiet=True)
    timed("train", start)
    return row


def softmax_step(head: str, sampled: str) -> dict[str, Any]:
    """A step of training with a softmax over very many words.

    Of these ``head`` are predicted in one step and the others in two, or ``sampled`` are looked at; 0 stands for all.
    """
    torch.manual_seed(0)
    how = {"softmax_head": int(head), "sampled_softmax": int(sampled)}
    recipe = make_recipe("small", **how)
    model = build_model(recipe, LARGE)
    optimizer = make_optimizer("adamw", model.parameters(), learning_rate=1e-3, weight_decay=0.0)
    shares = 1 / torch.arange(1, LARGE + 1)  # as frequent as the words of a language
    ranks, seconds = Ranks.from_environment("cpu"), []
    for _ in range(4):
        tokens = torch.multinomial(shares, 36 * recipe.batch_size, replacement=True).view(36, recipe.batch_size)
        start = time.perf_counter()
        loss = model.loss(model.features(tokens[:-1]), tokens[1:])
        update(optimizer, [loss], learning_rate=1e-3, clip=1.0, ranks=ranks)
        seconds.append(time.perf_counter() - start)
    return {**how, "step_seconds": min(seconds), "most_mb": peak(resource.RUSAGE_SELF)}


def by_processes(recipe: str, count: int, folder: Path) -> dict[str, Any]:
    """The words a second of a training by so many processes on a corpus that lies in a folder."""
    run = folder / f"run-{recipe}-{count}"
    command = [CLI, "lm-train", "--data", folder, "--out", run, "--recipe", recipe, f"--set=vocab_size={VOCABULARY}"]
    torchrun(count, [*command, "--set=random_bptt=false", f"--max-steps={STEPS}"], folder)
    [speed] = [record["tokens_per_second"] for record in RunFolder.open(run).metrics() if record["event"] == "stop"]
    [exchange] = torchrun(count, [__file__, "--measure", "exchange", recipe], folder)
    batch = make_recipe(recipe).batch_size * make_recipe(recipe).bptt
    return {
        "recipe": recipe,
        "processes": count,
        "tokens_per_second": speed,
        "step_ms": 1e3 * batch / speed,
        **json.loads(exchange),
    }


def torchrun(count: int, command: list[Any], folder: Path) -> list[str]:
    """The lines that the first of so many processes, with one thread each, prints."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ERU_CACHE_DIR": f"{folder}/cache"}
    done = subprocess.run(
        list(map(str, [*start, *command])), env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith("{")]


def exchange(recipe: str) -> dict[str, Any]:
    """The time in which the processes that torchrun started average the gradients of a recipe's model.

    The first process alone answers.
    """
    ranks = Ranks.from_environment("cpu")
    parameters = list(build_model(make_recipe(recipe), VOCABULARY).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    seconds = []
    for _ in range(STEPS):
        ranks.barrier()
        start = time.perf_counter()
        ranks.average_gradients(parameters)
        seconds.append(time.perf_counter() - start)
    ranks.close()
    megabytes = 4e-6 * sum(parameter.numel() for parameter in parameters)
    return {"gradient_mb": megabytes, "exchange_ms": 1e3 * statistics.median(seconds)} if ranks.is_main else {}


def in_a_process(*arguments: object, **variables: str) -> dict[str, Any]:
    """What this script prints with other arguments, in a process of its own."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Measure everything, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", default="1000000,10000000,100000000")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, *rest = args.measure
        made = {"corpus": measure, "softmax": softmax_step, "exchange": exchange}[what](*rest)
        if made:
            print(json.dumps(made))
        return
    tables: dict[str, list[dict[str, Any]]] = {"rows": [], "softmax": [], "processes": []}
    for words in map(int, args.words.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            draw_corpus(Path(folder), words)
            tables["rows"].append(in_a_process("corpus", words, folder, ERU_CACHE_DIR=f"{folder}/cache"))
            if not tables["processes"]:
                tables["processes"] = [
                    by_processes(recipe, count, Path(folder)) for recipe in ("small", "awd-7m") for count in (1, 2)
                ]
        print(tables, flush=True)
    tables["softmax"] = [in_a_process("softmax", *how) for how in ((0, 0), (20_000, 0), (0, 20_000), (0, 2_500))]
    print(tables["softmax"], flush=True)
    write_result("scale", tables)


if __name__ == "__main__":
    main()
