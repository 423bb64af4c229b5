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
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from environment import RESULTS

from eru.storage import atomic_write, read_json
from vision.weights import WEIGHTS

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


def result(name: str) -> Row:
    """One result file."""
    return read_json(RESULTS / f"{name}.json")


def shown(cell: object) -> str:
    """An entry of a table: fractions have two digits, long counts commas, and what is missing is a dash."""
    if isinstance(cell, float):
        return f"{cell:.2f}"
    return "-" if cell is None else f"{cell:,}" if isinstance(cell, int) and cell >= 10_000 else str(cell)


def markdown(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = [str(column).replace("_", " ") for column in columns]
    return "\n".join(f"| {' | '.join(map(shown, line))} |" for line in [head, ["---"] * len(head), *rows])


def listed(file: str, *columns: str, table: str = "rows") -> str:
    """The rows of a result file, or another table in it, of which some columns are shown."""
    return markdown(columns, ([row.get(column) for column in columns] for row in result(file)[table]))


def pivoted(file: str, sides: Sequence[str], across: str, wanted: Sequence[object], value: str) -> str:
    """A line for every combination of ``sides``, and a column for each wanted entry of the column ``across``."""
    lines: dict[tuple[object, ...], Row] = {}
    for row in result(file)["rows"]:
        lines.setdefault(tuple(row[side] for side in sides), {})[row[across]] = row[value]
    return markdown([*sides, *wanted], ([*line, *map(found.get, wanted)] for line, found in lines.items()))


def published(folder: str = "ptb") -> list[Row]:
    """Every Penn Treebank result in a folder, the best on the validation text first."""
    found = [read_json(path) for path in (RESULTS / folder).glob("*.json")]
    return sorted(found, key=lambda run: run["exact_valid_perplexity"])


def parent(run: Row) -> str | None:
    """The run whose weights this one started from."""
    return run["training"].get("start", {}).get("run")


def epochs(run: Row) -> int:
    """Epochs behind a run's weights, those of the runs before it among them."""
    before = parent(run)
    return run["epochs"] + (epochs(result(f"ptb/{before}")) if before else 0)


# What others report, from the tables of the works named.
OTHERS = [
    ("ESPNetv2's ERU, standard dropout (its Table 4)", "7 M", None, None, "73.63"),
    ("the same", "15 M", None, None, "63.47"),
    ("PRU, standard dropout (same table)", "19 M", None, None, "62.42"),
    ("LSTM with tuned regularisers (Melis et al., arXiv 1707.05589)", "10 M", None, "61.8", "59.6"),
    ("AWD-LSTM (same table as PRU)", "24 M", None, None, "57.3"),
    ("PRU with weight dropout (same table)", "19 M", None, None, "56.56"),
]


def ptb() -> str:
    """Every model of ours whose test perplexity was looked at, and what others report."""
    measured = ("exact_valid_perplexity", "exact_test_perplexity")
    ours = [run for run in published() if "exact_test_perplexity" in run]
    rows = [(f"`{run['run']}`", run["parameters"], epochs(run), *(run[name] for name in measured)) for run in ours]
    return markdown(["model", "parameters", "epochs", "validation", "test"], [*rows, *OTHERS])


def course() -> str:
    """Every run, what it started from and how it was trained."""
    rows = []
    for run in sorted(published(), key=lambda run: (run["parameters"], epochs(run), run["run"])):
        recipe = run["training"]["recipe"]
        dropouts = ", ".join(f"{recipe[f'{place}_dropout']:g}" for place in ("input", "layer", "output", "weight"))
        how = (run["epochs"], f"{recipe['learning_rate']:g}", dropouts, round(run["seconds"] / 60))
        rows.append((run["run"], parent(run), run["parameters"], *how, run["exact_valid_perplexity"]))
    columns = ("run", "goes on from", "parameters", "epochs", "rate", "dropouts", "minutes", "validation")
    return markdown(columns, rows)


def adapted() -> str:
    """Every report on the test text by a model that was adapted to it."""
    rows = []
    for run in published():
        for report in run["evaluations"]:
            cache = "cache of {cache_window} words, theta {cache_theta}, weight {cache_weight}; "
            how = (cache if report["adaptation"]["cache_window"] else "") + "temperature {temperature}"
            figures = (report["valid_perplexity"], report["perplexity"])
            rows.append((run["run"], how.format(**report["adaptation"]), *figures))
    return markdown(["model", "how", "validation", "test"], rows)


def ablation() -> str:
    """What is lost within three epochs when one regulariser is taken away, the greatest loss first."""
    names = {
        "all": "nothing",
        "no-activation-penalties": "AR and TAR",
        "no-dropout": "dropout of input, layers and output",
        "no-weight-decay": "weight decay",
        "not-locked": "one mask over time (locked dropout)",
        "no-word-dropout": "dropout of words",
        "no-weight-dropout": "dropout of the recurrent weights",
    }
    last = {run["run"].removeprefix("ablation-"): run["course"][-1] for run in published("ptb/ablation")}
    whole = last["all"]["valid_perplexity"]
    rows = [
        (names[name], end["train_perplexity"], end["valid_perplexity"], f"{end['valid_perplexity'] - whole:+.1f}")
        for name, end in sorted(last.items(), key=lambda item: (item[0] != "all", -item[1]["valid_perplexity"]))
    ]
    return markdown(["without", "training", "validation", "difference"], rows)


def input_maps() -> str:
    """The 7 M shape with four input maps."""
    rows = [(row["form"], row["parameters"], *row["valid_perplexity"]) for row in result("input_maps")["rows"]]
    return markdown(["form", "parameters", *(f"epoch {n}" for n in range(1, 6))], rows)


def input_maps_small() -> str:
    """The shape of the recipe ``small`` with every form, at each rate and for each seed that was run."""
    rows = []
    for row in result("input_maps_small")["rows"]:
        recipe = row["recipe"]
        names = (row["form"], recipe["seed"], f"{recipe['learning_rate']:g}")
        rows.append((*names, row["hidden_size"], row["parameters"], *row["valid_perplexity"]))
    return markdown(["form", "seed", "rate", "H", "parameters", "epoch 1", "epoch 2"], rows)


def seeds_together(file: str) -> str:
    """The last perplexity of every form over its seeds at each rate, the lowest mean first."""
    found: dict[tuple[str, int, float], list[Row]] = {}
    for row in result(file)["rows"]:
        recipe = row["recipe"]
        found.setdefault((row["form"], recipe["recurrent_groups"], recipe["learning_rate"]), []).append(row)
    lines = []
    for (form, groups, rate), rows in found.items():
        ends = [row["valid_perplexity"][-1] for row in rows]
        sizes = rows[0]["hidden_size"], rows[0]["parameters"]
        spread = max(ends) - min(ends) if len(ends) > 1 else None
        lines.append((form, groups, f"{rate:g}", *sizes, len(ends), statistics.mean(ends), spread))
    names = ("form", "R", "rate", "H", "parameters", "seeds", "mean", "highest less lowest")
    return markdown(names, sorted(lines, key=lambda line: line[-2]))


def small_runs() -> dict[tuple[str, int], list[Row]]:
    """The runs of the whole recipe ``small`` by form and recurrent groups, some by lm-train, some by input_maps.py."""
    names = {
        "eru": "ERU, four branches",
        "eru_plain": "ERU, a unit for each gate",
        "lstm": "LSTM",
        "lstm_plain": "LSTM",
    }
    found: dict[tuple[str, int], list[Row]] = {}
    for file, name in names.items():
        row = result(f"small_ptb_{file}")
        found.setdefault((name, row["recurrent_groups"]), []).append(row)
    forms = {"one branch": "ERU, one branch", "two branches": "ERU, two branches", "lstm": "LSTM"}
    for row in result("whole_small")["rows"]:
        found.setdefault((forms[row["form"]], row["recipe"]["recurrent_groups"]), []).append(row)
    return found


def small_ptb() -> str:
    """The whole recipe ``small`` in several forms, the means over the seeds, the best first."""
    lines = []
    for (name, groups), rows in small_runs().items():
        valid, test = ([row[f"exact_{split}_perplexity"] for row in rows] for split in ("valid", "test"))
        spread = max(test) - min(test) if len(rows) > 1 else None
        means = statistics.mean(valid), statistics.mean(test)
        lines.append((name, groups, rows[0]["parameters"], len(rows), *means, spread))
    columns = ["model", "R", "parameters", "seeds", "validation", "test", "highest less lowest test"]
    return markdown(columns, sorted(lines, key=lambda line: line[5]))


def stdlib() -> str:
    """The recipe ``small`` on the documentation of Python's library, beside what needs no training."""
    found = result("stdlib")
    valid = (found["valid"]["perplexity"], found["train"]["bigram_perplexity"], found["train"]["unigram_perplexity"])
    rows = [("validation", *valid), ("test", found["test"]["perplexity"], None, None)]
    return markdown(["text", "the model", "interpolated Kneser-Ney bigram", "frequencies of words"], rows)


def readme() -> str:
    """What a newcomer should know before choosing, our defeats among it."""

    def perplexity(run: Row) -> str:
        return f"{run['exact_test_perplexity']:.2f} ({epochs(run)} epochs)"

    def milliseconds(file: str, value: str, model: str) -> str:
        rows = {row["model"]: row[value] for row in result(file)["rows"] if row["recipe"] == "paper-15m"}
        return f"{rows[model]:.0f} ms"

    maps = {row["form"]: row["valid_perplexity"][-1] for row in result("input_maps")["rows"]}
    small = {
        form: statistics.mean(row["exact_test_perplexity"] for row in rows) for form, rows in small_runs().items()
    }
    ours, theirs = small["ERU, one branch", 4], small["LSTM", 4]
    step, word = partial(milliseconds, "lm", "step_ms"), partial(milliseconds, "streaming", "ms_a_token")
    lstm, peer = "nn.LSTM, same parameters", "(LSTM of equal size)"
    rows = [
        ("Test perplexity, 7 M", perplexity(result("ptb/ptb-awd-7m-120")), "73.63", "59.6 (LSTM of 10 M)"),
        ("Test perplexity, 15 M", perplexity(result("ptb/ptb-awd-15m")), "63.47", "57.3 (AWD-LSTM of 24 M)"),
        ("Validation perplexity, 7 M, after 5 epochs", maps["feature"], None, f"{maps['lstm']:.2f} {peer}"),
        ("Test perplexity, 2.9 M, after 3 epochs", ours, None, f"{theirs:.2f} {peer}"),
        ("A training step of 15 M, two CPU threads", step("ERU"), None, f"{step(lstm)} {peer}"),
        ("One word from 15 M, one CPU thread", word("ERU, optimized"), None, f"{word(lstm)} {peer}"),
        ("ImageNet top-1, 0.3 G multiply-adds", "not measured", "72.06 %", "75.8 % (MobileNetV3-Large)"),
    ]
    return markdown(["", "ours", "its authors'", "a peer's"], rows)


def readme_edge() -> str:
    """The time of a token or a picture in ONNX Runtime, relative to PyTorch's for the same model."""
    names = {"ptb-awd-7m": "language model, 7 M", "awd-15m": "language model, 15 M"}
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


def perplexity_beside_paper() -> str:
    """The paper's two language models beside ours of equal size."""
    ours = [("7 M", "73.63", "ptb-awd-7m-120"), ("15 M", "63.47", "ptb-awd-15m")]
    runs = [(size, printed, result(f"ptb/{name}")) for size, printed, name in ours]
    rows = [(size, printed, run["exact_test_perplexity"], epochs(run)) for size, printed, run in runs]
    return markdown(["parameters", "the paper's test perplexity", "ours", "our epochs"], rows)


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
            ptb,
            course,
            adapted,
            ablation,
            input_maps,
            input_maps_small,
            small_ptb,
            stdlib,
            digits,
            exports,
            faults,
            with_both_cells,
            readme_edge,
            readme,
            widths,
        )
    },
    "paper_convolutions": partial(paper, "Table 1"),
    "paper_units": partial(paper, "Sections 3.2"),
    "paper_classifiers": partial(paper, "Table 2"),
    "paper_segmenters": partial(paper, "Fig. 7"),
    "paper_detectors": partial(paper, "Table 3"),
    "paper_language_models": partial(paper, "Table 4"),
    "paper_perplexity": perplexity_beside_paper,
    "paper_ablated_convolutions": partial(paper, "Table 5"),
    "paper_ablated_parts": partial(paper, "Table 6"),
    "paper_model_tables": partial(paper, "Not the paper"),
    "authors": authors,
    "recurrent_groups_small": partial(seeds_together, "recurrent_groups_small"),
    "recurrent_groups_paper": partial(seeds_together, "recurrent_groups_paper-7m"),
    "layer": partial(pivoted, "recurrence", (*SIZES, "threads"), "layer", LAYERS, "ratio_to_lstm"),
    "layer_bfloat": partial(
        pivoted, "recurrence_amx", (*SIZES, "threads"), "layer", ("ERU bf16", "nn.LSTM bf16"), "ratio_to_lstm"
    ),
    "commits": partial(listed, "commits", "case", "older_ms", "today_ms", "ratio"),
    "step": partial(listed, "lm", "recipe", "model", "parameters", "step_ms", "ratio"),
    "word": partial(listed, "streaming", "recipe", "model", "parameters", "ms_a_token", "ratio"),
    "fuzz": partial(listed, "fuzz", "case", "answered", "refused", "fault"),
    "fuzz_coverage": partial(listed, "fuzz_coverage", "reader", "fed", "reached", "faults"),
    "scale": partial(listed, "scale", "words", "text_mb", *(f"{part}_mb" for part in PARTS)),
    "scale_seconds": partial(listed, "scale", "words", *(f"{part}_seconds" for part in PARTS[:3])),
    "softmax": partial(listed, "scale", "softmax_head", "step_seconds", "most_mb", table="softmax"),
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
