import pytest
import torch
from torch import nn

from eru.training import Ranks

WORKER = """
import sys, torch
from torch import nn
from eru.training import Ranks

ranks = Ranks.from_environment("cpu")
torch.manual_seed(ranks.rank)
model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2))
model.register_buffer("offset", torch.tensor(float(ranks.rank)))
model.unused = nn.Parameter(torch.zeros(2))
ranks.broadcast(model)
inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(7))
share = inputs.chunk(ranks.world_size)[ranks.rank]
model[1].eval()
model(share).square().mean().backward()
if ranks.rank == 0:
    model.unused.grad = torch.ones(2)
ranks.average_gradients(model.parameters())
mean = ranks.mean(float(ranks.rank))
ranks.barrier()
result = {
    "place": [ranks.rank, ranks.world_size, ranks.is_main, str(ranks.device)],
    "mean": mean,
    "weights": model.state_dict(),
    "gradients": {name: p.grad for name, p in model.named_parameters()},
}
torch.save(result, f"{sys.argv[1]}/{ranks.rank}.pt")
ranks.close()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_the_joint_batch(tmp_path, two_processes):
    two_processes(WORKER, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["place"] == [0, 2, True, "cpu"]
    assert second["place"] == [1, 2, False, "cpu"]
    assert first["mean"] == second["mean"] == 0.5

    torch.manual_seed(0)
    joint = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2))
    joint[1].eval()
    joint(torch.randn(8, 4, generator=torch.Generator().manual_seed(7))).square().mean().backward()
    for result in (first, second):
        assert result["weights"]["offset"] == 0.0
        for name, tensor in joint.state_dict().items():
            assert torch.equal(result["weights"][name], tensor)
        for name, parameter in joint.named_parameters():
            torch.testing.assert_close(result["gradients"][name], parameter.grad, rtol=1e-6, atol=1e-7)
        assert torch.equal(result["gradients"]["unused"], torch.full((2,), 0.5))


@pytest.fixture
def environment(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("world_size", [None, "1"])
def test_a_single_process_starts_nothing_and_changes_nothing(environment, world_size):
    if world_size is not None:
        environment.setenv("WORLD_SIZE", world_size)
    ranks = Ranks.from_environment("cpu")
    assert not torch.distributed.is_initialized()
    assert ranks == Ranks(rank=0, world_size=1, device=torch.device("cpu"))
    assert ranks.is_main
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    ranks.broadcast(model)
    ranks.average_gradients(model.parameters())
    ranks.barrier()
    ranks.close()
    assert model.weight.grad is None
    assert torch.equal(model.weight, before)
    assert ranks.mean(0.3) == 0.3


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a number.*got 'two'"),
        ({"WORLD_SIZE": "2"}, "RANK must be a number.*got ''"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK must be a number.*got ''"),
    ],
)
def test_a_broken_environment_is_named(environment, variables, message):
    for name, value in variables.items():
        environment.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        Ranks.from_environment("cpu")


def test_more_processes_than_cuda_devices_is_refused(environment):
    for name, value in {"WORLD_SIZE": "99", "RANK": "98", "LOCAL_RANK": "98"}.items():
        environment.setenv(name, value)
    with pytest.raises(ValueError, match="LOCAL_RANK=98 needs 99 CUDA devices"):
        Ranks.from_environment("cuda")
