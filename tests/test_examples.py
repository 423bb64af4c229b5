import datetime
import importlib.util
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eru import ERU, ERUCell

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = ["forecast", "tag", "translate"]
CELLS = ["eru", "lstm"]
PAIRS = {"eru": (ERU, ERUCell), "lstm": (nn.LSTM, nn.LSTMCell)}


sys.path.insert(0, str(FOLDER))  # as for a program that is started there, which finds program.py


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


forecast, tag, translate = map(load, NAMES)
MODULES = dict(zip(NAMES, (forecast, tag, translate), strict=True))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the programs do for themselves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(name: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict]:
    code = MODULES[name].main(list(options))
    (line,) = capsys.readouterr().out.splitlines()
    return code, json.loads(line)


def margin(result: dict) -> float:
    """By what the score beats the best baseline; negative where it does not."""
    if result["example"] == "forecast":
        return result["baselines"]["persistence"] - result["score"]
    return result["score"] - max(result["baselines"].values())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("name", "steps"), [("forecast", 20), ("tag", 20), ("translate", 80)])
def test_a_short_run_beats_the_naive_answer(
    name: str, steps: int, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = run(name, capsys, "--cell", cell, "--steps", str(steps))
    assert (result["example"], result["cell"], result["steps"], result["seed"]) == (name, cell, steps, 0)
    assert margin(result) > 0.1
    assert result["reached"] == (
        result["score"] <= result["goal"] if name == "forecast" else result["score"] >= result["goal"]
    )
    assert code == (0 if result["reached"] else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_default_run_reaches_its_goal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run(name, capsys)
    assert (code, result["cell"], result["reached"]) == (0, "eru", True)
    if name == "forecast":
        assert result["score"] < result["baselines"]["linear"] / 2


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_everything(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (run(name, capsys, "--steps", "1", "--seed", seed)[1] for seed in ("3", "3", "4"))
    for result in (first, again, other):
        del result["seconds"], result["seed"]
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell", "gru"], "invalid choice: 'gru'"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--steps", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_usage_error_exits_with_2(
    name: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        MODULES[name].main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_the_cells_differ_in_one_line(name: str) -> None:
    code = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert len(re.findall(r"^.*\b(?:nn\.LSTM|args\.cell).*$", code, re.MULTILINE)) == 1


def test_as_a_program_it_prints_one_line_and_exits_with_1_short_of_the_goal() -> None:
    command = [sys.executable, str(FOLDER / "forecast.py"), "--cell", "lstm", "--steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["reached"] is False


def test_mackey_glass_without_delay_settles_where_its_derivative_is_zero() -> None:
    # 0.2 x / (1 + x^10) = 0.1 x at x = 1
    torch.testing.assert_close(forecast.mackey_glass(20, delay=0.0), torch.ones(20))


def test_mackey_glass_at_delay_17_swings_over_its_known_attractor() -> None:
    series = forecast.mackey_glass(600)
    assert 0.2 < series.min() < 0.6
    assert 1.2 < series.max() < 1.4


@pytest.mark.parametrize("cell", [ERUCell, nn.LSTMCell])
def test_a_forecast_continues_from_its_own_predictions(cell: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = forecast.Forecaster(cell)
    context = torch.randn(3, 5)
    expected = context
    for _ in range(4):
        expected = torch.cat([expected, model(expected, 1)[:, -1:]], dim=1)
    torch.testing.assert_close(model(context, 4)[:, -4:], expected[:, 5:])


@given(st.text(alphabet="()[]abcd", max_size=40))
def test_matching_is_what_removing_innermost_pairs_finds(text: str) -> None:
    expected = ["." if char in "abcd" else "u" for char in text]
    for pair in ("()", "[]"):
        rest = [(i, char) for i, char in enumerate(text) if char in pair]
        while (at := "".join(char for _, char in rest).find(pair)) >= 0:
            for i, _ in rest[at : at + 2]:
                expected[i] = "m"
            del rest[at : at + 2]
    assert tag.matching(text) == "".join(expected)


@pytest.mark.parametrize("cell", CELLS)
def test_tags_do_not_hang_on_the_batch_padding(cell: str) -> None:
    torch.manual_seed(0)
    model = tag.Tagger(PAIRS[cell][0])
    pairs = [(text, tag.matching(text)) for text in ("a(b", "(a)[]]b(c", "]")]
    together = model(*tag.encode(pairs)[:2])
    for row, (text, _) in enumerate(pairs):
        alone = model(*tag.encode([pairs[row]])[:2])
        torch.testing.assert_close(together[row, : len(text)], alone[0])


def test_the_tag_baseline_counts_what_characters_are_most_often() -> None:
    train_pairs = [("()(", "mmu"), ("(a)", "m.m")]  # "(" is most often m, ")" always
    test_pairs = [("(())a)", "mmmm.u"), ("((", "uu")]  # 4 of 7 brackets are m
    assert tag.most_frequent_tag(train_pairs, test_pairs) == round(4 / 7, 4)


def test_dates_are_written_in_six_ways() -> None:
    rng, day = random.Random(0), datetime.date(1987, 3, 3)
    assert {translate.write(rng, day) for _ in range(200)} == {
        "the 3rd of march 1987",
        "3 mar 1987",
        "march 3, 1987",
        "mar 3rd 1987",
        "tuesday, 3 march 1987",
        "1987, march the 3rd",
    }


@pytest.mark.parametrize(
    ("numbers", "suffix"),
    [([1, 21, 31], "st"), ([2, 22], "nd"), ([3, 23], "rd"), ([4, 10, 11, 12, 13, 14, 20, 30], "th")],
)
def test_days_have_their_ordinal_suffix(numbers: list[int], suffix: str) -> None:
    rng = random.Random(0)
    for number in numbers:
        ways = {translate.write(rng, datetime.date(2000, 1, number)) for _ in range(100)}
        assert f"the {number}{suffix} of january 2000" in ways


@pytest.mark.parametrize("cell", CELLS)
def test_a_translation_does_not_hang_on_the_batch_padding(cell: str) -> None:
    torch.manual_seed(0)
    model = translate.Translator(*PAIRS[cell])
    days = [datetime.date(1900, 1, 1) + datetime.timedelta(days=1000 * n) for n in range(8)]
    source, lengths, _ = translate.encode(random.Random(0), days)
    assert len(set(lengths.tolist())) > 1
    together = model(source, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(source[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)


def test_greedy_decoding_is_teacher_forcing_on_its_own_answer() -> None:
    torch.manual_seed(0)
    model = translate.Translator(ERU, ERUCell)
    source, lengths, target = translate.encode(random.Random(0), [datetime.date(1987, 3, 3)] * 4)
    greedy = model(source, lengths)
    answer = torch.cat([torch.zeros_like(target[:, :1]), greedy.argmax(dim=-1)], dim=1)
    torch.testing.assert_close(model(source, lengths, answer), greedy)
    assert not torch.equal(model(source, lengths, target), greedy)
