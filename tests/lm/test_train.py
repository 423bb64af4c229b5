import importlib.util
import json
import math
import random
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_runs import AVERAGED, contents, course_of, epoch_ends, loop, same, state_of, tiny, watch_steps

import eru.lm.steps
from eru.lm.evaluation import evaluate_tokens
from eru.lm.loop import train
from eru.lm.model import Features
from eru.lm.recipes import make_recipe
from eru.lm.run import open_run
from eru.lm.steps import activation_penalty
from eru.lm.text.tokens import encode_corpus
from eru.training import NonFiniteLossError, RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize("random_bptt", [True, False])
def test_the_learning_rate_follows_the_length_of_a_random_window(corpus, tmp_path, monkeypatch, random_bptt):
    seen = []
    watch_steps(monkeypatch, lambda training, length: seen.append((length, training.optimizer.param_groups[0]["lr"])))
    recipe = tiny(schedule="constant", warmup_steps=0, learning_rate=0.01, random_bptt=random_bptt)
    train(recipe, corpus, tmp_path / "run", epochs=1, quiet=True)
    for length, rate in seen:
        assert math.isclose(rate, 0.01 * length / 9 if random_bptt else 0.01, rel_tol=1e-12)
    assert len({length for length, _ in seen[:-1]}) > 1 if random_bptt else {length for length, _ in seen[:-1]} == {9}


def test_the_mean_of_the_weights_is_saved(corpus, tmp_path, monkeypatch):
    seen = []

    def keep(training, length):
        if training.average is not None:
            seen.append({name: p.detach().double() for name, p in training.model.named_parameters()})

    watch_steps(monkeypatch, keep)
    monkeypatch.setattr(eru.lm.steps, "has_stalled", lambda history, n: len(history) == 1)
    # Validated on the text it trains on, the mean of the second epoch is better than the first.
    same_text = type(corpus)(corpus.name, {**corpus.files, "valid": corpus.files["train"]}, "another fingerprint")
    recipe = tiny(**{**AVERAGED, "epochs": 2, "learning_rate": 4.0, "clip": 5.0})
    result = train(recipe, same_text, tmp_path / "run", quiet=True)
    weights = RunFolder.open(tmp_path / "run").load_weights()
    assert len(seen) == state_of(tmp_path / "run")["average"]["n_averaged"] > 3
    for name, found in weights.items():
        mean = torch.stack([step[name] for step in seen]).mean(dim=0)
        torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found.double(), seen[-1][name], rtol=1e-5, atol=1e-6)
    run = open_run(tmp_path / "run")
    ids = encode_corpus(same_text, run.tokenizer)["valid"].ids
    assert math.isclose(evaluate_tokens(run.load_model(), ids, batch_size=2).perplexity, result.valid_perplexity)


def test_an_interval_of_0_averages_from_the_first_step(corpus, tmp_path, monkeypatch):
    seen = []
    watch_steps(monkeypatch, lambda training, length: seen.append(training.model.embedding.weight.detach().double()))
    recipe = tiny(**{**AVERAGED, "nonmonotone_interval": 0, "epochs": 1})
    train(recipe, corpus, tmp_path / "run", quiet=True)
    mean = torch.stack(seen).mean(dim=0)
    found = RunFolder.open(tmp_path / "run").load_weights()["embedding.weight"]
    torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found.double(), seen[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.6, 1.0])
def test_averaging_begins_no_earlier_than_its_share_of_the_epochs(corpus, tmp_path, monkeypatch, share):
    seen, changes = [], {"nonmonotone_interval": 0, "averaging_start": share, "epochs": 4}
    watch_steps(monkeypatch, lambda training, length: seen.append(training.average is not None))
    train(tiny(**{**AVERAGED, **changes}), corpus, tmp_path / "run", quiet=True)
    ends = epoch_ends(tmp_path / "run")
    waits = math.ceil(share * 4)
    assert seen.count(True) == ends[-1] - ends[waits - 1]
    assert seen == sorted(seen)


