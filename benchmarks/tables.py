"""The tables of the documents, written from the result files.

    python benchmarks/tables.py            # write them anew
    python benchmarks/tables.py --check    # only say which documents differ from the result files

A document holds a table between two comments, which the rendered page does not show. `TABLES` names the tables:

    <!-- table: course -->
    | run | epochs | ...
    <!-- end -->
"""

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import perplexities
from markdown_tables import Row, listed, markdown, pivoted, result

from eru.storage import atomic_write
from vision.weights import WEIGHTS

ROOT = Path(__file__).parents[1]


def readme_edge() -> str:
    """The time of a token or a picture in ONNX Runtime, relative to PyTorch's for the same model."""
    names = {"awd-7m": "language model, 7 M", "awd-15m": "language model, 15 M"}
    names |= {"espnetv2_200": "classifier", "espnetv2_200_seg_voc": "segmenter", "espnetv2_200_ssd_voc": "detector"}
    found: dict[tuple[str, str], float] = {(row["model"], row["way"]): row["ratio"] for row in result("edge")["rows"]}
    ways = ("ONNX", "ONNX int8")
    lines = [(shown, *(found.get((model, way)) for way in ways)) for model, shown in names.items()]
    return markdown(["one thread, relative to PyTorch", "ONNX Runtime", "in int8"], lines)


def exports() -> str:
    """How many models of each kind were exported, and how far any was from PyTorch."""
    kinds: dict[str, list[Row]] = {}
    names = {"seg": "segmenters", "ssd": "detectors"}
    for row in result("exports")["rows"]:
        what = next((name for part, name in names.items() if f"_{part}_" in row["model"]), "classifiers")
        kind = {"network": what, "boxes": "detectors that give boxes"}.get(row["graph"])
        kinds.setdefault(kind or f"language models, one {row['graph']}", []).append(row)

    def extreme(rows: list[Row], name: str, of: Callable[..., float]) -> str | None:
        return f"{of(row[name] for row in rows):.2g}" if name in rows[0] else None

    return markdown(
        ("kind", "models", "largest difference", "least share of PyTorch's boxes"),
        (
            (kind, len(rows), extreme(rows, "largest_difference", max), extreme(rows, "boxes_that_agree", min))
            for kind, rows in kinds.items()
        ),
    )


def with_both_cells() -> str:
    """The examples that can be run with either cell."""
    lines: dict[str, Row] = {}
    for row in result("examples")["rows"]:
        if "cell" in row:
            least = row["example"] in ("forecast", "characters")
            best = (min if least else max)(row["baselines"].values())
            known = {"better": "lower" if least else "higher", "the best without a network": best}
            lines.setdefault(row["example"], known)[row["cell"].upper()] = row["score"]
    columns = ("better", "ERU", "LSTM", "the best without a network")
    return markdown(("example", *columns), ([name, *map(row.get, columns)] for name, row in lines.items()))


def faults() -> str:
    """What struck how many trainings, and how many came to something else than without it."""
    rows = result("faults")["rows"]
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kinds"]))
    columns = ("training", "faults", *kinds, "runs", "unequal")
    return markdown(columns, ([({**row, **row["kinds"]}).get(name) for name in columns] for row in rows))


def digits() -> str:
    """The accuracy on scikit-learn's digits, in per cent, with and without two parts of EESP."""
    rows = result("digits")["rows"]
    measures = ("mean", "least", "most")
    lines = [(row["form"], row["seeds"], row["epochs"], *(100 * row[name] for name in measures)) for row in rows]
    return markdown(["form", "seeds", "epochs", *(f"{name}, %" for name in measures)], lines)


