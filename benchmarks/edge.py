"""Exported models on this machine: milliseconds and megabytes, against PyTorch, an LSTM and MobileNetV2.

    taskset -c 0 python benchmarks/edge.py [--voc espnetv2_s_2.0_pascal_384x384.pth]

Every file is made and verified by `export`. Contenders take turns, each on one thread; a language model does 50 steps
at a turn, one stream, a vision model one picture. A row's ratio is to eager PyTorch of the same model in the same run.
Weights are drawn at random, but for ptb-awd-7m, whose int8 is also measured on the Penn Treebank's validation text,
and for the segmenter where its published file is given. Peers in the same runtime: the language model of ``nn.LSTM``
with as many parameters, whose layers become ONNX's own LSTM operator, and MobileNetV2 (arXiv 1801.04381, Table 2).
"""

import argparse
import importlib.util
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from environment import write_result
from lm import EQUAL_HIDDEN, LSTMLanguageModel
from paired import milliseconds, paired
from torch import Tensor, nn
from vision_inference import calibrated

import eru
import vision
from eru.edge.executorch import open_executorch
from eru.edge.graph import Graph, Run
from eru.edge.onnx import open_onnx, to_onnx
from eru.lm.build import build_model
from eru.lm.edge import export as export_language_model
from eru.lm.model import LanguageModel
from eru.lm.recipes import make_recipe
from eru.lm.run import TRAINED, open_run
from eru.lm.step_form import zero_state
from eru.lm.text.corpus import load_corpus
from eru.lm.text.vocabulary import WordTokenizer
from eru.training import RunFolder
from vision.edge import export as export_vision_model

VOCABULARY, STEPS, ROUNDS, READ = 10_000, 50, 15, 5000
HAS_EXECUTORCH = importlib.util.find_spec("executorch") is not None
INVERTED = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def untrained_run(recipe_name: str, folder: Path) -> Path:
    """A run folder of a recipe's model, with drawn weights."""
    recipe = make_recipe(recipe_name)
    torch.manual_seed(0)
    config = {"kind": "language-model", "recipe": asdict(recipe), "data": {"name": "none", "fingerprint": "0"}}
    run = RunFolder.create(folder / recipe_name, config)
    run.save_weights(build_model(recipe, VOCABULARY).state_dict())
    words = ["<unk>", "<eos>", *map(str, range(VOCABULARY - 2))]
    WordTokenizer(words, unknown=0, eos=1).save(run.path / "tokenizer")
    return run.path


def stepping(run: Run, model: LanguageModel) -> Callable[[], None]:
    """A chain of steps of an exported model."""

    def steps() -> None:
        state, tokens = zero_state(model, 1), torch.tensor([1])
        for _ in range(STEPS):
            _, *state = run([tokens, *state])

    return steps


def eager_stepping(model: LanguageModel) -> Callable[[], None]:
    """The same of a model in PyTorch."""

    @torch.inference_mode()
    def steps() -> None:
        state, tokens = None, torch.tensor([[1]])
        for _ in range(STEPS):
            _, state = model(tokens, state)

    return steps


