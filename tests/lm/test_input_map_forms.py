"""The input maps that the benchmark compares with the ERU's."""

import importlib
import json
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from eru import ERU, EESPGates
from eru.lm.build import count_parameters
from eru.lm.evaluation import evaluate_tokens
from eru.lm.recipes import make_recipe
from eru.lm.text.tokenizer import build_tokenizer
from eru.lm.text.tokens import encode_corpus
from eru.training import RunFolder


@pytest.fixture(scope="module")
def input_maps():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        module = importlib.import_module("input_maps")
        yield module
        for name in ("input_maps", "forms", "ptb", "environment"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def forms(input_maps):
    return sys.modules["forms"]


def test_without_a_slope_change_activations_do_nothing(forms):
    active, plain = forms.Activated(12, 4 * 16).double(), EESPGates(12, 4 * 16).double()
    assert sum(isinstance(module, torch.nn.PReLU) for module in active.modules()) == 2
    plain.load_state_dict(active.state_dict(), strict=False)
    x = torch.randn(5, 3, 12, dtype=torch.float64)
    assert not torch.allclose(active(x), plain(x))
    for name, parameter in active.named_parameters():
        if "activation" in name:
            torch.nn.init.ones_(parameter)
    torch.testing.assert_close(active(x), plain(x))


@pytest.mark.parametrize("width", [16, 12])
def test_the_residual_adds_the_input_to_every_gate_of_its_width(forms, width):
    residual, plain = forms.Residual(16, 4 * width).double(), EESPGates(16, 4 * width).double()
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(5, 3, 16, dtype=torch.float64)
    added = (residual(x) - plain(x)).unflatten(-1, (4, width))
    expected = x.unsqueeze(2).expand(5, 3, 4, 16) if width == 16 else torch.zeros_like(added)
    torch.testing.assert_close(added, expected)


def test_a_grouped_map_reads_its_quarter(forms):
    grouped = forms.Grouped(8, 4 * 12).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    gates = grouped(x)
    for group, weight in enumerate(grouped.weight):
        for gate in range(4):
            outputs = slice(12 * gate + 3 * group, 12 * gate + 3 * group + 3)
            expected = x[..., 2 * group : 2 * group + 2] @ weight[:, 3 * gate : 3 * gate + 3]
            torch.testing.assert_close(gates[..., outputs], expected)


@pytest.mark.parametrize("recipe", ["small", "paper-7m"])
def test_all_models_are_of_one_size(input_maps, forms, recipe):
    plain = make_recipe(recipe, recurrent_groups=1)
    wanted = count_parameters(make_recipe(recipe), 10_000)
    with torch.device("meta"):
        for form in forms.FORMS:
            model = input_maps.make_model(form, plain, 10_000)
            assert abs(sum(p.numel() for p in model.parameters()) / wanted - 1) < 0.01, form


@pytest.mark.parametrize("pieces", [(11,), (5, 1, 2, 3)])
def test_over_time_the_branches_see_the_past_across_calls(forms, pieces):
    """Against a convolution padded with zeros before the first step."""
    rnn = forms.OverTimeERU(6, 8).double()
    unit = rnn.cells["l0"].input_transform
    torch.nn.init.normal_(unit.branch_weight)
    x, state, outputs, gates = torch.randn(11, 2, 6, dtype=torch.float64), None, [], []
    unit.register_forward_hook(lambda *call: gates.append(call[2]))
    for piece in x.split(pieces):
        output, state = rnn(piece, state)
        outputs.append(output)
    assert state[2].shape == (8, 2, 4, unit.width)
    reduced = unit._reduce(x.flatten(0, 1), unit.reduce_weight).view(4, 11, 2, -1)
    reduced = reduced.permute(2, 0, 3, 1).flatten(1, 2)  # (B, S d, T)
    fused, total = [], 0
    for weight, d in zip(unit.branch_weight.chunk(4), unit.dilations, strict=True):
        padded = torch.nn.functional.pad(reduced, (2 * d, 0))
        total = total + torch.nn.functional.conv1d(padded, weight, dilation=d, groups=reduced.shape[1])
        fused.append(total.unflatten(1, (4, -1)))
    rows = torch.stack(fused).permute(0, 4, 1, 2, 3).flatten(1, 2)
    torch.testing.assert_close(
        torch.cat(gates).flatten(0, 1), unit._expand(rows, unit.expand_weight).transpose(0, 1).flatten(1)
    )
    torch.testing.assert_close(torch.cat(outputs), rnn(x)[0])


def test_over_time_only_the_tap_of_the_present_starts_nonzero(forms):
    taps = forms.OverTime(16, 64).branch_weight.detach()
    assert taps[..., 2].all()
    assert not taps[..., :2].any()


@pytest.mark.parametrize("groups", [4, 8])
def test_models_with_recurrent_groups_are_wider_and_as_large(input_maps, groups):
    recipe = make_recipe("small", recurrent_groups=groups)
    with torch.device("meta"):
        wanted = count_parameters(make_recipe("small"), 10_000)
        for form in ("feature", "lstm", "low rank"):
            model = input_maps.make_model(form, recipe, 10_000)
            dense = input_maps.make_model(form, make_recipe("small", recurrent_groups=1), 10_000)
            assert model.layers[0].hidden_size > dense.layers[0].hidden_size
            assert all(layer.cells["l0"].recurrent_groups == groups for layer in model.layers)
            assert abs(sum(p.numel() for p in model.parameters()) / wanted - 1) < 0.008, form


def test_every_map_learns_in_a_layer(forms):
    x = torch.randn(7, 2, 8)
    for form, make in forms.FORMS.items():
        layer = forms.OverTimeERU(8, 16) if form == "time" else ERU(8, 16, input_transform=make)
        output, _ = layer(x)
        output.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in layer.parameters()), form


