"""Which input map learns best: the 7 M shape on the whole Penn Treebank, one seed, few epochs, equal in all else.

    python benchmarks/input_maps.py --data-dir FOLDER [--forms feature,time] [--device cuda]

Each form is a run folder below --out, resumed where it stopped; the table is made from all that are there.
"""

import argparse
import math
from pathlib import Path

from environment import write_result

from eru.lm.corpus import load_corpus
from eru.lm.recipes import make_recipe
from eru.lm.run import open_run
from eru.lm.train import train

FORMS = {
    "feature": {"conv_axis": "feature"},
    "time": {"conv_axis": "time"},
    "kernel 1": {"kernel_size": 1},
    "lstm": {"cell": "lstm"},
}
# Far from convergence dropout only slows; the paper's 0.5 belongs to 200 epochs.
COMMON = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "weight_decay": 0.0,
    "averaging": False,
    "activation_regularization": 0.0,
    "temporal_regularization": 0.0,
    "input_dropout": 0.3,
    "layer_dropout": 0.3,
    "output_dropout": 0.3,
}


def main() -> None:
    """Train the forms asked for and write the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--out", type=Path, default=Path("runs/input_maps"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bfloat16")
    args = parser.parse_args()
    corpus = load_corpus("ptb", args.data_dir)
    for form in args.forms.split(","):
        recipe = make_recipe("paper-7m", epochs=args.epochs, **COMMON, **FORMS[form])
        train(recipe, corpus, args.out / form, resume=True, device=args.device, precision=args.precision)
    rows = []
    for form in FORMS:
        if (args.out / form / "metrics.jsonl").exists():
            run = open_run(args.out / form)
            # A run killed just after an epoch's record has that record twice; the later one counts.
            epochs = {record["epoch"]: record for record in run.folder.metrics() if record["event"] == "epoch"}
            parameters = sum(p.numel() for p in run.build_model().parameters())
            perplexities = [round(math.exp(record["valid_loss"]), 2) for record in epochs.values()]
            rows.append({"form": form, "parameters": parameters, "valid_perplexity": perplexities})
            print(f"{form:10s} {parameters:>10,d}", *perplexities)
    write_result("input_maps", {"recipe": COMMON, "seed": 1, "precision": args.precision, "rows": rows}, args.device)


if __name__ == "__main__":
    main()
