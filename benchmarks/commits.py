"""Today's speed on this machine against an older commit's: training steps, layers and single steps, in float32.

    git worktree add FOLDER COMMIT
    python benchmarks/commits.py FOLDER        # writes commits.json in benchmarks/results/

The checkouts take turns, each in a process of its own; rows hold medians of the rounds and the ratio to the older one.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from environment import write_result
from paired import medians, milliseconds
from torch import nn

HERE = Path(__file__).parents[1]
# Steps, batch, input and hidden size of a layer; the models read 35 steps of 64 streams, as their recipes did.
LAYERS = [(20, 32, 64, 64), (20, 32, 128, 128), (35, 32, 256, 256), (70, 20, 512, 512), (70, 20, 400, 1152)]


def train(model: Any, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> None:
    """One training step of a language model."""
    model.loss(model.features(tokens[:-1]), tokens[1:]).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    optimizer.zero_grad()


def measure() -> dict[str, float]:
    """Every figure of the checkout that this process imports; nn.LSTM's of the same round is among them."""
    from eru import ERU, ERUCell
    from eru.lm.model import LanguageModel

    torch.manual_seed(0)
    timed = partial(milliseconds, warm=2)
    found = {}
    for steps, batch, inputs, hidden in LAYERS:
        x = torch.randn(steps, batch, inputs, requires_grad=True)
        for name, layer in (("ERU", ERU(inputs, hidden)), ("nn.LSTM", nn.LSTM(inputs, hidden))):
            calls = max(3, 4_000_000 // (steps * batch * hidden))
            case = f"{name} {inputs} to {hidden}, {steps} steps of {batch}"
            found[f"{case}, forward and backward"] = timed(lambda m=layer, x=x: m(x)[0].sum().backward(), calls)
            with torch.no_grad():
                found[f"{case}, forward"] = timed(lambda m=layer, x=x: m(x), calls)
    with torch.no_grad():
        for size in (64, 512):
            one = torch.randn(1, size)
            for module in (ERUCell(size, size), nn.LSTMCell(size, size), ERU(size, size), nn.LSTM(size, size)):
                name, x = type(module).__name__, one if "Cell" in type(module).__name__ else one.unsqueeze(0)
                module.eval()
                found[f"{name} {size}, one evaluated step"] = timed(lambda m=module, x=x: m(x), 300)
    dropout = {"input_dropout": 0.5, "layer_dropout": 0.2, "output_dropout": 0.4, "embedding_dropout": 0.1}
    # The shapes that these recipes had in both commits; they have become wider since, with recurrent groups.
    can_sample = "sampled_softmax" in inspect.signature(LanguageModel).parameters
    for name, hidden in (("awd-7m", 448), ("awd-15m", 976)):
        for words, sampled in (("", {}), ("; today with sampled words", {"sampled_softmax": 2500})):
            options = {**dropout, **(sampled if can_sample else {})}
            model = LanguageModel(10_000, 400, hidden, weight_dropout=0.45, locked=True, **options)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
            step = partial(train, model, optimizer, torch.randint(10_000, (36, 64)))
            found[f"a training step of {name}, 35 steps of 64{words}"] = timed(step, 3)
    return found


def main() -> None:
    """Let the checkouts take turns, or in a child measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path, help="a checkout of the older commit; - measures what is imported")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if str(args.older) == "-":
        print(json.dumps(measure()))
        return
    checkouts = {"older": args.older.resolve(), "today": HERE}
    commits = {}
    for name, path in checkouts.items():
        command = ["git", "-C", path, "rev-parse", "--short", "HEAD"]
        commits[name] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    rounds: list[dict[str, dict[str, float]]] = []
    for _ in range(args.rounds):
        turn = {}
        for name, path in checkouts.items():
            environment = {**os.environ, "PYTHONPATH": str(path)}
            command = [sys.executable, __file__, "-"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            turn[name] = json.loads(done.stdout.splitlines()[-1])
        rounds.append(turn)
    rows = []
    for case in rounds[0]["today"]:
        found = medians([{name: turn[name][case] for name in checkouts} for turn in rounds], "older")
        (older, _), (today, ratio) = found["older"], found["today"]
        print(f"{case:60s}{older:>12.3f}{today:>12.3f}{ratio:>8.3f}")
        rows.append({"case": case, "older_ms": round(older, 4), "today_ms": round(today, 4), "ratio": round(ratio, 3)})
    write_result("commits", {"commits": commits, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
