"""What variables of the environment do to a training step of the 7 M language model on a CPU.

    python benchmarks/variables.py

Every round runs each setting once, in a process of its own: threads that stay awake between products and stay where
they are, and large tensors in huge pages (the command line asks for these itself, a program of one's own does not).
A step is forward, backward, clipping and AdamW over B = 64 streams of T = 35 tokens, with products in bfloat16.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from environment import write_result
from paired import paired

BATCH, STEPS, VOCABULARY = 64, 35, 10_000
AWAKE = {"OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "true"}
HUGE = {"THP_MEM_ALLOC_ENABLE": "1"}
SETTINGS = {"none": {}, "awake threads": AWAKE, "huge pages": HUGE, "both": AWAKE | HUGE}


def step_ms(threads: int, steps: int) -> float:
    """Median time of a training step in this process."""
    import torch
    from lm import train_step

    from eru.lm.build import build_model
    from eru.lm.recipes import make_recipe

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_model(make_recipe("awd-7m"), VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(VOCABULARY, (STEPS + 1, BATCH))
    state, times = None, []
    for _ in range(steps + 3):
        start = time.perf_counter()
        state = train_step(model, optimizer, tokens, state, bf16=True)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


def measure(setting: str, threads: int, steps: int) -> float:
    """The same in a process of its own, under a setting."""
    others = {name: value for name, value in os.environ.items() if name not in AWAKE | HUGE}
    command = [sys.executable, Path(__file__), "--child", "--threads", str(threads), "--steps", str(steps)]
    environment = others | SETTINGS[setting] | {"OMP_NUM_THREADS": str(threads)}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure every setting and write benchmarks/results/variables.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(step_ms(args.threads, args.steps))
        return
    rows = []
    for threads in (1, 2):
        turns = {setting: partial(measure, setting, threads, args.steps) for setting in SETTINGS}
        for setting, (step, ratio) in paired(turns, "none", args.rounds).items():
            row = {"variables": setting, "threads": threads, "step_ms": round(step, 1), "ratio": round(ratio, 3)}
            print(row, flush=True)
            rows.append(row)
    write_result("variables", {"batch": BATCH, "steps": STEPS, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
