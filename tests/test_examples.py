import datetime
import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import vision
from eru import ERU, ERUCell, lm
from vision.data import write_shapes

FOLDER = Path(__file__).parents[1] / "examples"
CELLS = ["eru", "lstm"]
PAIRS = {"eru": (ERU, ERUCell), "lstm": (nn.LSTM, nn.LSTMCell)}
TEXT = "the quick brown fox jumps over the lazy dog\n" * 60
# What makes each example a matter of seconds, and the cells that it takes.
TINY = {
    "forecast": (["--steps", "1"], CELLS),
    "tag": (["--steps", "1"], CELLS),
    "translate": (["--steps", "1"], CELLS),
    "characters": ([str(FOLDER / "program.py"), "--epochs", "1", "--hidden", "16"], CELLS),
    "finetune_segmenter": (["--steps", "1", "--pictures", "16", "--side", "32"], [None]),
    "features": (["--steps", "1", "--digits", "150", "--draws", "1"], [None]),
}
NAMES = list(TINY)
WITH_BOTH_CELLS = ["forecast", "tag", "translate"]
LOWER_IS_BETTER = {"forecast", "characters"}


sys.path.insert(0, str(FOLDER))  # as for a program that is started there, which finds program.py


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {name: load(name) for name in NAMES}
forecast, tag, translate, characters, finetune_segmenter, features = MODULES.values()


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


def tiny(name: str, capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    return run(name, capsys, *TINY[name][0], *options)[1]


def margin(result: dict) -> float:
    """By what the score beats the best baseline; negative where it does not."""
    if result["example"] in LOWER_IS_BETTER:
        return min(result["baselines"].values()) - result["score"]
    return result["score"] - max(result["baselines"].values())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("name", "steps"), [("forecast", 20), ("tag", 20), ("translate", 80)])
def test_a_short_run_beats_the_naive_answer(
    name: str, steps: int, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = run(name, capsys, "--cell", cell, "--steps", str(steps))
    assert (result["example"], result["cell"], result["steps"], result["seed"]) == (name, cell, steps, 0)
    persistence = result["baselines"].get("persistence", 0)  # The linear forecast takes more steps to beat.
    assert max(margin(result), persistence - result["score"]) > 0.1
    assert result["reached"] == (
        result["score"] <= result["goal"] if name == "forecast" else result["score"] >= result["goal"]
    )
    assert code == (0 if result["reached"] else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BOTH_CELLS)  # the others take minutes
def test_the_default_run_reaches_its_goal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run(name, capsys)
    assert (code, result["reached"]) == (0, True)
    assert margin(result) > 0
    if name == "forecast":
        assert result["score"] < result["baselines"]["linear"] / 2


@pytest.mark.parametrize(("name", "cell"), [(name, cell) for name, (_, cells) in TINY.items() for cell in cells])
def test_every_example_ends_in_a_picture(
    name: str, cell: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "picture.png"
    result = tiny(name, capsys, "--picture", str(path), *(["--cell", cell] if cell else []))
    assert result.get("cell") == cell
    assert all(map(math.isfinite, [result["score"], *result["baselines"].values()]))
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    with Image.open(path) as picture:
        assert (picture.format, picture.width) == ("PNG", 960)
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()  # the corners are white
    assert 0.01 < (pixels != 255).any(axis=2).mean() < 0.9
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_everything_and_nothing_is_written_unasked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, again, other = (tiny(name, capsys, "--seed", seed) for seed in ("3", "3", "4"))
    for result in (first, again, other):
        del result["seconds"], result["seed"]
    assert first == again
    assert first != other
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "one"], "--seed: invalid int value: 'one'"),
        (["--picture", "picture.jpg"], "--picture: must end in .png and lie in a folder that is there"),
        (["--picture", "no such folder/picture.png"], "--picture: must end in .png and lie in a folder that is there"),
    ],
)
def test_a_usage_error_exits_with_2(
    name: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        MODULES[name].main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell", "gru"], "invalid choice: 'gru'"),
        (["--steps", "0"], "--steps: must be at least 1, got 0"),
        (["--steps", "many"], "--steps: invalid count value: 'many'"),
    ],
)
def test_cells_and_counts_are_checked(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        forecast.main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_picture_without_matplotlib_is_refused_before_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        forecast.main(["--picture", "picture.png"])
    assert "needs matplotlib, which comes with pip install -e '.[plots]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", WITH_BOTH_CELLS)
def test_the_cells_differ_in_one_line(name: str) -> None:
    code = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert len(re.findall(r"^.*\bnn\.LSTM.*$", code, re.MULTILINE)) == 1


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


def test_of_one_input_the_eru_has_more_weights_for_a_state_of_equal_size() -> None:
    eru, lstm = (sum(p.numel() for p in forecast.Forecaster(cell).parameters()) for cell in (ERUCell, nn.LSTMCell))
    assert eru > lstm


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
    answers = tag.most_frequent_tag(train_pairs, test_pairs)
    assert answers == ["mmmm.m", "mm"]
    assert tag.accuracy(answers, test_pairs) == 4 / 7


