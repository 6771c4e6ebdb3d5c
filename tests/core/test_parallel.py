"""Two processes on one training: the step of one process with both batches."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from cfmri_core.errors import CheckpointError
from cfmri_core.training.loop import Schedule, batch_seed, train
from cfmri_core.training.parallel import average_gradients, place, rank, require_same_step

SCHEDULE = Schedule(iterations=30, learning_rate=0.05, validate_every=10, seed=3)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(net, generator):
    x = torch.randn(16, 4, generator=generator)
    return ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()


class BothBatches:
    """Draws what two processes draw, one after the other: a batch of double size."""

    def __init__(self) -> None:
        self.step = 0

    def __call__(self, net, generator):
        seeds = [batch_seed(SCHEDULE.seed, self.step, process) for process in (0, 1)]
        self.step += 1
        return sum(loss(net, torch.Generator().manual_seed(seed)) for seed in seeds) / 2


def validate(net):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return float(((net(x) - x.sum(1, keepdim=True)) ** 2).mean())


def one_of_two(output: Path, part: str) -> None:
    """What torchrun starts twice."""
    with place("cpu", output) as here:
        net = network()
        train(net, loss, validate, here.output / part, SCHEDULE, resume=True)
        assert here.is_first is (here.output == output)
        torch.save(net.state_dict(), output / f"weights{rank()}.pt")


def two_processes(output, part):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, __file__, str(output), part], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(output / f"weights{number}.pt", weights_only=True) for number in (0, 1)]


def test_two_processes_make_the_steps_of_one_with_double_the_batch(tmp_path):
    first, second = two_processes(tmp_path, ".")
    alone = network()
    train(alone, BothBatches(), validate, tmp_path / "alone", SCHEDULE)
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], tensor, atol=1e-5)
    assert (tmp_path / "checkpoint.pt").exists()


def test_all_processes_go_on_from_the_checkpoint_of_a_part(tmp_path):
    stopped = dataclasses.replace(SCHEDULE, iterations=10)
    train(network(), loss, validate, tmp_path / "part", stopped)
    first, second = two_processes(tmp_path, "part")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_processes_at_different_steps_are_not_averaged(monkeypatch):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather_object", lambda steps, own: steps.__setitem__(slice(None), [own, 0]))
    require_same_step(0)
    with pytest.raises(CheckpointError, match="at the steps 200, 0"):
        require_same_step(200)


def test_a_process_on_its_own_keeps_what_it_has(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    net = network()
    loss(net, torch.Generator().manual_seed(1)).backward()
    before = net[0].weight.grad.clone()
    average_gradients(net)
    assert torch.equal(net[0].weight.grad, before)
    assert rank() == 0
    with place("cuda:1", tmp_path) as here:
        assert (here.is_first, here.device, here.output) == (True, "cuda:1", tmp_path)


def test_batches_of_steps_and_processes_differ():
    seeds = {batch_seed(seed, step, process) for seed in range(3) for step in range(50) for process in range(4)}
    assert len(seeds) == 600
    assert batch_seed(2**31 - 1, 10**6, 64) < 2**63


if __name__ == "__main__":
    one_of_two(Path(sys.argv[1]), sys.argv[2])
