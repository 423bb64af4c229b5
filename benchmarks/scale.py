"""Corpora of a million to a hundred million words: time and memory of reading, encoding and training.

    python benchmarks/scale.py [--words 1000000,10000000,100000000]

Each corpus is drawn and used in a process of its own. Memory is the most that the process itself ever had resident;
the processes that encode beside it are told apart. It must not grow with the text. Needs 2 GB of disk, and Linux.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from environment import write_result

from eru.lm.loop import train
from eru.lm.recipes import make_recipe
from eru.lm.text.corpus import load_corpus
from eru.lm.text.tokenizer import build_tokenizer
from eru.lm.text.tokens import encode_corpus

VOCABULARY, LINE, STEPS = 10_000, 20, 20


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


def measure(words: int, folder: Path) -> dict[str, Any]:
    """Use a corpus that lies in a folder, step by step."""
    row: dict[str, Any] = {"words": words, "text_mb": (folder / "train.txt").stat().st_size / 1e6}

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


def main() -> None:
    """Measure every corpus, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", default="1000000,10000000,100000000")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(int(args.measure[0]), Path(args.measure[1]))))
        return
    rows = []
    for words in map(int, args.words.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            draw_corpus(Path(folder), words)
            environment = {**os.environ, "ERU_CACHE_DIR": f"{folder}/cache"}
            command = [sys.executable, __file__, "--measure", str(words), folder]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    write_result("scale", {"rows": rows})


if __name__ == "__main__":
    main()