@pytest.mark.parametrize("mean_is_better", [True, False])
def test_of_the_weights_and_their_mean_the_better_ones_count(corpus, tmp_path, monkeypatch, mean_is_better):
    last, validated = {}, eru.lm.steps.validation_loss
    watch_steps(monkeypatch, lambda training, length: last.update(training=training))

    def validation_loss(model, *others):
        is_mean = "training" in last and model is not last["training"].model
        return validated(model, *others) - 0.5 * (is_mean == mean_is_better)

    monkeypatch.setattr(eru.lm.steps, "validation_loss", validation_loss)
    recipe = tiny(**{**AVERAGED, "nonmonotone_interval": 0, "epochs": 1})
    result = train(recipe, corpus, tmp_path / "run", quiet=True)
    training = last["training"]
    kept = training.average.module if mean_is_better else training.model
    found = RunFolder.open(tmp_path / "run").load_weights()
    assert all(torch.equal(found[name], p) for name, p in kept.state_dict().items())
    record = RunFolder.open(tmp_path / "run").epochs()[-1]
    assert record["valid_loss"] == training.position.best == min(record["valid_loss"], record["raw_valid_loss"])
    assert (record["valid_loss"] < record["raw_valid_loss"]) == mean_is_better
    assert math.isclose(result.valid_perplexity, math.exp(record["valid_loss"]))


def test_a_run_ends_when_patience_does(corpus, tmp_path):
    recipe = tiny(learning_rate=0.02, warmup_steps=0, schedule="constant", epochs=30, patience=2)
    result = train(recipe, corpus, tmp_path / "run", quiet=True)
    records = [record for record in RunFolder.open(tmp_path / "run").metrics() if record["event"] == "epoch"]
    losses = [record["valid_loss"] for record in records]
    ends = [t for t in range(1, len(losses) + 1) if len(losses[: t - 1]) > 2 and losses[t - 1] > min(losses[: t - 3])]
    assert ends == [len(losses)] == [result.epochs]
    assert result.finished
    assert len(losses) < 30
    before = contents(tmp_path / "run")
    assert train(recipe, corpus, tmp_path / "run", resume=True, quiet=True).finished
    assert contents(tmp_path / "run") == before


def test_the_weights_of_the_best_epoch_are_kept(corpus, tmp_path):
    """A stop inside a later epoch must not replace them, however good it is: the whole run would not have stopped."""
    recipe = tiny(learning_rate=0.02, warmup_steps=0, schedule="constant")
    first = train(recipe, corpus, tmp_path / "run", epochs=1, quiet=True)
    saved = (tmp_path / "run" / "model.safetensors").read_bytes()
    for stop in ({"epochs": 2, "max_steps": first.steps + 2}, {"epochs": 2}):
        result = train(recipe, corpus, tmp_path / "run", resume=True, quiet=True, **stop)
        assert result.valid_perplexity == first.valid_perplexity
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == saved


def test_activation_penalty():
    raw, dropped = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    features = Features(raw, dropped, [])
    recipe = make_recipe("small", activation_regularization=2.0, temporal_regularization=3.0)
    squares = [v * v for v in dropped.flatten().tolist()]
    changes = [(raw[t + 1, b, e] - raw[t, b, e]).item() ** 2 for t in range(3) for b in range(2) for e in range(3)]
    expected = 2 * sum(squares) / len(squares) + 3 * sum(changes) / len(changes)
    assert math.isclose(float(activation_penalty(features, recipe)), expected, rel_tol=1e-5)
    assert activation_penalty(features, make_recipe("small")) == 0
    one_step = Features(raw[:1], dropped[:1], [])
    assert math.isfinite(float(activation_penalty(one_step, recipe)))


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_nothing(corpus, tmp_path, monkeypatch):
    recipe = tiny(checkpoint_every=4, log_every=100)
    run = tmp_path / "run"
    train(recipe, corpus, run, max_steps=4, quiet=True)
    before = contents(run)

    def spoil(training, length):
        if training.position.step == 6:
            with torch.no_grad():
                training.model.softmax_bias.fill_(math.nan)

    with monkeypatch.context() as patch:
        watch_steps(patch, spoil)
        with pytest.raises(
            NonFiniteLossError, match=r"^the loss is nan at step 8 \(epoch 1, .* of softmax_bias\): lower the"
        ):
            train(recipe, corpus, run, resume=True, quiet=True)
    after = contents(run)
    assert {path.name for path in before if before[path] != after[path]} == {"metrics.jsonl"}
    open_run(run).load_model()
    train(recipe, corpus, run, resume=True, max_steps=9, quiet=True)
    train(recipe, corpus, tmp_path / "whole", max_steps=9, quiet=True)
    assert same(state_of(run)["model"], state_of(tmp_path / "whole")["model"])