class LSTMStep(nn.Module):
    """One step of the language model of ``nn.LSTM``, with the state in a row."""

    def __init__(self, model: LSTMLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Scores and state of (B,) tokens."""
        pairs = [(h[None], c[None]) for h, c in zip(state[::2], state[1::2], strict=True)]
        scores, ends = self.model(tokens[None], pairs)
        return scores[0], *(part[0] for end in ends for part in end)


def lstm_run(recipe: str, folder: Path) -> tuple[Run, float, list[Tensor]]:
    """ONNX's own LSTM with about as many parameters as a recipe: the runtime, its megabytes, and its inputs."""
    torch.manual_seed(0)
    model = LSTMLanguageModel(400, EQUAL_HIDDEN[recipe], 0.0).eval()
    inputs = [torch.tensor([1]), *(torch.zeros(1, layer.hidden_size) for layer in model.layers for _ in "hc")]
    names = [f"i{number}" for number in range(len(inputs))]
    outputs = [f"o{number}" for number in range(len(inputs))]
    made = to_onnx(Graph(LSTMStep(model), dict(zip(names, inputs, strict=True)), outputs))
    path = folder / f"lstm-{recipe}.onnx"
    onnx.save(made, path)
    return open_onnx(path, 1), path.stat().st_size / 1e6, inputs


def language_rows(name: str, run: Path, peer: str | None, folder: Path) -> list[dict[str, Any]]:
    """A language model in every form that it has."""
    model = open_run(run).load_model()
    contenders, megabytes, quality = {"eager": eager_stepping(model)}, {}, {}
    contenders["eru.optimize"] = eager_stepping(eru.optimize(model))
    for way, options in {
        "ONNX": {},
        "ONNX int8": {"quantize": "int8"},
        "ExecuTorch": {"format": "executorch"},
    }.items():
        if way == "ExecuTorch" and not HAS_EXECUTORCH:
            continue
        out = folder / f"{name}-{way}"
        record = export_language_model(run, out, **options)
        path = out / record["file"]
        opened = open_executorch(path) if way == "ExecuTorch" else open_onnx(path, 1)
        contenders[way], megabytes[way] = stepping(opened, model), record["bytes"] / 1e6
        quality[way] = record["verified"]
    if peer is not None:
        opened, megabytes["ONNX LSTM of equal size"], inputs = lstm_run(peer, folder)

        def steps() -> None:
            state = inputs[1:]
            for _ in range(STEPS):
                _, *state = opened([inputs[0], *state])

        contenders["ONNX LSTM of equal size"] = steps
    return rows(name, contenders, megabytes, quality, STEPS)


def rows(name: str, contenders: Any, megabytes: Any, quality: Any, calls: int) -> list[dict[str, Any]]:
    """The rows of one model, timed in turns."""
    turns = {way: partial(milliseconds, task) for way, task in contenders.items()}
    found = []
    for way, (ms, ratio) in paired(turns, "eager", ROUNDS, warm=2).items():
        row = {"model": name, "way": way, "ms": round(ms / calls, 3), "ratio": round(ratio, 3)}
        row |= {"mb": round(megabytes[way], 1)} if way in megabytes else {}
        row |= {"verified": quality[way]} if way in quality else {}
        print(row, flush=True)
        found.append(row)
    return found


def perplexities(data: str, folder: Path) -> dict[str, float]:
    """The first words of the Penn Treebank's validation text, read by the package's model and by its int8."""
    run = open_run(TRAINED / "ptb-awd-7m")
    model = run.load_model()
    lines = load_corpus("ptb", data).lines("valid")
    ids = [run.tokenizer.eos]
    for line in lines:
        ids += [*run.tokenizer.encode(line), run.tokenizer.eos]
        if len(ids) > READ:
            break
    text = torch.tensor(ids[: READ + 1])
    with torch.inference_mode():
        exact = F.cross_entropy(model(text[:-1, None])[0].flatten(0, 1), text[1:]).item()
    opened, state, scores = open_onnx(folder / "ptb-awd-7m-ONNX int8" / "model.onnx", 1), zero_state(model, 1), []
    for token in text[:-1].split(1):
        logits, *state = opened([token, *state])
        scores.append(logits)
    found = F.cross_entropy(torch.cat(scores), text[1:]).item()
    return {"tokens": READ, "float32": math.exp(exact), "int8": math.exp(found)}


class MobileNetV2(nn.Sequential):
    """MobileNetV2 of width 1 for 1000 classes."""

    def __init__(self) -> None:
        layers, channels = [conv(3, 32, 3, 2)], 32
        for expansion, width, count, stride in INVERTED:
            for number in range(count):
                layers.append(InvertedResidual(channels, width, expansion, stride if number == 0 else 1))
                channels = width
        layers += [conv(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
        super().__init__(*layers)


class InvertedResidual(nn.Module):
    """Expand, a depth-wise convolution, and a linear bottleneck."""

    def __init__(self, channels: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        inside = expansion * channels
        first = [conv(channels, inside, 1)] if expansion > 1 else []
        last = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.layers = nn.Sequential(*first, conv(inside, inside, 3, stride, inside), *last)
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to (N, channels, H, W)."""
        return x + self.layers(x) if self.adds else self.layers(x)


def conv(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation and ReLU6."""
    layer = nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU6())


def vision_rows(name: str, size: tuple[int, int], weights: str | None, folder: Path) -> list[dict[str, Any]]:
    """A vision model in every form that it has; a classifier beside MobileNetV2."""
    predictor = vision.load_predictor(name, weights, size=size)
    if weights is None:
        predictor.model = calibrated(name, size)
    image = torch.randn(1, 3, *size)

    def eager(model: Any) -> Callable[[], object]:
        call = getattr(model, "raw", model)
        return torch.inference_mode()(lambda: call(image))

    contenders = {"eager": eager(predictor.model), "vision.optimize": eager(vision.optimize(predictor.model))}
    megabytes, quality = {}, {}
    ways: dict[str, Any] = {"ONNX": {}, "ExecuTorch": {"format": "executorch"}}
    if weights is not None:  # drawn weights have no answers that could stay the same
        ways["ONNX, weights in int8"] = {"quantize": "int8-weights"}
    for way, options in ways.items():
        if way == "ExecuTorch" and not HAS_EXECUTORCH:
            continue
        out = folder / f"{name}-{way}"
        record = export_vision_model(predictor, out, **options)
        path = out / record["file"]
        opened = open_executorch(path) if way == "ExecuTorch" else open_onnx(path, 1)
        contenders[way], megabytes[way] = partial(opened, [image]), record["bytes"] / 1e6
        quality[way] = record["verified"]
    if name == "espnetv2_200":
        torch.manual_seed(0)
        path = folder / "mobilenet.onnx"
        onnx.save(to_onnx(Graph(vision.optimize(MobileNetV2()), {"image": image}, ("logits",))), path)
        contenders["ONNX MobileNetV2"] = partial(open_onnx(path, 1), [image])
        megabytes["ONNX MobileNetV2"] = path.stat().st_size / 1e6
    return rows(name, contenders, megabytes, quality, 1)


def main() -> None:
    """Measure all and write benchmarks/results/edge.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc", help="the published VOC segmenter of width 2.0, 384x384")
    parser.add_argument("--data-dir", help="where the Penn Treebank's files are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = language_rows("ptb-awd-7m", TRAINED / "ptb-awd-7m", None, folder)
        found += language_rows("awd-7m", untrained_run("awd-7m", folder), "paper-7m", folder)
        found += language_rows("awd-15m", untrained_run("awd-15m", folder), "paper-15m", folder)
        read = perplexities(args.data_dir, folder)
        print(read)
        for model in ("espnetv2_050", "espnetv2_100", "espnetv2_200"):
            found += vision_rows(model, (224, 224), None, folder)
        found += vision_rows("espnetv2_200_seg_voc", (384, 384), args.voc, folder)
        found += vision_rows("espnetv2_200_ssd_voc", (300, 300), None, folder)
    write_result("edge", {"rounds": ROUNDS, "threads": 1, "perplexity_of_ptb_awd_7m": read, "rows": found})


if __name__ == "__main__":
    main()
