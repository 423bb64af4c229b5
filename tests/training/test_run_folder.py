import ast
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import eru.training
from eru.training import RunFolder

CONFIG = {"hidden_size": 448, "rates": (0.1, 0.2), "model": {"layers": 3, "tied": True}}


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "deep" / "run", CONFIG)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_create_then_open(run):
    assert RunFolder.open(run.path) == run
    assert run.config == {"hidden_size": 448, "rates": [0.1, 0.2], "model": {"layers": 3, "tied": True}}
    saved = json.loads((run.path / "config.json").read_text())
    assert {name: value for name, value in saved.items() if name != "sha256"} == run.config
    assert run.metrics() == []
    assert run.load_state() is None


def test_create_refuses_a_run_and_tells_the_way_out(run):
    with pytest.raises(ValueError, match=r"--resume.*another folder"):
        RunFolder.create(run.path, {"hidden_size": 1})
    assert RunFolder.open(run.path).config["hidden_size"] == 448


def test_create_overwrites_nobodys_file(tmp_path):
    (tmp_path / "README.md").write_text("a project of its own")
    with pytest.raises(ValueError, match=r"README\.md would be overwritten"):
        RunFolder.create(tmp_path, CONFIG)
    assert names_in(tmp_path) == ["README.md"]


@pytest.mark.parametrize("below", [(), ("run",)])
def test_create_refuses_a_file_in_place_of_the_folder(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="a file is in its place"):
        RunFolder.create(tmp_path.joinpath("file", *below), CONFIG)


def test_create_accepts_a_folder_with_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder.create(tmp_path, CONFIG)
    assert names_in(tmp_path) == ["config.json", "notes.txt"]


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_open_refuses_what_is_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        RunFolder.open(tmp_path)


def test_same_config_is_accepted(run):
    run.check_same_config(CONFIG)
    run.check_same_config(
        {**CONFIG, "hidden_size": 1, "model": {"layers": 4}}, {"hidden_size", "model.layers", "model.tied"}
    )


def test_differing_config_lists_each_field_with_both_values(run):
    given_now = {"hidden_size": 976, "rates": [0.1, 0.2], "model": {"layers": 4}, "seed": 1}
    with pytest.raises(ValueError, match="another configuration") as caught:
        run.check_same_config(given_now, ignore=["seed"])
    message = str(caught.value)
    assert "hidden_size (saved 448, given 976)" in message
    assert "model.layers (saved 3, given 4)" in message
    assert "model.tied (saved True, given '<absent>')" in message
    assert "rates" not in message
    assert "seed" not in message
    assert "\n" not in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(records=st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4))
def test_metrics_return_every_record_in_order(tmp_path_factory, records):
    run = RunFolder.create(tmp_path_factory.mktemp("run"), {})
    for record in records:
        run.log(record)
    assert run.metrics() == records


def test_non_finite_values_become_null(run):
    run.log({"loss": float("nan"), "norms": [1.0, float("inf")], "nested": {"x": -float("inf")}})
    text = run.metrics_path.read_text()
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == {"loss": None, "norms": [1.0, None], "nested": {"x": None}}
    assert run.metrics() == [strict]


def test_a_refused_record_writes_nothing(run):
    run.log({"step": 1})
    with pytest.raises(TypeError):
        run.log({"step": torch.tensor(2)})
    assert run.metrics() == [{"step": 1}]


def test_of_an_epoch_recorded_twice_the_later_record_counts(run):
    assert run.epochs() == []
    for epoch, loss in ((1, 5.0), (2, 4.5), (2, 4.25)):
        run.log({"event": "step", "step": 10 * epoch})
        run.log({"event": "epoch", "epoch": epoch, "loss": loss})
    run.log({"note": "no event"})
    assert [(record["epoch"], record["loss"]) for record in run.epochs()] == [(1, 5.0), (2, 4.25)]


def test_log_after_a_kill_at_any_byte_loses_no_whole_record(run):
    run.log({"step": 1, "note": "é"})
    run.log({"step": 2, "nested": {"x": [1, 2]}})
    whole = run.metrics_path.read_bytes()
    first_line = whole.index(b"\n") + 1
    for kept in range(len(whole) + 1):
        run.metrics_path.write_bytes(whole[:kept])
        before = run.metrics()
        # A line is whole from its closing brace on, the line break or not.
        assert len(before) == (kept >= first_line - 1) + (kept >= len(whole) - 1)
        run.log({"step": 3})
        assert run.metrics() == [*before, {"step": 3}]
        assert run.metrics_path.read_bytes().startswith(whole[:kept])


def test_tensors_that_share_their_memory_are_each_stored_whole(run):
    base = torch.arange(12.0)
    tensors = {
        "base": base,
        "tied": base,
        "half": base[:6],
        "other_half": base[6:],
        "matrix": base.view(3, 4),
        "transposed": base.view(3, 4).T,
        "empty": torch.empty(0, 2),
        "bf16": torch.ones(2, dtype=torch.bfloat16, requires_grad=True),
    }
    run.save_weights(tensors)
    loaded = run.load_weights()
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    loaded["half"].zero_()
    assert torch.equal(loaded["base"], base)


