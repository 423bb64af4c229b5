"""Inference of the vision models on this machine: vision.optimize against the plain eager model.

    python benchmarks/vision_inference.py

Every round runs each contender in turn on the same picture; the table shows medians of the rounds and the ratio to the
plain model, NCHW. Weights are drawn at random, with batch normalisation calibrated on noise, so that no map vanishes.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from environment import write_result
from paired import milliseconds, paired
from torch import Tensor, nn

import vision

# name, height and width, batch, threads
CASES = [
    ("espnetv2_200", (224, 224), 1, 1),
    ("espnetv2_100", (224, 224), 1, 1),
    ("espnetv2_050", (224, 224), 1, 1),
    ("espnetv2_200_seg_voc", (384, 384), 1, 1),
    ("espnetv2_200_ssd_voc", (300, 300), 1, 1),
    ("espnetv2_200", (224, 224), 1, 2),
    ("espnetv2_200", (224, 224), 8, 2),
    ("espnetv2_200_seg_voc", (384, 384), 1, 2),
]
ROUNDS = 25


def calibrated(name: str, size: tuple[int, int]) -> Any:
    """The model, evaluated, with running statistics of noise."""
    torch.manual_seed(0)
    model = vision.create_model(name).train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain mean over the passes
        if isinstance(part, nn.Linear):  # drawn so small at first that no difference would show
            nn.init.normal_(part.weight, std=0.1)
    images = torch.randn(4, 3, *size)
    for _ in range(2):
        run(model)(images)
    return model.eval()


def run(model: Any) -> Callable[[Tensor], Any]:
    """What is timed: a detector's network, without the selection of its boxes; any other model whole."""
    return model.raw if isinstance(model, vision.Detector) else model


def tensors(answer: Any) -> list[Tensor]:
    """The tensors of an answer."""
    if isinstance(answer, Tensor):
        return [answer]
    return list(answer.values() if isinstance(answer, dict) else answer)


@torch.inference_mode()
def measure(name: str, size: tuple[int, int], batch: int, threads: int) -> list[dict[str, Any]]:
    """The rows of one case."""
    torch.set_num_threads(threads)
    model = calibrated(name, size)
    x = torch.randn(batch, 3, *size)
    plain, fast = run(model), run(vision.optimize(model))
    last = run(calibrated(name, size).to(memory_format=torch.channels_last))
    rearranged = x.to(memory_format=torch.channels_last)
    works = {"eager": (plain, x), "eager, channels last": (last, rearranged), "vision.optimize": (fast, x)}
    contenders = {way: partial(milliseconds, partial(*work)) for way, work in works.items()}
    case = {"model": name, "height": size[0], "width": size[1], "batch": batch, "threads": threads}
    times = paired(contenders, "eager", ROUNDS, warm=3)
    rows = [case | {"way": way, "ms": round(ms, 2), "ratio": round(ratio, 3)} for way, (ms, ratio) in times.items()]
    difference = max((a - b).abs().max().item() for a, b in zip(tensors(plain(x)), tensors(fast(x)), strict=True))
    return [row | {"largest_difference": difference} if row["way"] == "vision.optimize" else row for row in rows]


@torch.inference_mode()
def branches() -> list[dict[str, Any]]:
    """One depth-wise branch at 28 x 28, one thread: dilated 3 x 3 taps, and dense ones that reach as far."""
    torch.set_num_threads(1)
    x = torch.randn(1, 64, 28, 28).to(memory_format=torch.channels_last)
    rows = []
    for side, dilation in ((3, 1), (3, 4), (5, 1), (7, 1), (9, 1)):
        conv = nn.Conv2d(64, 64, side, padding=(side - 1) * dilation // 2, dilation=dilation, groups=64, bias=False)
        conv = conv.to(memory_format=torch.channels_last)
        times = [milliseconds(partial(conv, x)) for _ in range(60)][10:]
        rows.append({"taps": f"{side}x{side}", "dilation": dilation, "us": round(1000 * statistics.median(times), 1)})
        print(rows[-1])
    return rows


def main() -> None:
    """Measure all cases and write benchmarks/results/vision_inference.json."""
    rows = []
    for case in CASES:
        for row in measure(*case):
            print(row, flush=True)
            rows.append(row)
    result = {"rounds": ROUNDS, "note": "each row names its own threads", "rows": rows, "branches": branches()}
    write_result("vision_inference", result)


if __name__ == "__main__":
    main()