def test_an_absurd_learning_rate_is_one_clear_error(corpus, tmp_path):
    recipe = tiny(optimizer="sgd", learning_rate=1e38, clip=1e30, checkpoint_every=1, warmup_steps=0)
    with pytest.raises(ValueError, match=r"^the loss is (nan|inf) at step \d+ \(.*\): lower the learning rate"):
        train(recipe, corpus, tmp_path / "run", quiet=True)
    state = RunFolder.open(tmp_path / "run").load_state()
    assert state is None or all(bool(tensor.isfinite().all()) for tensor in state["model"].values())


@pytest.mark.parametrize(
    ("train_lines", "changes", "options", "message"),
    [
        (["a"], {}, {}, r"train\.txt: has 1 token\(s\); a split needs at least 2"),
        (["a b c"], {"batch_size": 9}, {}, "4 tokens are too few for batch_size=9"),
        (["a b c"] * 9, {"kernel_size": 2}, {}, "kernel_size=2"),
        (["a b c"] * 9, {"vocab_size": 2}, {}, "vocab_size=2"),
        (["a b c"] * 9, {}, {"precision": "float16"}, "precision='float16': must be one of float32, bfloat16"),
        (["a b c"] * 9, {}, {"max_steps": 0}, "max_steps=0: must be at least 1"),
        (["a b c"] * 9, {}, {"epochs": 0}, "epochs=0: must be at least 1"),
        *(
            (["a b c"] * 9, {name: value}, {}, rf"{name}={value}: must be")
            for name, value in (
                *(("embedding_size", 0), ("hidden_size", 0), ("num_layers", 0), ("bptt", 0), ("batch_size", -2)),
                *(("input_dropout", 1.5), ("layer_dropout", -1), ("output_dropout", 2), ("embedding_dropout", 3)),
                *(("weight_dropout", math.nan), ("floor", 2.0), ("warmup_steps", -1)),
            )
        ),
        (["a b c"] * 9, {"seed": -1}, {}, r"seed=-1: must be from 0 to 2\*\*32 - 1"),
        *(
            (["a b c"] * 9, sizes, {}, rf"{next(iter(sizes))}=1.*: (needs at least .* GB of memory, and|no memory is)")
            for sizes in (
                *({"hidden_size": 10**power} for power in (7, 12, 30)),
                *({"embedding_size": 10**power} for power in (8, 30)),
                {"hidden_size": 10**7, "optimizer": "sgd", "cell": "lstm"},
                {"num_layers": 10**30},
                {"num_layers": 100_000, "hidden_size": 1000},
            )
        ),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_what_cannot_train_leaves_no_folder(make_corpus, tmp_path, train_lines, changes, options, message, resume):
    corpus = make_corpus(train_lines, ["a b c"], ["a b c"])
    with pytest.raises(ValueError, match=message):
        train(tiny(**changes), corpus, tmp_path / "run", resume=resume, quiet=True, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer": "char"},
        {"tokenizer": "sentencepiece", "vocab_size": 270},
        {"cell": "lstm"},
        {"kernel_size": 1},
        {"num_layers": 1},
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_kind_of_model_trains_and_resumes(corpus, tmp_path, changes, precision):
    recipe = tiny(**changes)
    first = train(recipe, corpus, tmp_path / "run", max_steps=2, precision=precision, quiet=True)
    second = train(recipe, corpus, tmp_path / "run", resume=True, max_steps=4, precision=precision, quiet=True)
    assert (first.steps, second.steps) == (2, 4)
    state = state_of(tmp_path / "run")
    assert all(tensor.dtype == torch.float32 for tensor in state["model"].values())
    assert all(record["loss"] > 0 for record in course_of(tmp_path / "run").values())
    run = open_run(tmp_path / "run")
    assert second.parameters == sum(p.numel() for p in run.load_model().parameters())


def test_bfloat16_is_close_to_float32_but_not_equal(corpus, tmp_path):
    losses = []
    for precision in ("float32", "bfloat16"):
        train(tiny(), corpus, tmp_path / precision, max_steps=6, precision=precision, quiet=True)
        losses.append(course_of(tmp_path / precision)["step", 6]["loss"])
    assert losses[0] != losses[1]
    assert math.isclose(*losses, rel_tol=2e-2)


def test_the_run_folder_is_complete(corpus, tmp_path, monkeypatch, capsys):
    from eru.training import plot_curve

    monkeypatch.setattr(loop, "plot_curve", plot_curve)
    result = train(tiny(), corpus, tmp_path / "run", epochs=1)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "model.safetensors", "state.pt", "state.previous.pt"),
        *("README.md", "curve.png", "tokenizer"),
    }
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"] == asdict(tiny(epochs=1))
    assert config["data"] == {"name": corpus.name, "fingerprint": corpus.fingerprint}
    assert config["versions"]["torch"] == torch.__version__
    card = (tmp_path / "run" / "README.md").read_text()
    for text in (corpus.fingerprint, f"{result.parameters:,} parameters", f"{result.valid_perplexity:.2f}"):
        assert text in card
    assert f"| training perplexity (last epoch, with dropout) | {result.train_perplexity:.2f} |" in card
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"epoch 1 of 1, step {result.steps}, training perplexity {result.train_perplexity:.2f}" in shown.err
    assert "matplotlib" not in shown.err


def test_the_card_of_a_run_that_samples_the_words_calls_their_perplexity_an_estimate(corpus, tmp_path):
    for sampled in (0, 4, 10**6):  # of a vocabulary that is not twice as large, all words are taken
        result = train(tiny(sampled_softmax=sampled), corpus, tmp_path / str(sampled), max_steps=1, quiet=True)
        how = "with dropout, estimated from samples of the words" if sampled == 4 else "with dropout"
        card = (tmp_path / str(sampled) / "README.md").read_text()
        assert f"| training perplexity (last epoch, {how}) | {result.train_perplexity:.2f} |" in card


def test_a_record_has_the_mean_loss_since_the_record_before(corpus, tmp_path, monkeypatch):
    """Whatever the epoch: its own mean would drop at each new epoch. A stop changes nothing."""
    lengths = []
    with monkeypatch.context() as patch:
        watch_steps(patch, lambda training, length: lengths.append(length))
        train(tiny(), corpus, tmp_path / "each", quiet=True)
    losses = [record["loss"] for (event, _), record in course_of(tmp_path / "each").items() if event == "step"]
    recipe = tiny(log_every=4, checkpoint_every=3)
    train(recipe, corpus, tmp_path / "run", quiet=True)
    for stop in (2, 6, 7):
        train(recipe, corpus, tmp_path / "parts", resume=True, max_steps=stop, quiet=True)
    train(recipe, corpus, tmp_path / "parts", resume=True, quiet=True)
    records = {step: record for (event, step), record in course_of(tmp_path / "run").items() if event == "step"}
    assert list(records) == list(range(4, len(losses) + 1, 4))
    first_end = epoch_ends(tmp_path / "run")[0]
    assert any(step - 4 < first_end < step for step in records)
    for step, record in records.items():
        parts = [*zip(lengths, losses, strict=True)][step - 4 : step]
        mean = sum(length * loss for length, loss in parts) / sum(length for length, _ in parts)
        assert record["loss"] == pytest.approx(mean, rel=1e-9)
    assert course_of(tmp_path / "parts") == course_of(tmp_path / "run")


def test_a_stop_inside_of_an_epoch_is_not_told_as_its_end(corpus, tmp_path, capsys):
    first_end = train(tiny(), corpus, tmp_path / "whole", epochs=1, quiet=True).steps
    for stop, told in ((2, "stopped in epoch 1 of 2, step 2, "), (first_end, f"epoch 1 of 2, step {first_end}, ")):
        train(tiny(), corpus, tmp_path / "run", resume=True, max_steps=stop)
        last = capsys.readouterr().err.splitlines()[-2]
        assert last.startswith(f"{told}training perplexity ")
        assert " left" not in last


def test_what_is_trained_on_is_told_before_the_first_step(corpus, tmp_path, capsys):
    result = train(tiny(), corpus, tmp_path / "run", max_steps=1)
    vocabulary = open_run(tmp_path / "run").tokenizer.vocab_size
    reading, tokens, model, *_ = capsys.readouterr().err.splitlines()
    assert reading == f"reading the corpus {corpus.name}: 0.0 MB of training text"
    assert tokens.startswith(f"{result.train_tokens:,} training tokens of {vocabulary} kinds; 0.00% of the validation")
    assert model.startswith(f"{tmp_path / 'run'}: an ERU of {result.parameters:,} parameters on cpu; epochs: 2, ")


def test_without_matplotlib_it_says_so_once(corpus, tmp_path, capsys):
    train(tiny(), corpus, tmp_path / "run")
    assert capsys.readouterr().err.count("no curve.png: matplotlib draws it") == 1


def test_golden_curve(tmp_path):
    spec = importlib.util.spec_from_file_location("golden_curve", Path(__file__).with_name("golden_curve.py"))
    assert spec is not None
    assert spec.loader is not None
    golden_curve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden_curve)
    expected = json.loads(golden_curve.FILE.read_text())
    found = golden_curve.losses(tmp_path)
    assert len(found["train"]) == 50
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=golden_curve.TOLERANCE), name
    assert expected["train"][-1] < expected["train"][0] - 0.1