@pytest.fixture
def call(input_maps, corpus, tmp_path, monkeypatch):
    """``call(*options)`` trains on the tests' text for an epoch and gives the table that was written."""
    monkeypatch.setattr(input_maps, "load_corpus", lambda name, data_dir: corpus)
    monkeypatch.setattr(sys.modules["environment"], "RESULTS", tmp_path)

    def run(*options):
        common = ["--recipe", "small", "--epochs", "1", "--batch-size", "4", "--precision", "float32", "--out"]
        monkeypatch.setattr(sys, "argv", ["input_maps.py", *common, str(tmp_path / "runs"), *options])
        input_maps.main()
        return json.loads((tmp_path / "runs_small.json").read_text())["rows"]

    return run


def test_the_table_has_a_row_for_every_run_folder(call, tmp_path):
    (first,) = call("--forms", "low rank", "--rates", "4e-3")
    metrics = tmp_path / "runs" / "small" / "low-rank-0.004-1" / "metrics.jsonl"
    before = metrics.read_bytes()
    rows = call("--forms", "low rank,lstm", "--rates", "4e-3", "--seeds", "1,2")
    found = sorted((row["form"], row["recipe"]["seed"]) for row in rows)
    assert found == list(product(("low rank", "lstm"), (1, 2)))
    assert first in rows
    assert metrics.read_bytes() == before, "a finished form was trained again"


def test_a_row_tells_how_well_the_trained_form_predicts(call, input_maps, corpus, tmp_path):
    (row,) = call("--forms", "shared reduce")
    tokenizer = build_tokenizer("word", corpus.lines("train"), None)
    recipe = make_recipe("small", **input_maps.COMMON, recurrent_groups=1)
    model = input_maps.make_model("shared reduce", recipe, tokenizer.vocab_size)
    model.load_state_dict(RunFolder.open(tmp_path / "runs" / "small" / "shared-reduce-0.002-1").load_weights("cpu"))
    expected = evaluate_tokens(model, encode_corpus(corpus, tokenizer)["valid"].ids, batch_size=4).perplexity
    assert row["valid_perplexity"] == [pytest.approx(expected, abs=0.006)]
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert row["hidden_size"] == model.layers[0].hidden_size
    assert row["data"] == {"fingerprint": corpus.fingerprint}
