"""A training step of the whole language model on this machine, against the same model of nn.LSTM.

    python benchmarks/lm.py [--threads 2]

Every round runs each contender once; the table shows medians and the ratio to nn.LSTM of the same width in float32. A
training step is forward, backward, clipping and AdamW over B = 20 streams of T = 70 random tokens of a vocabulary of
10,000. "bf16" are products in bfloat16 under autocast.
"""

import argparse
import time
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from environment import write_result
from paired import paired
from torch import Tensor, nn

from eru.lm.build import build_model
from eru.lm.model import detach
from eru.lm.recipes import make_recipe

VOCABULARY, BATCH, STEPS = 10_000, 20, 70
EPOCH_TOKENS = 929_589  # of the Penn Treebank
# Hidden sizes that give nn.LSTM (two biases a gate) the recipe's number of parameters.
EQUAL_HIDDEN = {"paper-7m": 325, "paper-15m": 794}


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


def train_step(model: Any, optimizer: torch.optim.Optimizer, tokens: Tensor, state: Any, bf16: bool) -> Any:
    """One step; the state that the next one carries on with."""
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        if isinstance(model, LSTMLanguageModel):
            logits, state = model(tokens[:-1], state)
            loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[1:].flatten())
            state = [tuple(part.detach() for part in parts) for parts in state]
        else:
            features = model.features(tokens[:-1], state)
            loss, state = model.loss(features, tokens[1:]), detach(features.state)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    optimizer.zero_grad()
    return state


def measure(recipe_name: str, equal_hidden: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of one recipe; ``equal_hidden`` gives nn.LSTM the recipe's number of parameters."""
    recipe = make_recipe(recipe_name, optimizer="adamw", learning_rate=1e-3)
    eru = build_model(recipe, VOCABULARY)
    sizes = recipe.hidden_size, equal_hidden
    wide, equal = (LSTMLanguageModel(recipe.embedding_size, size, recipe.layer_dropout) for size in sizes)
    contenders = {
        "nn.LSTM, same width": (wide, False),
        "nn.LSTM, same width, bf16": (wide, True),
        "nn.LSTM, same parameters": (equal, False),
        "ERU": (eru, False),
        "ERU bf16": (eru, True),
    }
    optimizers = {id(model): torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (wide, equal, eru)}
    tokens = torch.randint(VOCABULARY, (STEPS + 1, BATCH))
    states: dict[str, Any] = dict.fromkeys(contenders)

    def milliseconds(name: str) -> float:
        model, bf16 = contenders[name]
        start = time.perf_counter()
        states[name] = train_step(model, optimizers[id(model)], tokens, states[name], bf16)
        return 1000 * (time.perf_counter() - start)

    turns = {name: partial(milliseconds, name) for name in contenders}
    rows = []
    for name, (step, ratio) in paired(turns, "nn.LSTM, same width", rounds).items():
        row = {
            "recipe": recipe_name,
            "model": name,
            "parameters": sum(p.numel() for p in contenders[name][0].parameters()),
            "step_ms": round(step, 1),
            "tokens_per_second": round(BATCH * STEPS * 1000 / step),
            "epoch_minutes": round(EPOCH_TOKENS / (BATCH * STEPS) * step / 60_000, 2),
            "ratio": round(ratio, 3),
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure both sizes and write benchmarks/results/lm.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [row for recipe, hidden in EQUAL_HIDDEN.items() for row in measure(recipe, hidden, args.rounds)]
    write_result("lm", {"batch": BATCH, "steps": STEPS, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