WORKER = """
import itertools, json, os, sys, torch
import eru.lm.loop
from eru.lm.text.corpus import load_corpus
from eru.lm.recipes import Recipe

module = sys.modules["eru.lm.loop"]
models = []
make_state = module.TrainingState
module.TrainingState = lambda model, optimizer: models.append(model) or make_state(model, optimizer)
corpus, recipe = load_corpus(sys.argv[1]), Recipe(**json.loads(sys.argv[2]))
for port, (out, last) in zip(os.environ["PORTS"].split(), json.loads(sys.argv[3])):
    os.environ["MASTER_PORT"] = port
    asked = itertools.count()  # before the first step and after each; one process alone ends all
    stop = lambda: os.environ["RANK"] == "1" and next(asked) == last
    result = module.train(recipe, corpus, out, resume=True, stop=stop, quiet=True)
    saved = {"model": models[-1].state_dict(), "draw": torch.rand(4), "valid": result.valid_perplexity}
    torch.save(saved, f"{out}/{os.environ['RANK']}.pt")
"""


def saved_by_both(run):
    """What each of two processes had in the end."""
    return [torch.load(run / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


WITHOUT_DROPOUT = dict.fromkeys(("input_dropout", "layer_dropout", "output_dropout"), 0.0)


@pytest.mark.slow
def test_two_processes_train_as_one_that_reads_all_streams(corpus, tmp_path, two_processes):
    recipe = tiny(batch_size=4, partial_shuffle=True, epochs=9, **WITHOUT_DROPOUT)
    together = partial(two_processes, WORKER, corpus.name, json.dumps(asdict(recipe)))
    together(json.dumps([(str(tmp_path / "run"), 3)]))
    first, second = saved_by_both(tmp_path / "run")
    assert same(first["model"], second["model"])
    assert first["valid"] == second["valid"]
    assert not torch.equal(first["draw"], second["draw"])  # so that their dropout would differ
    train(recipe, corpus, tmp_path / "alone", max_steps=3, quiet=True)
    found, expected = (state_of(tmp_path / name) for name in ("run", "alone"))
    torch.testing.assert_close(found["model"], expected["model"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["carried"], expected["carried"], rtol=1e-4, atol=1e-5)
    losses = [course_of(tmp_path / name)["step", 3]["loss"] for name in ("run", "alone")]
    assert math.isclose(*losses, rel_tol=1e-5)
    # It goes on with another number of processes, which share out anew what was carried.
    for name in ("run", "alone"):
        train(recipe, corpus, tmp_path / name, resume=True, max_steps=8, quiet=True)
    torch.testing.assert_close(
        state_of(tmp_path / "run")["model"], state_of(tmp_path / "alone")["model"], rtol=1e-3, atol=1e-4
    )
    together(json.dumps([(str(tmp_path / "run"), 2)]))
    assert state_of(tmp_path / "run")["position"]["step"] == 10
    starts = [r for r in RunFolder.open(tmp_path / "run").metrics() if r["event"] in ("start", "resume")]
    assert [record["processes"] for record in starts] == [2, 1, 2]


@pytest.mark.slow
def test_two_processes_that_were_stopped_go_on_as_if_they_had_not_been(corpus, tmp_path, two_processes):
    recipe = tiny(batch_size=4, epochs=9, layer_dropout=0.4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    jobs = [(str(run), steps) for run, steps in ((whole, 7), (parts, 4), (parts, 3))]
    two_processes(WORKER, corpus.name, json.dumps(asdict(recipe)), json.dumps(jobs))
    for found, expected in zip(saved_by_both(parts), saved_by_both(whole), strict=True):
        assert same(found, expected)
    found, expected = (state_of(tmp_path / name) for name in ("parts", "whole"))
    for part in ("model", "optimizer", "carried", "rng"):
        assert same(found[part], expected[part]), part
    assert found["position"]["loss"] == pytest.approx(expected["position"]["loss"], rel=1e-12)


def test_accumulated_gradients_train_as_whole_batches_do(corpus, tmp_path):
    for accumulate in (1, 2, 4):
        recipe = tiny(batch_size=4, accumulate=accumulate, temporal_regularization=1.0, **WITHOUT_DROPOUT)
        train(recipe, corpus, tmp_path / str(accumulate), max_steps=4, quiet=True)
    whole, *others = (state_of(tmp_path / str(accumulate)) for accumulate in (1, 2, 4))
    for other in others:
        torch.testing.assert_close(other["model"], whole["model"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other["carried"], whole["carried"], rtol=1e-4, atol=1e-5)
        assert other["position"]["loss"] == pytest.approx(whole["position"]["loss"], rel=1e-5)
    with pytest.raises(ValueError, match=r"batch_size=4: cannot be cut into .* accumulate=3 parts"):
        train(tiny(batch_size=4, accumulate=3), corpus, tmp_path / "refused", quiet=True)
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_it_learns_a_source_that_bigrams_cannot(make_corpus, tmp_path):
    """Each symbol follows from the two before it, most of the time: an order that unigrams and bigrams cannot see."""
    draw, symbols, kept = random.Random(0), 4, 0.85

    def text(length):
        made = [0, 1]
        while len(made) < length:
            certain = (made[-1] + made[-2] + 1) % symbols
            made.append(certain if draw.random() < kept else draw.randrange(symbols))
        return [" ".join(f"s{symbol}" for symbol in made)]

    likely, others = kept + (1 - kept) / symbols, (1 - kept) / symbols
    source = math.exp(-likely * math.log(likely) - (symbols - 1) * others * math.log(others))
    recipe = make_recipe(
        "small",
        embedding_size=16,
        hidden_size=24,
        num_layers=2,
        input_dropout=0.0,
        layer_dropout=0.0,
        output_dropout=0.0,
        epochs=4,
        batch_size=8,
        bptt=16,
        learning_rate=0.02,
        warmup_steps=10,
    )
    corpus = make_corpus(text(8000), text(1500), text(1500))
    result = train(recipe, corpus, tmp_path / "run", quiet=True)
    assert 0.9 * symbols < result.bigram_perplexity < 1.1 * result.unigram_perplexity
    assert source * 0.9 < result.valid_perplexity < source * 1.12
    assert result.valid_perplexity < result.bigram_perplexity / 1.8
