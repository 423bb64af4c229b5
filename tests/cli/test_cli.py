import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean
from unittest.mock import Mock

import pytest
import torch
from click.testing import CliRunner

import eru
from eru.lm.build import build_model
from eru.lm.recipes import RECIPES, make_recipe, shape_of
from eru.lm.run import open_run
from eru.training import Limits
from eru_cli import main
from eru_cli.options import speaks

ROOT = Path(__file__).parents[2]
SURFACE = {
    "export": [
        "--batch",
        "--calibrate",
        "--format",
        "--graph",
        "--json",
        "--labels",
        "--multi-label",
        "--nms",
        "--num-classes",
        "--out",
        "--quantize",
        "--size",
        "--web",
        "--weights",
        "RUN_OR_MODEL",
    ],
    "lm-train": [
        "--data",
        "--data-dir",
        "--deterministic",
        "--device",
        "--epochs",
        "--from",
        "--json",
        "--max-steps",
        "--minutes",
        "--out",
        "--precision",
        "--recipe",
        "--resume",
        "--set",
    ],
    "lm-eval": [
        "--cache",
        "--choose-tokens",
        "--data",
        "--data-dir",
        "--device",
        "--dynamic",
        "--json",
        "--set",
        "--split",
        "--temperature",
        "RUN",
    ],
    "lm-generate": [
        "--device",
        "--json",
        "--prompt",
        "--seed",
        "--temperature",
        "--tokens",
        "--top-k",
        "--top-p",
        "[RUN]",
    ],
    "paper": ["--json"],
    "predict": [
        "--device",
        "--json",
        "--labels",
        "--model",
        "--multi-label",
        "--num-classes",
        "--out",
        "--size",
        "--threshold",
        "--top-k",
        "--weights",
        "PICTURE...",
    ],
    "summary": ["--input", "--json", "--vocab-size", "NAME"],
    "vision-eval": [
        "--batch-size",
        "--broken",
        "--data",
        "--device",
        "--json",
        "--layout",
        "--pictures",
        "--precision",
        "--size",
        "--split",
        "--submission",
        "--weights",
        "--workers",
        "RUN_OR_MODEL",
    ],
    "vision-shapes": ["--json", "--layout", "--out", "--seed", "--train", "--val"],
    "vision-train": [
        "--broken",
        "--data",
        "--deterministic",
        "--device",
        "--epochs",
        "--json",
        "--layout",
        "--max-steps",
        "--minutes",
        "--model",
        "--out",
        "--precision",
        "--recipe",
        "--resume",
        "--set",
        "--splits",
        "--task",
        "--weights",
        "--weights-backbone",
        "--workers",
    ],
}
LIMITS = {"paper-7m": 7.0e6, "paper-15m": 15.0e6, "awd-7m": 7.0e6, "awd-15m": 15.0e6, "lstm-7m": 7.0e6}


def ids_of(corpus, split, run):
    """The tokens of a split, read with nothing of the library but the list of words."""
    types = json.loads((run / "tokenizer" / "tokenizer.json").read_text())["types"]
    words = (corpus / f"{split}.txt").read_text().replace("\n", " <eos> ").split()
    return [types.index(word if word in types else "<unk>") for word in words]


