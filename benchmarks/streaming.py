"""The language model token by token, one stream, on this machine: ERU against the same model of nn.LSTM.

    python benchmarks/streaming.py [--threads 1]

A token is one step of every layer and the softmax over 10,000 words; the likeliest word is fed back. Every round runs
each contender once; the table shows medians and the ratio to nn.LSTM of the same width in float32. In "bf16" the
weights themselves are bfloat16. "optimized" is `eru.optimize`.
"""

import argparse
import copy
import time
from functools import partial
from typing import Any

import torch
from environment import write_result
from lm import EQUAL_HIDDEN, VOCABULARY, LSTMLanguageModel
from paired import paired
from torch import nn

import eru
from eru.lm.build import build_model
from eru.lm.recipes import make_recipe

TOKENS = 100


@torch.no_grad()
def milliseconds_a_token(model: nn.Module) -> float:
    """Of one stream."""
    state, token = None, torch.zeros(1, 1, dtype=torch.long)
    start = time.perf_counter()
    for _ in range(TOKENS):
        logits, state = model(token, state)
        token = logits.argmax(-1)
    return 1000 * (time.perf_counter() - start) / TOKENS


def measure(recipe_name: str, equal_hidden: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of one recipe; ``equal_hidden`` gives nn.LSTM the recipe's number of parameters."""
    recipe = make_recipe(recipe_name)
    model = build_model(recipe, VOCABULARY)
    wide, equal = (LSTMLanguageModel(recipe.embedding_size, size, 0.0) for size in (recipe.hidden_size, equal_hidden))
    exact = {
        "nn.LSTM, same width": wide,
        "nn.LSTM, same parameters": equal,
        "ERU": model,
        "ERU, optimized": eru.optimize(model),
    }
    contenders = exact | {f"{name}, bf16": copy.deepcopy(each).bfloat16() for name, each in exact.items()}
    turns = {name: partial(milliseconds_a_token, each.eval()) for name, each in contenders.items()}
    rows = []
    for name, (token, ratio) in paired(turns, "nn.LSTM, same width", rounds).items():
        row = {
            "recipe": recipe_name,
            "model": name,
            "parameters": sum(p.numel() for p in contenders[name].parameters()),
            "ms_a_token": round(token, 3),
            "ratio": round(ratio, 3),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure both sizes and write benchmarks/results/streaming.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [row for recipe, hidden in EQUAL_HIDDEN.items() for row in measure(recipe, hidden, args.rounds)]
    write_result("streaming", {"tokens": TOKENS, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