def widths() -> str:
    """One layer of several widths beside an LSTM's, as the newest commit that was measured runs them."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for row in result("commits")["rows"]:
        if case := re.fullmatch(r"(ERU|nn\.LSTM) (\d+ to \d+, \d+ steps of \d+), (forward.*)", row["case"]):
            found.setdefault(case[2], {})[case[1], case[3]] = row["today_ms"]
    lines = []
    for layer, times in found.items():
        parts = [(times["ERU", what], times["nn.LSTM", what]) for what in ("forward and backward", "forward")]
        lines.append((layer, *(cell for ours, theirs in parts for cell in (ours, theirs, ours / theirs))))
    columns = [f"{what}{part}" for what in ("training, ", "forward, ") for part in ("ERU ms", "LSTM ms", "ratio")]
    return markdown(["layer", *columns], lines)


def paper(beginning: str) -> str:
    """The rows of a table of the ESPNetv2 paper, as the command `paper` counts them."""
    lines = []
    for row in result("paper")["rows"]:
        if row["table"].startswith(beginning):
            ours = row["ours"] if isinstance(row["ours"], int) else f"{row['ours']:.2f} {row['unit']}"
            verdict = "; ".join(filter(None, (row["verdict"], row["note"])))
            lines.append(
                (row["quantity"].replace("|", "/"), f"{row['printed']} {row['unit']}".rstrip(), ours, verdict)
            )
    return markdown(["", "the paper", "ours", ""], lines)


def authors() -> str:
    """What the authors print of each file of weights that they have published."""
    rows = []
    for name, weights in WEIGHTS.items():
        size = "{}x{}".format(*weights.preprocessing.size)
        metrics = ", ".join(f"{metric} {value:.2f}" for metric, value in weights.metrics.items())
        rows.append((f"`{name}`", weights.dataset.title, size, metrics or None))
    return markdown(["weights", "data", "size", "the authors' figures, in per cent"], rows)


LAYERS = ("ERU", "ERU, torch's fused LSTM", "ERU naive loop")
PARTS, WHEN = ("check", "vocabulary", "encode", "train"), ("early", "late", "most")
SIZES, PICTURES = ("input_size", "hidden_size"), ("model", "height", "width", "batch", "threads")
EDGE = ["eru.optimize", "vision.optimize", "ONNX", "ONNX int8", "ONNX, weights in int8", "ExecuTorch"]
EDGE += ["ONNX LSTM of equal size", "ONNX MobileNetV2"]
TABLES: dict[str, Callable[[], str]] = {
    **{
        table.__name__: table
        for table in (
            perplexities.ptb,
            perplexities.course,
            perplexities.adapted,
            perplexities.ablation,
            perplexities.input_maps,
            perplexities.input_maps_small,
            perplexities.small_ptb,
            perplexities.sampled,
            perplexities.stdlib,
            digits,
            exports,
            faults,
            with_both_cells,
            readme_edge,
            perplexities.readme,
            widths,
        )
    },
    "paper_convolutions": partial(paper, "Table 1"),
    "paper_units": partial(paper, "Sections 3.2"),
    "paper_classifiers": partial(paper, "Table 2"),
    "paper_segmenters": partial(paper, "Fig. 7"),
    "paper_detectors": partial(paper, "Table 3"),
    "paper_language_models": partial(paper, "Table 4"),
    "paper_perplexity": perplexities.beside_paper,
    "paper_ablated_convolutions": partial(paper, "Table 5"),
    "paper_ablated_parts": partial(paper, "Table 6"),
    "paper_model_tables": partial(paper, "Not the paper"),
    "authors": authors,
    "recurrent_groups_small": partial(perplexities.seeds_together, "recurrent_groups_small"),
    "recurrent_groups_paper": partial(perplexities.seeds_together, "recurrent_groups_paper-7m"),
    "layer": partial(pivoted, "recurrence", (*SIZES, "threads"), "layer", LAYERS, "ratio_to_lstm"),
    "layer_bfloat": partial(
        pivoted, "recurrence_amx", (*SIZES, "threads"), "layer", ("ERU bf16", "nn.LSTM bf16"), "ratio_to_lstm"
    ),
    "commits": partial(listed, "commits", "case", "older_ms", "today_ms", "ratio"),
    "step": partial(listed, "lm", "recipe", "model", "parameters", "step_ms", "ratio"),
    "recipe_layer": partial(
        listed, "lm", "recipe", "layer", "parameters", "forward_backward_ms", "ratio", table="layers"
    ),
    "word": partial(listed, "streaming", "recipe", "model", "parameters", "ms_a_token", "ratio"),
    "fuzz": partial(listed, "fuzz", "case", "answered", "refused", "fault"),
    "fuzz_coverage": partial(listed, "fuzz_coverage", "reader", "fed", "reached", "faults"),
    "scale": partial(listed, "scale", "words", "text_mb", *(f"{part}_mb" for part in PARTS)),
    "scale_seconds": partial(listed, "scale", "words", *(f"{part}_seconds" for part in PARTS[:3])),
    "softmax": partial(listed, "scale", "softmax_head", "sampled_softmax", "step_seconds", "most_mb", table="softmax"),
    "processes": partial(
        listed,
        "scale",
        *("recipe", "processes", "tokens_per_second", "step_ms", "gradient_mb", "exchange_ms"),
        table="processes",
    ),
    "soak": partial(
        listed, "soak", "work", "minutes", *(f"{when}_{what}" for what in ("mb", "files") for when in WHEN)
    ),
    "shapes": partial(
        listed, "shapes", "task", "model", "from", "epochs", "minutes", "quality", "untrained", "trained"
    ),
    "loading": partial(listed, "vision_data", "task", "model", "training", "loading_0", "loading_1"),
    "edge": partial(pivoted, "edge", ("model",), "way", EDGE, "ratio"),
    "edge_ms": partial(listed, "edge", "model", "way", "ms", "mb"),
    "cell": partial(listed, "cell", "batch", *SIZES, "cell", "forward_ms", "forward_backward_ms"),
    "vision": partial(
        pivoted, "vision_inference", PICTURES, "way", ["eager, channels last", "vision.optimize"], "ratio"
    ),
}


def filled(text: str) -> str:
    """The text of a document, with every table as the result files have it."""

    def fill(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise ValueError(f"there is no table {match[1]!r}, only {', '.join(sorted(TABLES))}")
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    new, count = re.subn(r"<!-- table: (\w+) -->(?:(?!<!-- ).)*<!-- end -->", fill, text, flags=re.DOTALL)
    if not count == text.count("<!-- end -->") == text.count("<!-- table: "):
        raise ValueError("a table is not between <!-- table: name --> and <!-- end -->")
    return new


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the documents anew, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="*", help="README.md and docs/*.md unless some are named")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(arguments)
    differing = {}
    for path in args.documents or [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        text = path.read_text(encoding="utf-8")
        try:
            new = filled(text)
        except ValueError as error:
            parser.error(f"{path.name}: {error}")
        if new != text:
            differing[path] = new
    if args.check and differing:
        names = ", ".join(path.name for path in differing)
        parser.exit(1, f"{names}: not as the result files say; run python benchmarks/tables.py\n")
    for path, new in differing.items():
        with atomic_write(path) as file:
            file.write(new)


if __name__ == "__main__":
    main()
