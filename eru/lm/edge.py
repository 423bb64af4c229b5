"""Exporting language models: one step, or a whole sequence, with the tokenizer as plain JSON."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eru.edge.folder import (
    TOLERANCE,
    Format,
    check_batch,
    check_format,
    largest_difference,
    new_export,
    require,
    write_model,
    write_record,
)
from eru.edge.graph import Graph, Run
from eru.lm.generation import generate_tokens
from eru.lm.model import LanguageModel
from eru.lm.run import LanguageModelRun, open_run
from eru.lm.step_form import SequenceForm, StepForm, zero_state
from eru.storage import write_json

GraphName = Literal["step", "sequence"]
_STEPS = 50  # of a chain that is compared with PyTorch
_TOKENS = 1000  # that the perplexity of int8 is measured on
_WORSE = 1.01  # how much higher that may be


def export(
    run: LanguageModelRun | str | Path,
    out: str | Path,
    *,
    format: Format = "onnx",
    graph: GraphName = "step",
    batch: int | Literal["dynamic"] = 1,
    quantize: Literal["none", "int8"] = "none",
) -> dict[str, Any]:
    """Write a trained model for another runtime, with its tokenizer, and verify it there.

    The graph ``step`` takes ``tokens`` (batch,) and the state ``h0``, ``c0``, ``h1``, ``c1``, ... (batch, size), and
    gives ``logits`` (batch, V) and the next state ``h0_next``, ... . The graph ``sequence`` takes tokens
    (steps, batch) of any number of steps, and gives logits (steps, batch, V). The embedding is in the file once.

    Fifty steps, one after another, are compared with PyTorch, with other sizes of a dynamic dimension than the export
    was made with. With int8, the perplexity of a text that the model itself has written may be at most 1 % higher.

    Args:
        run: A run, its folder, or the name of a trained model of the package.
        out: The folder, which must not be there yet; it appears once everything in it is verified.
        format: ``onnx`` for ONNX Runtime and its relatives, ``pt2`` for ``torch.export``'s own, ``executorch`` for
            phones.
        graph: What one call computes.
        batch: How many texts a call continues, or ``"dynamic"`` for any number.
        quantize: ``int8`` for products of whole numbers of eight bits, in ONNX: a file of a quarter of the size. In a
            ``sequence`` the recurrent products stay as they are.

    Returns:
        What ``export.json`` holds.

    Raises:
        ValueError: An unknown option, a package that is missing, a run without weights, something in the place of
            ``out``, or an export that does not do what the model does.

    Example:
        >>> import tempfile
        >>> record = export("ptb-awd-7m", Path(tempfile.mkdtemp()) / "step", format="pt2")
        >>> [value["name"] for value in record["inputs"]]
        ['tokens', 'h0', 'c0', 'h1', 'c1', 'h2', 'c2']
    """
    check_format(format, quantize, ("none", "int8"))
    if graph not in ("step", "sequence"):
        raise ValueError(f"graph={graph!r}: must be step or sequence")
    if graph == "sequence" and format == "executorch":
        raise ValueError("graph='sequence': format='executorch' plans its memory for one length; take graph='step'")
    check_batch(batch, format)
    run = run if isinstance(run, LanguageModelRun) else open_run(run)
    model, name = run.load_model(), run.folder.path.resolve().name
    traced = _graph(model, graph, batch)
    with new_export(out, format) as folder:
        quantizer = None
        if quantize == "int8":
            from eru.edge.quantize import quantize_products

            quantizer = quantize_products
        written = write_model(folder, traced, format, quantize=quantizer)
        compare = _compare if quantize == "none" else _compare_perplexity
        verified = compare(model, written.run, graph, batch, run.tokenizer.eos)
        write_json(folder / "tokenizer.json", run.tokenizer.plain())
        fields = {
            "format": format,
            "kind": "language-model",
            "name": name,
            "graph": graph,
            "quantize": quantize,
            "tokenizer": "tokenizer.json",
        }
        return write_record(folder, written, traced, {**fields, "verified": verified})


def _graph(model: LanguageModel, graph: GraphName, batch: int | Literal["dynamic"]) -> Graph:
    """The graph with example inputs, in which no dynamic dimension has the size 1, which would be taken for fixed."""
    count = 2 if batch == "dynamic" else batch
    names = [f"{part}{layer}" for layer in range(len(model.layers)) for part in "hc"]
    after = [f"{name}_next" for name in names]
    is_step = graph == "step"
    tokens = torch.zeros(count if is_step else (3, count), dtype=torch.long)
    dynamic: dict[str, dict[int, str]] = {}
    if batch == "dynamic":
        dynamic |= {name: {0: "batch"} for name in (*names, *after)}
        dynamic |= {name: {0 if is_step else 1: "batch"} for name in ("tokens", "logits")}
    if not is_step:
        dynamic |= {name: {0: "steps", **dynamic.get(name, {})} for name in ("tokens", "logits")}
    form = StepForm(model) if is_step else SequenceForm(model)
    inputs = dict(zip(("tokens", *names), (tokens, *zero_state(model, count)), strict=True))
    return Graph(form.eval(), inputs, ("logits", *after), dynamic)


def _text(model: LanguageModel, eos: int, tokens: int, streams: int) -> Tensor:
    """What the model writes, as ids (tokens, streams): text of the kind that the export will see."""
    made = [generate_tokens(model, [eos], tokens, seed=seed) for seed in range(streams)]
    return torch.tensor(made).t().contiguous()


def _compare(
    model: LanguageModel, run: Run, graph: GraphName, batch: int | Literal["dynamic"], eos: int
) -> dict[str, Any]:
    """Run a chain of steps in the runtime and in PyTorch, with numbers of texts that the export was not made with."""
    largest = 0.0
    batches = (1, 3) if batch == "dynamic" else (batch,)
    for count in batches:
        state: list[Tensor] = zero_state(model, count)
        carried = None
        # A sequence is run in windows of several lengths.
        for window in _text(model, eos, _STEPS, count).split(1 if graph == "step" else [1, 7, _STEPS - 8]):
            logits, *state = run([window[0] if graph == "step" else window, *state])
            with torch.no_grad():
                wanted, carried = model(window, carried)
            wanted = wanted[0] if graph == "step" else wanted
            parts = [part.squeeze(0) for layer in carried for part in layer]
            largest = max(largest, largest_difference([logits, *state], [wanted, *parts]))
    require(largest <= TOLERANCE, f"after {_STEPS} steps it differs from PyTorch by {largest:.2g}, above {TOLERANCE}")
    return {"steps": _STEPS, "batches": list(batches), "largest_difference": largest}


def _compare_perplexity(
    model: LanguageModel, run: Run, graph: GraphName, batch: int | Literal["dynamic"], eos: int
) -> dict[str, Any]:
    """Let the runtime and PyTorch predict the same text."""
    count = 1 if batch == "dynamic" else batch
    text = _text(model, eos, -(-_TOKENS // count) + 1, count)
    state: list[Tensor] = zero_state(model, count)
    made = []
    for window in text[:-1].split(1 if graph == "step" else _STEPS):
        logits, *state = run([window[0] if graph == "step" else window, *state])
        made.append(logits.view(-1, count, model.vocab_size))
    with torch.no_grad():
        exact = math.exp(F.cross_entropy(model(text[:-1])[0].flatten(0, 1), text[1:].flatten()).item())
    found = math.exp(F.cross_entropy(torch.cat(made).flatten(0, 1), text[1:].flatten()).item())
    require(found <= _WORSE * exact, f"its perplexity is {found:.3f}, that of PyTorch {exact:.3f} on the same text")
    return {"tokens": text[1:].numel(), "perplexity": found, "perplexity_of_pytorch": exact}
