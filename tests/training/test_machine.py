import torch

from eru.training import machine
from eru.training.machine import _SPEED


def test_a_record_names_the_processor_the_threads_and_what_changes_their_speed(monkeypatch):
    for name in _SPEED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert machine("meta")["device"] == "meta"
    found = machine("cpu")
    assert found.pop("device") not in ("", "cpu")
    assert found == {
        "threads": torch.get_num_threads(),
        "variables": {"OMP_WAIT_POLICY": "active"},
        "torch": torch.__version__,
    }
