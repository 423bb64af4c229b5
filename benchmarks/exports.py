"""Every model of the registry and every recipe's model as ONNX, at sizes that none of them was traced with.

    python benchmarks/exports.py

The tests export one model of each kind and of each form; here are all of them, with drawn weights, in about an hour.
A vision model takes any number of pictures, and unless it is a detector of any size; a language model takes any number
of texts and steps. What is told is the largest difference between ONNX Runtime's answers and PyTorch's, for answers
above 1 in proportion to them. Detectors are exported with the choice of their boxes too, of which the share is told
that PyTorch gives as well.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from edge import untrained_run
from environment import write_result
from vision_inference import calibrated

import vision
from eru.lm.edge import export as export_language_model
from eru.lm.recipes import RECIPES
from vision.edge import example_images
from vision.edge import export as export_vision_model

SIZE = (96, 128)


def row(name: str, what: str, record: dict[str, Any]) -> dict[str, Any]:
    """What is told of an export."""
    verified = record["verified"]
    told = {
        name: verified[name]
        for name in ("batches", "sizes", "largest_difference", "boxes_that_agree")
        if name in verified
    }
    found = {"model": name, "graph": what, "megabytes": round(record["bytes"] / 1e6, 1), **told}
    print(found, flush=True)
    return found


@torch.no_grad()
def spread_scores(predictor: vision.Predictor) -> None:
    """Let drawn heads give scores that differ: of many that are 1, rounding would decide which boxes stay."""
    detector: Any = predictor.model
    confidences, _ = detector.raw(example_images(predictor, SIZE, 8, seed=5))
    for parameter in detector.get_classifier().parameters():
        parameter *= 3 / confidences.std()


def main() -> None:
    """Export all, and write benchmarks/results/exports.json."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for recipe in RECIPES:
            run = untrained_run(recipe, folder)
            for graph in ("step", "sequence"):
                record = export_language_model(run, folder / f"{recipe}-{graph}", graph=graph, batch="dynamic")
                rows.append(row(recipe, graph, record))
        for model in vision.list_models():
            predictor = vision.load_predictor(model, None, size=SIZE)
            predictor.model = calibrated(model, SIZE)
            detects = "_ssd_" in model
            if detects:
                spread_scores(predictor)
            for nms in (False, True) if detects else (False,):
                out = folder / f"{model}-{nms}"
                size = None if detects else "dynamic"
                record = export_vision_model(predictor, out, batch="dynamic", size=size, nms=nms)
                rows.append(row(model, "boxes" if nms else "network", record))
    write_result("exports", {"rows": rows})


if __name__ == "__main__":
    main()