def test_dates_are_written_in_six_ways() -> None:
    assert translate.ways(datetime.date(1987, 3, 3)) == [
        "the 3rd of march 1987",
        "3 mar 1987",
        "march 3, 1987",
        "mar 3rd 1987",
        "tuesday, 3 march 1987",
        "1987, march the 3rd",
    ]


@pytest.mark.parametrize(
    ("numbers", "suffix"),
    [([1, 21, 31], "st"), ([2, 22], "nd"), ([3, 23], "rd"), ([4, 10, 11, 12, 13, 14, 20, 30], "th")],
)
def test_days_have_their_ordinal_suffix(numbers: list[int], suffix: str) -> None:
    for number in numbers:
        assert translate.ways(datetime.date(2000, 1, number))[0] == f"the {number}{suffix} of january 2000"


@pytest.mark.parametrize("cell", CELLS)
def test_a_translation_does_not_hang_on_the_batch_padding(cell: str) -> None:
    torch.manual_seed(0)
    model = translate.Translator(*PAIRS[cell])
    days = [datetime.date(1900, 1, 1) + datetime.timedelta(days=1000 * n) for n in range(8)]
    source, lengths, _ = translate.encode([translate.ways(day)[n % 6] for n, day in enumerate(days)], days)
    assert len(set(lengths.tolist())) > 1
    together, attention = model(source, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, looked = model(source[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(attention[row, :, :length], looked[0], atol=1e-5, rtol=1e-4)
        assert not attention[row, :, length:].any()


def test_greedy_decoding_is_teacher_forcing_on_its_own_answer() -> None:
    torch.manual_seed(0)
    model = translate.Translator(ERU, ERUCell)
    days = [datetime.date(1987, 3, 3)] * 6
    source, lengths, target = translate.encode(translate.ways(days[0]), days)
    greedy, _ = model(source, lengths)
    answer = torch.cat([torch.zeros_like(target[:, :1]), greedy.argmax(dim=-1)], dim=1)
    torch.testing.assert_close(model(source, lengths, answer)[0], greedy)
    assert not torch.equal(model(source, lengths, target)[0], greedy)


def test_a_text_is_split_into_whole_lines_of_which_a_twentieth_is_held_out(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(100)) + "the end"
    folder = characters.split(text, tmp_path / "text")
    train, valid = ((folder / f"{name}.txt").read_text(encoding="utf-8") for name in ("train", "valid"))
    assert train + valid == text
    assert valid == "line 96\nline 97\nline 98\nline 99\nthe end"


def test_a_character_model_of_a_text_of_ones_own_is_kept_and_writes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    _, result = run(
        "characters",
        capsys,
        str(tmp_path / "my.txt"),
        "--epochs",
        "1",
        "--hidden",
        "16",
        "--out",
        str(tmp_path / "run"),
    )
    model = lm.open_run(tmp_path / "run")
    assert (model.recipe.tokenizer, model.recipe.cell, model.recipe.hidden_size) == ("char", "eru", 16)
    assert set(lm.generate(model, "the ", 50, seed=0)) <= set(TEXT)
    assert math.log2(lm.evaluate(model, "valid").perplexity) == pytest.approx(result["score"], abs=0.2)


def test_the_segmenter_is_fine_tuned_on_a_folder_from_a_file_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes("voc", tmp_path / "folder", train=16, val=2, size=(32, 40))
    first, second = (str(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    options = ["--data", str(tmp_path / "folder"), "--steps", "1", "--side", "32"]
    run("finetune_segmenter", capsys, *options, "--save", first)
    run("finetune_segmenter", capsys, *options, "--save", second, "--weights", first)
    before, after = (vision.create_model("espnetv2_050_seg_voc", weights=file).eval() for file in (first, second))
    assert before.num_classes == after.num_classes == 7
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(before(image)["out"], after(image)["out"])


def test_masks_are_mirrored_with_their_pictures(tmp_path: Path) -> None:
    write_shapes("voc", tmp_path / "folder", train=6, val=1, size=(32, 32))
    plain, mirrored = (
        finetune_segmenter.Pictures(tmp_path / "folder", "train", 32, mirrored=share)[3] for share in (0.0, 1.0)
    )
    for straight, turned in zip(plain, mirrored, strict=True):
        torch.testing.assert_close(turned, straight.flip(-1))


def test_digits_lie_whole_in_their_pictures_at_different_places() -> None:
    torch.manual_seed(0)
    placed = features.place(torch.ones(64, 1, 8, 8))[:, 0]
    ink = placed > placed.mean()
    sides = ink.any(dim=1).sum(dim=1), ink.any(dim=2).sum(dim=1)
    assert min(side.min() for side in sides) > features.SIDE / 2.2 - 2
    assert max(side.max() for side in sides) < features.SIDE / 1.3 * 9 / 8 + 1  # Edges fade over half a pixel.
    assert len({tuple(row.tolist()) for row in ink.any(dim=1)}) > 30


def test_features_from_a_file_take_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "weights.safetensors")
    vision.save_weights(vision.create_model("espnetv2_050_seg_voc"), file)
    result = tiny("features", capsys, "--weights", file)
    backbone = vision.create_model("espnetv2_050", features_only=True, out_indices=features.LEVELS)
    assert result["parameters"] == sum(p.numel() for p in backbone.parameters())
