"""The tables of `tables.py` that tell of language models' perplexities."""

import statistics
from functools import partial

from environment import RESULTS
from markdown_tables import Row, markdown, result

from eru.storage import read_json


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
    """Every run without recurrent groups, what it started from and how it was trained."""
    rows, older = [], (run for run in published() if run["training"]["recipe"].get("recurrent_groups", 1) == 1)
    for run in sorted(older, key=lambda run: (run["parameters"], epochs(run), run["run"])):
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


def sampled() -> str:
    """The whole recipe ``small`` with a softmax over all words in training, and over samples of them."""
    lines = []
    whole = small_runs()["ERU, one branch", 4]
    for words, rows in (("all", whole), ("about 2,500", result("sampled_softmax")["rows"])):
        valid, test = ([row[f"exact_{split}_perplexity"] for row in rows] for split in ("valid", "test"))
        lines.append((words, len(rows), statistics.mean(valid), statistics.mean(test), max(test) - min(test)))
    return markdown(["words a step", "seeds", "validation", "test", "highest less lowest test"], lines)


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

    small = {
        form: statistics.mean(row["exact_test_perplexity"] for row in rows) for form, rows in small_runs().items()
    }
    ours, theirs = small["ERU, one branch", 4], small["LSTM", 4]
    step, word = partial(milliseconds, "lm", "step_ms"), partial(milliseconds, "streaming", "ms_a_token")
    lstm, peer = "nn.LSTM, same parameters", "(LSTM of equal size)"
    rows = [
        ("Test perplexity, 7 M", perplexity(result("ptb/ptb-awd-7m")), "73.63", "59.6 (LSTM of 10 M)"),
        ("Test perplexity, 15 M", perplexity(result("ptb/ptb-awd-15m")), "63.47", "57.3 (AWD-LSTM of 24 M)"),
        ("Test perplexity, 2.9 M, after 3 epochs", ours, None, f"{theirs:.2f} {peer}"),
        ("A training step of 15 M, two CPU threads", step("ERU"), None, f"{step(lstm)} {peer}"),
        ("One word from 15 M, one CPU thread", word("ERU, optimized"), None, f"{word(lstm)} {peer}"),
        ("ImageNet top-1, 0.3 G multiply-adds", "not measured", "72.06 %", "75.8 % (MobileNetV3-Large)"),
    ]
    return markdown(["", "ours", "its authors'", "a peer's"], rows)


def beside_paper() -> str:
    """The paper's two language models beside ours of equal size."""
    ours = [("7 M", "73.63", "ptb-awd-7m"), ("15 M", "63.47", "ptb-awd-15m")]
    runs = [(size, printed, result(f"ptb/{name}")) for size, printed, name in ours]
    rows = [(size, printed, run["exact_test_perplexity"], epochs(run)) for size, printed, run in runs]
    return markdown(["parameters", "the paper's test perplexity", "ours", "our epochs"], rows)