def records(run, event):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def contents(run):
    return {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def command_line(*arguments, **environment):
    """``python cli.py`` as a person runs it."""
    return subprocess.run(
        [sys.executable, ROOT / "cli.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_the_surface_grows_only_on_purpose():
    surface = {
        name: sorted(
            parameter.make_metavar(None) if parameter.param_type_name == "argument" else max(parameter.opts, key=len)
            for parameter in command.params
        )
        for name, command in main.commands.items()
    }
    assert surface == SURFACE


def test_training_answers_in_json(trained, corpus):
    run, answer = trained
    said, tokens = answer.json, {split: ids_of(corpus, split, run) for split in ("train", "valid")}
    windows = math.ceil((len(tokens["train"]) // 2 - 1) / 10)
    assert (said["run"], said["epochs"], said["steps"]) == (str(run), 2, 2 * windows)
    assert said["parameters"] == sum(p.numel() for p in open_run(run).load_model().parameters())
    assert said["unknown_rate"] == tokens["valid"].count(0) / len(tokens["valid"]) > 0
    epochs = records(run, "epoch")
    assert said["train_perplexity"] == pytest.approx(math.exp(epochs[-1]["train_loss"]))
    assert said["valid_perplexity"] == pytest.approx(math.exp(min(epoch["valid_loss"] for epoch in epochs)))
    for baseline in ("unigram_perplexity", "bigram_perplexity"):
        assert 1 < said[baseline] < 2 * len(set(tokens["train"]))
    assert said["tokens_per_second"] > 0


def test_training_tells_people_all_on_stderr(trained):
    answer = trained[1]
    for shown in ("parameters", "training tokens", "unigram", "bigram", "a sample of what it writes:", "next:"):
        assert shown in answer.err


def test_without_json_the_answer_is_text_on_stdout(train):
    answer = train("--max-steps=1")
    assert answer.code == 0
    assert "unigram" in answer.out
    assert "unigram" not in answer.err


def test_a_training_ends_with_what_was_learned_and_where_it_is(trained):
    run, answer = trained
    said = answer.json
    shown = answer.err.splitlines()
    start = next(n for n, line in enumerate(shown) if line.startswith(f"{run}: finished after step {said['steps']}, "))
    assert "2 of 2 epochs complete" in shown[start]
    told = "\n".join(shown[start:])
    for name in ("valid_perplexity", "train_perplexity", "unigram_perplexity", "bigram_perplexity"):
        assert f" {said[name]:.2f}  " in told
    assert told.index("baselines, which only count") < told.index("(interpolated bigram)") < told.index("(unigram)")
    for name in ("model.safetensors", "README.md", "curve.png"):
        assert (f"{name} (" in told) == (run / name).exists()


def next_steps(told):
    """The commands that an answer says to type next, as lists of words."""
    lines = told.splitlines()
    return [shlex.split(line, comments=True) for line in lines[lines.index("next:") + 1 :]]


def test_the_next_steps_of_a_training_can_be_typed(call, train, tmp_path):
    stopped = next_steps(train("--max-steps=1").out)
    assert [step[1] for step in stopped] == ["lm-train", "lm-generate", "lm-eval"]
    assert call(*stopped[0][1:], "--device=cpu", "--json").json["finished"]
    finished = next_steps(train("--resume").out)
    assert finished == stopped[1:]
    for step in finished:
        assert step[0] == "eru"
        assert call(*step[1:], "--device=cpu").code == 0


def test_the_next_steps_fit_the_text(call, train, corpus, tmp_path):
    folder = shutil.copytree(corpus, tmp_path / "without")
    (folder / "test.txt").unlink()
    for step in next_steps(train("--max-steps=1", data=folder).out):
        assert call(*step[1:], "--device=cpu").code == 0


def test_what_is_not_known_is_null_and_not_nan(train):
    answer = train("--minutes=1e-9", "--json").json
    assert (answer["steps"], answer["train_perplexity"], answer["valid_perplexity"]) == (0, None, None)


@pytest.mark.parametrize(("gpu", "device"), [(False, "cpu"), (True, "cuda")])
def test_the_default_recipe_is_the_same_everywhere(call, corpus, monkeypatch, gpu, device):
    def stop(recipe, *_, device, **__):
        raise ValueError(f"{recipe.name} on {device}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("eru_cli.lm.train", stop)
    assert call("lm-train", "--data", corpus).err.splitlines() == [f"Error: small on {device}"]


def test_the_default_folder_is_named_after_corpus_and_recipe(call, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("--recipe=small", "--max-steps=1", "--set=hidden_size=4", "--set=embedding_size=4", "--json")
    assert call("lm-train", "--data", corpus, *arguments).json["run"] == "runs/tiny-small"
    assert open_run(tmp_path / "runs" / "tiny-small").recipe.hidden_size == 4
    resumed = call("lm-train", "--data", corpus, "--device=cpu", "--resume", "--max-steps=2", "--json").json
    assert (resumed["run"], resumed["steps"]) == ("runs/tiny-small", 2)


def test_resume_starts_goes_on_and_ends(train, tmp_path):
    run = tmp_path / "run"
    assert train("--resume", "--max-steps=3", "--json").json["steps"] == 3
    assert train("--resume", "--max-steps=6", "--json").json["steps"] == 6
    assert [record["step"] for record in records(run, "step")] == [1, 2, 3, 4, 5, 6]
    whole = contents(run)
    assert train("--resume", "--max-steps=6", "--json").json["steps"] == 6
    assert contents(run) == whole


def test_a_resumed_run_equals_a_whole_one(train, tmp_path):
    train("--epochs=1", "--max-steps=3")
    resumed = train("--resume", "--epochs=1", "--json").json
    (tmp_path / "run").rename(tmp_path / "resumed")
    whole = train("--epochs=1", "--json").json
    differing = {"tokens_per_second"}
    assert {k: v for k, v in resumed.items() if k not in differing} == {
        k: v for k, v in whole.items() if k not in differing
    }
    assert contents(tmp_path / "resumed")["model.safetensors"] == contents(tmp_path / "run")["model.safetensors"]


def test_a_call_ends_when_its_minutes_are_over(train, tmp_path, monkeypatch):
    seconds = iter([0, 419, 419, 420])  # At the start of the call, before its first step, and after each.
    limits = partial(Limits, clock=lambda: next(seconds))
    monkeypatch.setattr(sys.modules["eru.lm.loop"], "Limits", limits)
    answer = train("--minutes=7", "--epochs=1", "--json")
    assert (answer.json["steps"], answer.json["finished"]) == (2, False)
    run = tmp_path / "run"
    assert "stopped in epoch 1 of 1, step 2, " in answer.err
    assert f"{run}: stopped after step 2, 0 of 1 epochs complete; " in answer.err
    assert f"  eru lm-train --resume --out {run} " in answer.err
    monkeypatch.undo()
    answer = train("--minutes=1e6", "--epochs=1", "--resume", "--json")
    assert (answer.json["epochs"], answer.json["finished"]) == (1, True)
    assert "--resume" not in answer.err


@pytest.mark.parametrize("given", [[], ["--epochs=2"], ["--set=epochs=2"], ["--recipe=small"]])
def test_resume_takes_its_options_from_the_folder(call, train, corpus, tmp_path, monkeypatch, given):
    """Whatever the first call was given; what a later one gives besides must agree with it."""
    monkeypatch.chdir(tmp_path)
    options = ("--epochs=2", "--precision=bfloat16", "--set=learning_rate=0.01", "--set=kernel_size=5")
    train(*options)
    (tmp_path / "run").rename(tmp_path / "whole")
    train(*options, "--max-steps=3")
    answer = call("lm-train", "--resume", "--out", tmp_path / "run", "--device=cpu", *given)
    if "--recipe=small" in given:
        assert (answer.code, "recipe.hidden_size (saved 8, given 368)" in answer.err) == (2, True)
        return
    assert answer.code == 0, answer
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resume_of_a_folder_that_holds_nothing_starts_there(call, corpus, tmp_path):
    sizes = ("--set=hidden_size=4", "--set=embedding_size=4", "--max-steps=1", "--device=cpu")
    said = call("lm-train", "--resume", "--out", tmp_path / "run", "--data", corpus, *sizes, "--json").json
    assert said["steps"] == 1


def test_a_run_starts_from_another(train, run, tmp_path):
    run.rename(tmp_path / "older")
    said = train("--from", tmp_path / "older", "--set=averaging=true", "--set=nonmonotone_interval=0", "--json").json
    assert said["finished"]
    assert open_run(tmp_path / "run").folder.config["start"]["run"] == "older"


def test_a_run_from_another_has_its_shape(call, run, corpus, tmp_path):
    """Whatever the recipe's own is, unless another is asked for in so many words."""
    options = ("--data", corpus, "--out", tmp_path / "newer", "--recipe=awd-7m", "--device=cpu", "--max-steps=1")
    said = call("lm-train", "--from", run, *options, "--json").json
    older, newer = open_run(run).recipe, open_run(tmp_path / "newer").recipe
    assert said["steps"] == 1
    assert shape_of(newer) == shape_of(older) != shape_of(make_recipe("awd-7m"))
    assert newer == replace(make_recipe("awd-7m"), **shape_of(older))


def test_the_seed_decides_the_weights(train, tmp_path):
    weights = []
    for index, seed in enumerate((5, 5, 6)):
        train("--max-steps=1", f"--set=seed={seed}")
        assert open_run(tmp_path / "run").recipe.seed == seed
        weights.append((tmp_path / "run" / "model.safetensors").read_bytes())
        (tmp_path / "run").rename(tmp_path / str(index))
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("arguments", "vocabulary"),
    [
        (["--set=vocab_size=7"], 7),
        (["--set=tokenizer=char"], len(set("thecatdogsatonmataredbigrantohouseandsawbird ")) + 2),
        (["--set=tokenizer=sentencepiece", "--set=vocab_size=300"], 300),
    ],
)
def test_the_vocabulary_is_what_was_asked_for(train, call, run, tmp_path, arguments, vocabulary):
    before = open_run(run)
    without = sum(p.numel() for p in before.load_model().parameters()) - 9 * before.tokenizer.vocab_size
    run.rename(tmp_path / "before")
    said = train("--max-steps=1", "--json", *arguments).json
    found = open_run(tmp_path / "run").tokenizer.vocab_size
    assert said["parameters"] == without + 9 * found  # an embedding of 8 and a bias for each
    assert found == vocabulary if "--set=tokenizer=sentencepiece" not in arguments else 259 <= found <= vocabulary
    assert (call("lm-eval", run, "--json").json["unknown_rate"] > 0) == ("--set=vocab_size=7" in arguments)


def test_bfloat16_trains_like_float32(train, run, tmp_path):
    run.rename(tmp_path / "before")
    exact = math.exp(mean(record["loss"] for record in records(tmp_path / "before", "step")[:3]))
    said = train("--max-steps=3", "--precision=bfloat16", "--json").json
    assert open_run(tmp_path / "run").folder.config["precision"] == "bfloat16"
    assert said["train_perplexity"] == pytest.approx(exact, rel=0.02)
    assert said["train_perplexity"] != exact


def test_the_lstm_control_has_as_many_parameters(train, tmp_path):
    sizes = []
    for cell in ("eru", "lstm"):
        said = train(
            "--max-steps=1", f"--set=cell={cell}", "--set=hidden_size=320", "--set=num_layers=3", "--json"
        ).json
        sizes.append(said["parameters"])
        (tmp_path / "run").rename(tmp_path / cell)
    eru_size, lstm_size = sizes
    assert eru_size != lstm_size
    assert lstm_size == pytest.approx(eru_size, rel=0.02)


@pytest.mark.slow
def test_the_penn_treebank_trains(call, penn_treebank, tmp_path):
    sizes = ("embedding_size=4", "hidden_size=4", "num_layers=1")
    settings = [f"--set={field}" for field in sizes]
    data = ("--data=ptb", "--data-dir", penn_treebank)
    said = call(
        "lm-train", *data, "--recipe=small", "--out", tmp_path / "r", *settings, "--max-steps=1", "--json"
    ).json
    assert (said["steps"], said["train_tokens"]) == (1, 929_589)
    assert said["bigram_perplexity"] < said["unigram_perplexity"]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_evaluation_is_exact(call, trained, corpus, split):
    run = trained[0]
    report = call("lm-eval", run, "--split", split, "--json").json
    ids, model = ids_of(corpus, split, run), open_run(run).load_model()
    nats, state = 0.0, None
    with torch.no_grad():
        for token, target in pairwise(ids):
            logits, state = model(torch.tensor([[token]]), state)
            nats -= logits[0, 0].double().log_softmax(dim=0)[target].item()
    size = (corpus / f"{split}.txt").stat().st_size
    assert (report["run"], report["split"], report["tokens"]) == (str(run), split, len(ids) - 1)
    assert report["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5)
    assert report["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert report["unknown_rate"] == ids.count(0) / len(ids)


def test_evaluation_takes_the_test_text_unless_told(call, trained):
    answer = call("lm-eval", trained[0])
    assert " test: perplexity " in answer.out
    assert answer.err == ""


def test_evaluation_notes_that_the_text_has_changed(call, run, corpus, tmp_path):
    config = json.loads((run / "config.json").read_text())
    del config["sha256"]
    config["data"]["fingerprint"] = "0" * 64
    (run / "config.json").write_text(json.dumps(config))
    answer = call("lm-eval", run, "--json")
    assert answer.json["split"] == "test"
    assert "not the text that this run was trained on" in answer.err
    assert call("lm-eval", run, "--data", corpus, "--json").err == ""


def test_generation_goes_on_from_the_prompt(call, trained):
    text = call("lm-generate", trained[0], "--prompt=the cat", "--tokens=30", "--seed=1").out.removesuffix("\n")
    assert text.startswith("the cat")
    assert len(text.replace("\n", " <eos> ").split()) == 2 + 30
    assert "<unk>" not in text


def test_generation_is_reproducible_and_greedy_at_its_limits(call, trained):
    def made(*arguments):
        return call("lm-generate", trained[0], "--tokens=20", *arguments).out

    assert made("--seed=3") == made("--seed=3") != made("--seed=4")
    likeliest = made("--temperature=0")
    for limit in ("--temperature=1e-6", "--top-k=1", "--top-p=1e-9"):
        assert made(limit, "--seed=3") == likeliest
    assert likeliest != made("--seed=3")


@pytest.mark.parametrize(
    ("prompt", "note"),
    [
        ("the cat", ""),
        ("zebra the zebra", "the vocabulary lacks 'zebra', which"),
        ("1 2 3 4 5\n6 7", "the vocabulary lacks '1', '2', '3', '4', '5' and 2 others, which"),
    ],
)
def test_what_the_vocabulary_lacks_of_a_prompt_is_noted(call, trained, prompt, note):
    answer = call("lm-generate", trained[0], "--prompt", prompt, "--tokens=3", "--seed=1")
    assert (answer.code, bool(answer.err)) == (0, bool(note))
    assert note in answer.err


FOREIGN = ["你好 世界 Łódź “dash — quote” € naïve", "世界 🙂 Ωmega"] * 20


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437"])
def test_no_answer_is_lost_on_a_terminal_of_another_encoding(tmp_path, train, encoding):
    corpus, run = tmp_path / "数据", str(tmp_path / "run")
    corpus.mkdir()
    for split in ("train", "valid", "test"):
        (corpus / f"{split}.txt").write_text("\n".join(FOREIGN), encoding="utf-8")
    train("--max-steps=1", data=corpus)
    for command in (["lm-eval", run], ["lm-generate", run, "--seed=1", "--prompt=你好 naïve"]):
        shown, plain = (CliRunner(charset=name).invoke(main, command) for name in (encoding, "utf-8"))
        assert (shown.exit_code, plain.exit_code) == (0, 0)
        assert shown.stdout_bytes == plain.stdout_bytes.decode().encode(encoding, "backslashreplace")
        assert b"\\u" in shown.stdout_bytes


def test_generation_answers_in_json(call, trained):
    answer = call("lm-generate", trained[0], "--prompt=zebra the", "--tokens=20", "--seed=1", "--json")
    assert answer.json["prompt"] == "zebra the"
    assert answer.json["text"].startswith("<unk> the")


@pytest.mark.parametrize("recipe", RECIPES)
def test_summary_of_a_recipe(call, recipe):
    said = call("summary", recipe, "--json").json
    model, plan = build_model(make_recipe(recipe), 10_000), make_recipe(recipe)
    assert said["parameters"] == sum(p.numel() for p in model.parameters()) <= LIMITS.get(recipe, 3.0e6)
    for count in ("parameters", "multiply_adds"):
        assert said[count] == sum(stage[count] for stage in said["stages"])
    stages = {stage["name"]: stage for stage in said["stages"]}
    assert list(stages) == ["embedding", *(f"layers.{i}" for i in range(plan.num_layers)), "softmax"]
    tied = stages["embedding"]["parameters"] + stages["softmax"]["parameters"]
    assert tied == 10_000 * (plan.embedding_size + 1)
    assert stages["softmax"]["multiply_adds"] == 10_000 * plan.embedding_size


def test_summary_follows_the_vocabulary(call):
    large, small = (call("summary", "small", f"--vocab-size={size}", "--json").json for size in (700, 500))
    assert large["parameters"] - small["parameters"] == 200 * (make_recipe("small").embedding_size + 1)


@pytest.mark.parametrize(
    ("name", "picture", "parameters", "multiply_adds"),
    [
        ("espnetv2_050", None, 1_241_332, 28_375_508 + 1_024_000),
        ("espnetv2_050_seg_voc", "256x256", 80_353, 74_704_000),
        ("espnetv2_200_ssd_voc", "300x300", 4_750_878, 913_440_000),
    ],
)
def test_summary_of_a_vision_model(call, name, picture, parameters, multiply_adds):
    said = call("summary", name, *([] if picture is None else ["--input", picture]), "--json").json
    assert said["parameters"] == parameters == sum(stage["parameters"] for stage in said["stages"])
    assert said["multiply_adds"] == pytest.approx(multiply_adds, abs=10_000 if "_s" in name else 0)
    assert said["stages"][0]["name"] == "backbone.level1"
    assert said["milliseconds"] > 0
    assert said["preprocessing"]["size"] == [int(side) for side in (picture or "224x224").split("x")]


def test_summary_of_a_vision_model_tells_its_speed_and_what_it_sees(call):
    *_, speed, seen = call("summary", "espnetv2_050_seg_voc").out.splitlines()
    assert re.fullmatch(r"speed: [\d,.]+ ms a picture \([\d,.]+ pictures/s\) with \d+ CPU thread\(s\), .*", speed)
    assert seen.startswith("each picture is resized to 384x384, normalised by the mean (0.485, 0.456, 0.406) and ")


def test_summary_of_a_trained_model_of_the_package(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("summary", "ptb-awd-7m", "--json").json["parameters"] == 6_954_740


def test_summary_stores_no_numbers(call):
    said = call("summary", "small", "--vocab-size", 10**11, "--json").json
    assert said["parameters"] > 10**13


def test_summary_of_a_run(call, trained):
    run, answer = trained
    assert call("summary", run, "--json").json["parameters"] == answer.json["parameters"]
    last = call("summary", run).out.splitlines()[-1].split()
    assert last[:2] == ["total", f"{answer.json['parameters']:,}"]


def test_the_list_of_commands_is_not_cut(call):
    listed = call("--help").out.partition("Commands:")[2]
    assert all(name in listed for name in main.commands)
    assert "..." not in listed


@pytest.mark.parametrize(
    ("arguments", "guess"),
    [
        (["lm-train", "--set", "tokeniser=char"], "did you mean tokenizer? must be field=value"),
        (["vision-train", "--set", "epoch=3"], "did you mean epochs? must be field=value"),
        (["summary", "espnetv2_20"], "did you mean espnetv2_200"),
    ],
)
def test_a_mistyped_name_is_guessed(arguments, guess, call):
    answer = call(*arguments)
    assert answer.code == 2
    assert guess in answer.err


@pytest.mark.parametrize("name", main.commands)
def test_the_help_of_every_command_has_examples_that_fit(call, name):
    lines = [line.strip() for line in call(name, "--help").out.splitlines()]
    examples = [shlex.split(line) for line in lines if line.startswith(f"eru {name}")]
    assert examples
    for example in examples:
        main.commands[name].make_context(name, example[2:])  # which raises where an option or a value is none of its


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["lm-eval"], "eru lm-eval"),
        (["lm-generate", "ptb-awd-7m", "--prompt"], "eru lm-generate"),
        (["lm-tune"], "eru"),
        (["--x"], "eru"),
    ],
)
def test_what_was_typed_wrongly_is_answered_with_where_the_help_is(call, arguments, command):
    answer = call(*arguments)
    assert answer.code == 2
    assert answer.err.endswith(f" ({command} --help shows an example)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lm-train"], "--resume: no run in {}; name its folder with --out, or start one there with --data too"),
        (["vision-train"], "--resume: no run in {}; to start one there, --task, --data, --layout, --model: must be"),
    ],
)
def test_a_run_that_is_not_there_is_not_taken_for_another(arguments, message, call, tmp_path):
    answer = call(*arguments, "--resume", "--out", tmp_path / "mistyped")
    assert answer.code == 2
    assert answer.err.startswith(f"Error: {message.format(tmp_path / 'mistyped')}")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_refused_before_anything_is_read(call, trained, corpus):
    folder, _ = trained
    answer = call("lm-train", "--data", corpus, "--out", folder)
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert "holds a run already: go on with it (--resume, or resume=True in Python)" in answer.err


@pytest.mark.parametrize(
    "arguments", [("vision-eval", "RUN", "--data", "x", "--layout", "voc"), ("predict", "x.png", "--model", "RUN")]
)
def test_neither_run_nor_model(arguments, call, tmp_path):
    run = str(tmp_path / "none")
    answer = call(*(run if argument == "RUN" else argument for argument in arguments))
    assert answer.code == 2
    assert f"name={run!r}: no such model, and no run in such a folder; there are espnetv2_050" in answer.err


@pytest.mark.parametrize(("arguments", "shown"), [([], "lm-train"), (["-h"], "lm-eval"), (["lm-eval", "-h"], "RUN")])
def test_help_is_an_answer(call, arguments, shown):
    answer = call(*arguments)
    assert (answer.code, answer.err) == (0, "")
    assert shown in answer.out


def test_version(call):
    assert call("--version").out == f"eru, version {eru.__version__}\n"


@pytest.mark.slow
def test_the_program_keeps_stdout_for_the_answer(corpus, tmp_path):
    sizes = ("--set=embedding_size=4", "--set=hidden_size=4", "--set=batch_size=2", "--max-steps=1")
    done = command_line("lm-train", "--data", corpus, "--out", tmp_path / "run", "--recipe=small", *sizes, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 1
    assert done.stdout.count("\n") == 1
    assert "validation perplexity" in done.stderr


@pytest.mark.slow
def test_the_program_fails_with_one_line(tmp_path):
    done = command_line("lm-train", "--data", tmp_path / "nowhere", "--recipe=small")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"Error: unknown corpus '.*nowhere'.*\n", done.stderr)


@pytest.mark.parametrize(
    ("world", "rank", "expected"),
    [(None, None, True), (None, "1", True), ("1", "1", True), ("2", "0", True), ("2", "1", False)],
)
def test_of_several_processes_the_first_one_speaks(monkeypatch, world, rank, expected):
    for name, value in (("WORLD_SIZE", world), ("RANK", rank)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert speaks() is expected


def test_the_trained_model_speaks_without_any_training(call):
    asked = ("--prompt", "the company said", "--tokens", 8, "--seed", 1, "--json")
    said = call("lm-generate", *asked).json
    assert said == call("lm-generate", "ptb-awd-7m", *asked).json
    assert said["text"].startswith("the company said")


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PAGES_OF_A_TENSOR = """
import resource, torch, eru_cli
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
try:
    eru_cli.main(["summary", "small"])
except SystemExit:
    pass
before = faults()
torch.ones(16 * 2**20)
print(64 * 2**20 // resource.getpagesize(), faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="this system gives huge pages to all or to none, not to who asks",
)
@pytest.mark.parametrize("asked", [None, "0"])
def test_large_tensors_come_in_huge_pages_unless_told_otherwise(asked):
    variables = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    variables |= {} if asked is None else {"THP_MEM_ALLOC_ENABLE": asked}
    done = subprocess.run(
        [sys.executable, "-c", PAGES_OF_A_TENSOR], env=variables, cwd=ROOT, capture_output=True, text=True, check=True
    )
    pages, faults = map(int, done.stdout.splitlines()[-1].split())
    assert faults < pages / 2 if asked is None else faults >= pages


PAGES_OF_THE_NEXT_TENSORS = """
import platform, resource, torch, eru_cli
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    return [torch.ones(5 * 2**20) for _ in range(10)]
try:
    eru_cli.main(["summary", "small"])
except SystemExit:
    pass
for _ in range(3):
    step()
before = faults()
step()
print(platform.libc_ver()[0], 10 * 20 * 2**20 // resource.getpagesize(), faults() - before)
"""


@pytest.mark.slow
def test_the_memory_that_is_freed_is_kept_for_the_next_tensors():
    command = [sys.executable, "-c", PAGES_OF_THE_NEXT_TENSORS]
    variables = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}  # whose pages would be few anyway
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=True)
    library, pages, faults = done.stdout.splitlines()[-1].split()
    if library != "glibc":
        pytest.skip("another C library")
    assert int(faults) < int(pages) / 10


def test_control_characters_of_a_corpus_do_not_reach_the_terminal(call, train, corpus, tmp_path):
    colour, title, eight_bit = "\x1b[31mred", "\x1b]0;title\x07", "\x9bcsi"
    folder = shutil.copytree(corpus, tmp_path / "coloured")
    line = f"{colour} {title} {eight_bit} "
    (folder / "train.txt").write_text(f"{line * 5}\n" * 40, encoding="utf-8")
    answer = train("--epochs=1", "--set=learning_rate=0.02", data=folder)
    said = answer.out.partition("a sample of what it writes:\n")[2].partition("the run folder has")[0]
    for told in (said, call("lm-generate", tmp_path / "run", "--prompt", line).out):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", told)
    assert r"\x1b[31mred" in said
    assert r"\x9bcsi" in call("lm-generate", tmp_path / "run", "--prompt", line).out
    assert line in call("lm-generate", tmp_path / "run", "--prompt", line, "--json").json["text"]


def test_a_validation_text_that_is_mostly_unknown_is_noted(train, corpus, tmp_path):
    folder = shutil.copytree(corpus, tmp_path / "foreign")
    (folder / "valid.txt").write_text("le chat noir sat\n" * 9)
    note = "note: 60% of the words of the validation text are unknown"
    assert note in train("--max-steps=1", data=folder).err
    assert "note:" not in train("--max-steps=2", "--resume").err


def test_a_machine_without_memory_enough_says_so_in_one_line(call, monkeypatch):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")):
        with monkeypatch.context() as patch:
            patch.setattr("eru_cli.lm.open_run", Mock(side_effect=error))
            answer = call("lm-generate")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == "Error: this machine has not memory enough for such sizes\n"
    with monkeypatch.context() as patch:
        patch.setattr("eru_cli.lm.open_run", Mock(side_effect=RuntimeError("a fault of ours")))
        with pytest.raises(RuntimeError, match="a fault of ours"):  # which must not be hidden
            call("lm-generate")
