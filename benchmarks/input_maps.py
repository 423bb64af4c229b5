"""Which input map learns best: the Penn Treebank, models of equal size, equal in all else.

    python benchmarks/input_maps.py --data-dir FOLDER [--forms feature,time] [--seeds 1,2,3]
        [--rates 2e-3,4e-3] [--groups 1,4] [--device cuda] [--whole]

Each form with each seed, learning rate and number of recurrent groups is a run folder below --out, resumed where it
stopped. The table, which has the name of --out, is of all that are there, so several calls may share the work. Of
every form the hidden size is the one whose model has the nearest number of parameters to one number for all.

By default the recipe's dropouts, optimiser and schedule give way to plain ones, and its length to --epochs. With
--whole it stays as it is, and the best weights are measured exactly on the validation text and once on the test text.
"""

import argparse
import math
import statistics
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from environment import write_result
from forms import FORMS, OverTimeERU
from ptb import places
from torch import nn

from eru.lm.batches import Streams
from eru.lm.evaluation import evaluate_tokens
from eru.lm.loop import fit
from eru.lm.model import LanguageModel, nearest_hidden_size
from eru.lm.recipes import Recipe, make_recipe
from eru.lm.text.corpus import Corpus, load_corpus
from eru.lm.text.tokenizer import build_tokenizer
from eru.lm.text.tokens import encode_corpus
from eru.training import Limits, Ranks, RunFolder, read_json, seed_everything, write_json

# Far from convergence dropout only slows; the paper's 0.5 belongs to 200 epochs.
COMMON = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_steps": 100,
    "weight_decay": 0.0,
    "averaging": False,
    "activation_regularization": 0.0,
    "temporal_regularization": 0.0,
    "input_dropout": 0.3,
    "layer_dropout": 0.3,
    "output_dropout": 0.3,
    # A form says so itself.
    "shared_reduce": False,
    "branches": None,
    "groups": None,
}
# About as large as the ERUs of the paper's form without groups that this comparison began with.
PARAMETERS = {"small": 2_912_880, "paper-7m": 6_962_576}


def make_model(form: str, recipe: Recipe, vocab_size: int) -> LanguageModel:
    """The recipe's model with another input map, of the size in `PARAMETERS`."""
    build = partial(
        LanguageModel,
        vocab_size,
        recipe.embedding_size,
        cell=FORMS[form],
        recurrent_groups=recipe.recurrent_groups,
        input_dropout=recipe.input_dropout,
        layer_dropout=recipe.layer_dropout,
        output_dropout=recipe.output_dropout,
    )

    # The groups of a map and the recurrent groups must divide the size, and the four groups of two branches its half.
    unit = math.lcm(8, recipe.recurrent_groups) if form == "two branches" else math.lcm(4, recipe.recurrent_groups)

    def count(share: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build(unit * share).parameters())

    model = build(unit * nearest_hidden_size(PARAMETERS[recipe.name], count))
    if form == "time":
        # Its convolutions carry a window of their own from one call to the next, beside h and c.
        model.layers = nn.ModuleList(OverTimeERU(layer.input_size, layer.hidden_size) for layer in model.layers)
    return model


def measure(
    form: str, recipe: Recipe, corpus: Corpus, path: Path, device: str, precision: Any, whole: bool = False
) -> dict[str, Any]:
    """Train one form to its end; its size, and its validation perplexity after every epoch."""
    if whole and (path / "row.json").exists():
        return read_json(path / "row.json")  # so that the test text is read once
    tokenizer = build_tokenizer(recipe.tokenizer, corpus.lines("train"), recipe.vocab_size)
    splits = encode_corpus(corpus, tokenizer)
    data = {"fingerprint": corpus.fingerprint}
    config = {"form": form, "precision": precision, "data": data, "recipe": asdict(recipe)}
    folder = RunFolder.open(path) if (path / "config.json").exists() else RunFolder.create(path, config)
    folder.check_same_config(config)
    ranks = Ranks.from_environment(device)
    streams = Streams(splits["train"].ids, recipe.batch_size)
    seed_everything(recipe.seed)
    model = make_model(form, recipe, tokenizer.vocab_size).to(ranks.device)
    fit(model, recipe, folder, streams, splits["valid"].ids, ranks=ranks, limits=Limits(), precision=precision)
    row = {
        **config,
        "places": places(folder),
        "hidden_size": model.layers[0].hidden_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "valid_perplexity": [round(math.exp(record["valid_loss"]), 2) for record in folder.epochs()],
    }
    if whole:
        model.load_state_dict(folder.load_weights(ranks.device))
        exact = {split: evaluate_tokens(model, splits[split].ids).perplexity for split in ("valid", "test")}
        row |= {f"exact_{split}_perplexity": round(found, 2) for split, found in exact.items()}
    write_json(path / "row.json", row)
    return row


def main() -> None:
    """Train the forms asked for and write the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--recipe", default="paper-7m", choices=list(PARAMETERS))
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--rates", default="2e-3", help="each form may learn best at another one")
    parser.add_argument("--groups", default="1", help="recurrent groups, such as 1,4")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="the recipe's by default")
    parser.add_argument("--out", type=Path, default=Path("runs/input_maps"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--whole", action="store_true", help="the recipe as it is, but for its form")
    args = parser.parse_args()
    corpus = load_corpus("ptb", args.data_dir)
    changes = COMMON | ({} if args.batch_size is None else {"batch_size": args.batch_size}) | {"epochs": args.epochs}
    own_rate = make_recipe(args.recipe).learning_rate
    rates = [own_rate] if args.whole else [float(rate) for rate in args.rates.split(",")]
    seeds = [int(seed) for seed in args.seeds.split(",")]
    groups = [int(number) for number in args.groups.split(",")]
    for form, number, rate in product(args.forms.split(","), groups, rates):
        found = []
        for seed in seeds:
            own = {"seed": seed, "recurrent_groups": number, "sampled_softmax": 0}  # `make_model` knows no samples
            own |= {} if args.whole else {"learning_rate": rate, **changes}
            recipe = make_recipe(args.recipe, **own)
            name = f"{form.replace(' ', '-')}{f'-R{number}' if number > 1 else ''}-{rate:g}-{seed}"
            place = (args.out / args.recipe / name, args.device, args.precision)
            found.append(measure(form, recipe, corpus, *place, whole=args.whole))
        last = [row["valid_perplexity"][-1] for row in found]
        print(f"{form:16s}R={number:<3d}{rate:<8g}{statistics.mean(last):8.2f}  of {len(last)} seeds: {last}")
    rows = [read_json(path) for path in sorted((args.out / args.recipe).glob("*/row.json"))]
    write_result(f"{args.out.name}_{args.recipe}", {"rows": rows}, args.device)


if __name__ == "__main__":
    main()