def test_weights_file_is_the_same_every_time(run):
    torch.manual_seed(0)
    tensors = {name: torch.randn(3) for name in "cab"}
    tensors |= {f"again {name}": tensor for name, tensor in tensors.items()}
    contents = set()
    for _ in range(9):
        run.save_weights(tensors)
        contents.add(run.weights_path.read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_missing_or_truncated_weights_are_named(run, kept):
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        run.load_weights()
    run.save_weights({"w": torch.ones(100)})
    run.weights_path.write_bytes(run.weights_path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is broken"):
        run.load_weights()


def test_state_round_trip(run):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = {"step": 3, "history": [5.0, 4.5], "best": None, "optimizer": optimizer.state_dict()}
    run.save_state(state)
    loaded = run.load_state()
    assert loaded is not None
    assert (loaded["step"], loaded["history"], loaded["best"]) == (3, [5.0, 4.5], None)
    assert loaded["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for index, saved in state["optimizer"]["state"].items():
        for name, tensor in saved.items():
            assert torch.equal(loaded["optimizer"]["state"][index][name], tensor)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_state_is_named(run, share):
    run.save_state({"x": torch.ones(1000)})
    content = run.state_path.read_bytes()
    run.state_path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"state\.pt is broken"):
        run.load_state()


class Payload:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_state_is_never_unpickled(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Payload()}, run.state_path)
    with pytest.raises(ValueError, match=r"state\.pt is broken"):
        run.load_state()
    assert not (tmp_path / "unpickled").exists()


def test_state_must_be_a_dict(run):
    torch.save([1], run.state_path)
    with pytest.raises(ValueError, match="must hold a dict, got list"):
        run.load_state()


def test_a_failing_save_keeps_the_old_file(run, monkeypatch):
    run.save_state({"step": 1})

    def disk_full(state, file):
        file.write(b"half a checkpoint")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        run.save_state({"step": 2})
    assert run.load_state() == {"step": 1}
    assert names_in(run.path) == ["config.json", "state.pt"]


def test_card(run):
    run.write_card("# Model\nünïcode\n")
    assert (run.path / "README.md").read_text(encoding="utf-8") == "# Model\nünïcode\n"


def test_training_imports_no_other_part_of_the_package():
    """The seam that keeps this part usable for whatever is trained."""
    imported = set()
    for file in Path(eru.training.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module)
            elif isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
    own = {name for name in imported if name.partition(".")[0] in ("eru", "eru_cli", "vision")}
    assert {name for name in own if not name.startswith("eru.training.")} <= {"eru.storage", "eru.sealed", "eru.warn"}


def test_public_names():
    assert eru.training.__all__ == sorted(eru.training.__all__)
    for name in eru.training.__all__:
        assert hasattr(eru.training, name)


def test_the_weights_digest_is_that_of_their_file(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    with pytest.raises(ValueError, match="no weights yet"):
        run.weights_sha256()
    run.save_weights({"weight": torch.ones(3)})
    assert run.weights_sha256() == hashlib.sha256(run.weights_path.read_bytes()).hexdigest()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(run, recwarn):
    run.save_state({"step": 1})
    run.save_state({"step": 2})
    assert run.load_state() == {"step": 2}
    content = bytearray(run.state_path.read_bytes())
    content[len(content) // 2] ^= 1
    run.state_path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"state\.pt is broken .*state\.previous\.pt, is taken in its place"):
        assert run.load_state() == {"step": 1}
    run.previous_path.write_bytes(b"neither")
    with pytest.raises(ValueError, match=r"state\.pt is broken"):
        run.load_state()


def test_after_a_damaged_checkpoint_the_next_one_leaves_the_one_taken_as_it_is(run):
    run.save_state({"step": 1})
    run.save_state({"step": 2})
    for damage in (b"", b"damaged"):
        run.state_path.write_bytes(damage)
        with pytest.warns(UserWarning, match="is taken in its place"):
            assert run.load_state() == {"step": 1}
        assert run.state_path.read_bytes() == damage  # Who only looks changes nothing.
        assert run.load_state(remove_damaged=True) == {"step": 1}
        assert not run.state_path.exists()
        run.save_state({"step": 3})
    run.state_path.write_bytes(b"damaged too")
    assert run.load_state() == {"step": 1}


def test_a_kill_between_the_two_renamings_of_a_save_loses_one_checkpoint_at_most(run, monkeypatch):
    run.save_state({"step": 1})
    run.save_state({"step": 2})
    renamed = []
    replace = Path.replace

    def killed(self, target):
        if len(renamed) == 1:
            raise KeyboardInterrupt
        renamed.append(self)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run.save_state({"step": 3})
    assert run.has_state
    assert run.load_state() == {"step": 2}
    run.save_state({"step": 3})
    assert run.load_state() == {"step": 3}
    run.discard()
    assert not run.path.exists()


def test_a_flipped_bit_in_the_weights_is_noticed(run):
    run.save_weights({"weight": torch.ones(100)})
    content = bytearray(run.weights_path.read_bytes())
    content[-7] ^= 64  # an exponent's
    run.weights_path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is broken: .*not what was written"):
        run.load_weights()
