"""The recipe `small` and its LSTM control of equal size: validation and test perplexity.

    python benchmarks/small.py --data ptb --data-dir FOLDER [--cells eru,lstm]
    python benchmarks/small.py --data stdlib

Each model is a run folder below --out, resumed where it stopped, and a file small_<data>_<cell>.json of results.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from environment import write_result

from eru.lm.evaluation import evaluate
from eru.lm.loop import train
from eru.lm.recipes import make_recipe
from eru.lm.text.corpus import Corpus, load_corpus


def measure(cell: str, corpus: Corpus, folder: Path) -> dict[str, object]:
    """Train one model to its end and evaluate it, once, on both held-out texts."""
    result = train(make_recipe("small", cell=cell), corpus, folder, resume=True)
    row = asdict(result) | {"cell": cell, "run": folder.name}
    for split in ("valid", "test"):
        row[f"exact_{split}_perplexity"] = round(evaluate(folder, split, data=corpus).perplexity, 2)
    return row


def main() -> None:
    """Measure the cells asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="stdlib", choices=["stdlib", "ptb"])
    parser.add_argument("--data-dir")
    parser.add_argument("--cells", default="eru,lstm")
    parser.add_argument("--out", type=Path, default=Path("runs/small"))
    args = parser.parse_args()
    corpus = load_corpus(args.data, args.data_dir)
    for cell in args.cells.split(","):
        row = measure(cell, corpus, args.out / f"{args.data}-{cell}")
        print(
            f"{row['cell']:6s}{row['parameters']:>12,d}  valid {row['exact_valid_perplexity']}  "
            f"test {row['exact_test_perplexity']}  {row['tokens_per_second']:,.0f} tokens/s"
        )
        write_result(f"small_{args.data}_{cell}", {"seed": 1, **row})


if __name__ == "__main__":
    main()
