"""Train a character model on a text of your own, and let it write.

The text is any file in UTF-8. Without one it is what `help()` knows about the language, pages that come with
Python. A twentieth of its lines, at its end, is held out.

The score is the bits that the model needs for a held-out character; lower is better. The baselines need no network:
one knows the frequencies of the characters, the other those of their pairs.

The goal is a score below that of the pairs. `--cell lstm` trains an LSTM of equal size, which does about as well.

    python examples/characters.py --cell eru --picture characters.png
    python examples/characters.py my.txt --out runs/mine --picture characters.png

The picture shows how the score falls, and how the trained model goes on from a prompt. `--out` names a new folder
that keeps the model and its text; `python cli.py lm-generate` takes it.
"""

import math
import sys
import textwrap
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory

from program import COLOURS, drawing, make_parser, report

from eru import lm

HELD_OUT = 20  # One line in so many, at the end of the text, is for validation.
LETTERS, LINES, COLUMNS = 700, 11, 72  # of the text that the model writes


def split(text: str, folder: Path) -> Path:
    """Write the text as a corpus: a folder with `train.txt` and `valid.txt`."""
    lines = text.splitlines(keepends=True)
    cut = len(lines) - max(1, len(lines) // HELD_OUT)
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("".join(lines[:cut]), encoding="utf-8")
    (folder / "valid.txt").write_text("".join(lines[cut:]), encoding="utf-8")
    return folder


def draw(path: Path, run: lm.LanguageModelRun, result: lm.Result, written: str) -> None:
    """Draw how well the model predicts a character in the course of its training, and what it wrote after it."""
    metrics, epochs = run.folder.metrics(), run.folder.epochs()
    train = [(record["step"], record["loss"] / math.log(2)) for record in metrics if record["event"] == "step"]
    valid = [(record["step"], record["valid_loss"] / math.log(2)) for record in epochs]
    pairs, score = math.log2(result.bigram_perplexity), math.log2(result.valid_perplexity)
    with drawing(path, "A character model of a text of one's own", height=5.5) as figure:
        curve, sample = figure.subplots(2, height_ratios=(4, 3))
        curve.plot(*zip(*train, strict=True), color="0.75", label="training")
        curve.plot(*zip(*valid, strict=True), "o-", color=COLOURS[run.recipe.cell], label=f"held out: {score:.2f}")
        curve.axhline(pairs, color="0.4", linestyle="--", label=f"pairs of characters: {pairs:.2f}")
        curve.set(xlabel="step", ylim=(None, math.log2(result.unigram_perplexity)))
        curve.set_title("bits per character", loc="left")
        curve.legend()
        sample.set_axis_off()
        sample.set_title("written by the model", loc="left")
        lines = [part for line in written.splitlines() for part in textwrap.wrap(line, COLUMNS) or [""]]
        sample.text(0, 1, "\n".join(lines[:LINES]), family="monospace", size=9.5, va="top", in_layout=False)


def main(argv: list[str] | None = None) -> int:
    """Train, print the score beside the baselines as one JSON line, and return 0 if the goal is reached."""
    parser = make_parser(__doc__, epochs=6, hidden=256)
    parser.add_argument("text", nargs="?", type=Path, help="a file of text (default: what help() knows about Python)")
    parser.add_argument("--prompt", default="The ", help="what the model goes on from (default: %(default)r)")
    parser.add_argument("--out", type=Path, help="a new folder that keeps the model and its text")
    args = parser.parse_args(argv)
    text = args.text.read_text(encoding="utf-8") if args.text else "\n".join(topics.values())
    recipe = lm.make_recipe(
        "small",
        tokenizer="char",
        cell=args.cell,
        epochs=args.epochs,
        embedding_size=64,
        hidden_size=args.hidden,
        num_layers=2,
        input_dropout=0.0,  # In a few epochs it does not learn anything by heart.
        layer_dropout=0.0,
        output_dropout=0.0,
        bptt=100,
        seed=args.seed,
    )
    with TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        result = lm.train(recipe, split(text, out / "text"), out)
        run = lm.open_run(out)
        model = run.load_model()
        if args.picture is not None:
            written = lm.generate(run, args.prompt, LETTERS, temperature=0.7, seed=args.seed)
            draw(args.picture, run, result, written)
    score = math.log2(result.valid_perplexity)
    known = {"characters": math.log2(result.unigram_perplexity), "pairs": math.log2(result.bigram_perplexity)}
    goal = known["pairs"]
    return report("characters", args, model, score=score, baselines=known, goal=goal, reached=score < goal)


if __name__ == "__main__":
    sys.exit(main())
