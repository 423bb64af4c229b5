"""The validation curves of all Penn Treebank results in one picture, docs/ptb-curves.png.

    python benchmarks/ptb_curves.py [--out FILE]

Needs matplotlib (the extra `plots`).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ptb import PTB

from eru.training import atomic_write, read_json

PICTURE = Path(__file__).parents[1] / "docs" / "ptb-curves.png"


def epochs_before(result: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> int:
    """Epochs behind the weights that a run started from, where its parent's result is there too."""
    others = {name: other for name, other in results.items() if name != result["run"]}
    parent = others.get(result["training"].get("start", {}).get("run"))
    return 0 if parent is None else epochs_before(parent, others) + parent["epochs"]


def figure_of(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Validation perplexity after each epoch, one line a run, the best one first in the legend.

    A run from another's weights goes on where that one ended.
    """
    figure = Figure(figsize=(8.0, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    by_name = {result["run"]: result for result in results}
    for result in sorted(results, key=lambda result: result["exact_valid_perplexity"]):
        before = epochs_before(result, by_name)
        epochs = [before + row["epoch"] for row in result["course"]]
        label = f"{result['run']}: {result['exact_valid_perplexity']:.2f} ({result['parameters'] / 1e6:.1f} M)"
        axes.plot(epochs, [row["valid_perplexity"] for row in result["course"]], label=label, marker=".")
    # The first epochs' hundreds would flatten the rest.
    best = min(result["exact_valid_perplexity"] for result in results)
    axes.set_ylim(0.97 * best, 2.5 * best)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("validation perplexity, Penn Treebank")
    axes.grid(True, color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all results that there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=PTB)
    parser.add_argument("--out", type=Path, default=PICTURE)
    args = parser.parse_args(arguments)
    results = [read_json(path) for path in sorted(args.results.glob("*.json"))]
    if not results:
        parser.error(f"no results in {args.results}: benchmarks/ptb.py makes them")
    with atomic_write(args.out, "wb") as file:
        figure_of(results).savefig(file, format="png")


if __name__ == "__main__":
    main()
