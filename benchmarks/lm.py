"""The whole language model on this machine, training and token by token, against the same model of nn.LSTM.

    python benchmarks/lm.py                # writes lm.json and streaming.json in benchmarks/results/

Every round runs each contender once; rows hold medians and the ratio to nn.LSTM of the same width in float32. A
training step is forward, backward, clipping and AdamW over B = 20 streams of T = 70 random tokens of a vocabulary of
10,000; "bf16" are products in bfloat16 under autocast. Token by token there is one stream, the likeliest word is fed
back, "optimized" is `eru.optimize`, and in "bf16" the weights themselves are bfloat16. "Sampled" is the recipe with
`sampled_softmax=2500`, which changes training alone. "Layers" are the middle layer of each recipe alone, forward and
backward with two threads, and an nn.LSTM of as many parameters that is as wide inside as outside.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from environment import write_result
from paired import has_bfloat16, milliseconds, paired
from torch import Tensor, nn

import eru
from eru.lm.build import build_model
from eru.lm.model import detach
from eru.lm.recipes import make_recipe

VOCABULARY, SAMPLED, BATCH, STEPS, TOKENS = 10_000, 2_500, 20, 70, 100
EPOCH_TOKENS = 929_589  # of the Penn Treebank
# Hidden sizes that give nn.LSTM (two biases a gate) the recipe's number of parameters.
EQUAL_HIDDEN = {"paper-7m": 324, "paper-15m": 800}
PEER, PEER_LAYER = "nn.LSTM, same width", "nn.LSTM, same parameters"


class LSTMLanguageModel(nn.Module):
    """Embedding, three layers of nn.LSTM, tied softmax with bias."""

    def __init__(self, embedding_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        sizes = [embedding_size, hidden_size, hidden_size, embedding_size]
        self.embedding = nn.Embedding(VOCABULARY, embedding_size)
        self.layers = nn.ModuleList(nn.LSTM(m, n) for m, n in pairwise(sizes))
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))
        self.dropout = dropout

    def forward(self, tokens: Tensor, state: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Logits and state."""
        x, ends = F.dropout(self.embedding(tokens), self.dropout, self.training), []
        for i, layer in enumerate(self.layers):
            x, end = layer(x, None if state is None else state[i])
            x = F.dropout(x, self.dropout, self.training)
            ends.append(end)
        return F.linear(x, self.embedding.weight, self.bias), ends


def training_step(model: Any, tokens: Tensor, *, bf16: bool = False) -> Callable[[], float]:
    """A step, which goes on from the state of the one before and returns its milliseconds."""
    optimizer, state = torch.optim.AdamW(model.parameters(), lr=1e-3), None

    def step() -> None:
        nonlocal state
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            if isinstance(model, LSTMLanguageModel):
                logits, state = model(tokens[:-1], state)
                loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[1:].flatten())
            else:
                features = model.features(tokens[:-1], state)
                loss, state = model.loss(features, tokens[1:]), features.state
        state = detach(state)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()

    return partial(milliseconds, step)


def measure_layer(recipe_name: str, rounds: int) -> list[dict[str, Any]]:
    """The rows of one recipe's middle layer."""
    torch.set_num_threads(2)
    eru_layer = build_model(make_recipe(recipe_name), VOCABULARY).layers[1]
    parameters = sum(p.numel() for p in eru_layer.parameters())
    size = round(math.sqrt(parameters / 8 + 1 / 4) - 1 / 2)  # so that 8 size^2 + 8 size is about that
    layers, turns = {PEER_LAYER: nn.LSTM(size, size), "ERU": eru_layer}, {}
    for name, layer in layers.items():
        width = size if name == PEER_LAYER else make_recipe(recipe_name).hidden_size
        x = torch.randn(STEPS, BATCH, width, requires_grad=True)
        turns[name] = partial(milliseconds, lambda layer=layer, x=x: layer(x)[0].sum().backward())
    rows = []
    for name, (ms, ratio) in paired(turns, PEER_LAYER, rounds).items():
        count = sum(p.numel() for p in layers[name].parameters())
        row = {"recipe": recipe_name, "layer": name, "parameters": count}
        rows.append(row | {"forward_backward_ms": round(ms, 1), "ratio": round(ratio, 3)})
    return rows


@torch.no_grad()
def milliseconds_a_token(model: nn.Module) -> float:
    """The time of one token of one stream."""
    state, token = None, torch.zeros(1, 1, dtype=torch.long)
    start = time.perf_counter()
    for _ in range(TOKENS):
        logits, state = model(token, state)
        token = logits.argmax(-1)
    return 1000 * (time.perf_counter() - start) / TOKENS


def measure(recipe_name: str, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of one recipe: of its training steps with two threads, and of its tokens with one."""
    recipe = make_recipe(recipe_name)
    ours = build_model(recipe, VOCABULARY)
    sampled = build_model(replace(recipe, sampled_softmax=SAMPLED), VOCABULARY)
    sizes = recipe.hidden_size, EQUAL_HIDDEN[recipe_name]
    wide, equal = (LSTMLanguageModel(recipe.embedding_size, size, recipe.layer_dropout) for size in sizes)
    models = {PEER: wide, "nn.LSTM, same parameters": equal, "ERU": ours}
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}

    torch.set_num_threads(2)
    tokens = torch.randint(VOCABULARY, (STEPS + 1, BATCH))
    steps = {name: training_step(model, tokens) for name, model in models.items()}
    steps["ERU, sampled softmax"] = training_step(sampled, tokens)
    if has_bfloat16():
        steps[f"{PEER}, bf16"] = training_step(wide, tokens, bf16=True)
        steps["ERU bf16"] = training_step(ours, tokens, bf16=True)
    training = []
    for name, (step, ratio) in paired(steps, PEER, rounds).items():
        count = parameters[name.removesuffix(", bf16").removesuffix(" bf16").removesuffix(", sampled softmax")]
        figures = {
            "step_ms": round(step, 1),
            "tokens_per_second": round(BATCH * STEPS * 1000 / step),
            "epoch_minutes": round(EPOCH_TOKENS / (BATCH * STEPS) * step / 60_000, 2),
        }
        row = {"recipe": recipe_name, "model": name, "parameters": count, **figures, "ratio": round(ratio, 3)}
        training.append(row)

    torch.set_num_threads(1)
    models |= {f"{name}, bf16": copy.deepcopy(model).bfloat16() for name, model in models.items()}
    for name in ("ERU", "ERU, bf16"):  # each type has an inference form of its own
        models[name.replace("ERU", "ERU, optimized")] = eru.optimize(models[name])
    parameters = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    turns = {name: partial(milliseconds_a_token, model.eval()) for name, model in models.items()}
    streaming = []
    for name, (token, ratio) in paired(turns, PEER, rounds).items():
        row = {"recipe": recipe_name, "model": name, "parameters": parameters[name]}
        streaming.append(row | {"ms_a_token": round(token, 3), "ratio": round(ratio, 3)})
    return training, streaming


def main() -> None:
    """Measure both sizes and write both results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    training, streaming = zip(*(measure(recipe, rounds) for recipe in EQUAL_HIDDEN), strict=True)
    note = {"note": "training with two threads, streaming with one", "rounds": rounds}
    layers = [row for recipe in EQUAL_HIDDEN for row in measure_layer(recipe, rounds)]
    rows = [row for rows in training for row in rows]
    write_result("lm", {"batch": BATCH, "steps": STEPS, **note, "rows": rows, "layers": layers})
    write_result("streaming", {"tokens": TOKENS, **note, "rows": [row for rows in streaming for row in rows]})


if __name__ == "__main__":
    main()
