import dataclasses
import resource
import signal
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cfmri_core.errors import Cancelled, CheckpointError, ModelOutputError, ResourceError
from cfmri_core.training import loop
from cfmri_core.training.loop import Schedule, learning_rate, train

SCHEDULE = Schedule(iterations=40, learning_rate=0.05, validate_every=10, average_decay=0.9, seed=3)


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def loss(net, generator):
    x = torch.randn(16, 4, generator=generator)
    return ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()


def validate(net):
    return float(((net.weight - 1) ** 2).sum() + net.bias.abs().sum())


def test_training_lowers_the_score_and_leaves_the_averaged_best_weights(tmp_path):
    net = network()
    start = validate(net)
    best = train(net, loss, validate, tmp_path, SCHEDULE)
    assert best < start / 2
    assert validate(net) == pytest.approx(best)
    assert list((tmp_path / "events").iterdir())


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    whole, resumed = network(), network()
    train(whole, loss, validate, tmp_path / "whole", SCHEDULE)

    def killed(step, total, message):
        if step == 25:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        train(resumed, loss, validate, tmp_path / "killed", SCHEDULE, progress=killed)
    again = network()
    train(again, loss, validate, tmp_path / "killed", SCHEDULE, resume=True)
    assert torch.equal(again.weight, whole.weight)


def test_steps_tell_their_numbers_and_what_is_kept(tmp_path):
    steps = []
    train(network(), loss, validate, tmp_path, SCHEDULE, progress=lambda step, total, told: steps.append(told))
    assert len(steps) == 40
    assert steps[0].loss > 0
    assert (steps[8].best_score, steps[8].kept_step) == (None, 0)
    assert ", not validated yet, " in steps[8]
    assert steps[9].best_score > 0
    assert [told.kept_step for told in steps[9:20]] == [10] * 10 + [20]
    assert steps[9].startswith(f"loss {steps[9].loss:.4f}, best {steps[9].best_score:.4f}")


def test_between_validations_a_checkpoint_is_kept_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_KEEP_EVERY_S", 0)
    monkeypatch.setattr(loop, "_KEEPING_SHARE", float("inf"))
    whole, resumed = network(), network()
    train(whole, loss, validate, tmp_path / "whole", SCHEDULE)

    def killed(step, total, message):
        if step == 7:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        train(resumed, loss, validate, tmp_path / "killed", SCHEDULE, progress=killed)
    told = []
    again = network()
    train(again, loss, validate, tmp_path / "killed", SCHEDULE, resume=True, progress=lambda *one: told.append(one))
    assert told[0] == (7, 40, "goes on after step 7")
    assert torch.equal(again.weight, whole.weight)


def test_the_curves_of_a_resumed_run_are_whole(tmp_path):
    def killed(step, total, message):
        if step == 25:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        train(network(), loss, validate, tmp_path, SCHEDULE, progress=killed)
    time.sleep(1.1)  # TensorBoard sorts the files of one second by a counter's digits: 10 before 9
    train(network(), loss, validate, tmp_path, SCHEDULE, resume=True)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 41))
    assert [event.step for event in events.Scalars("validation/score")] == [10, 20, 30, 40]


def test_a_disk_that_takes_no_more_of_a_checkpoint_is_told(tmp_path):
    net = network()
    state = loop._State(net, net, torch.optim.AdamW(net.parameters()))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1][1]))
    try:
        with pytest.raises(ResourceError, match=r"checkpoint\.pt: File too large"):
            state.save(tmp_path / "checkpoint.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert not list(tmp_path.iterdir())


def test_resume_without_a_checkpoint_starts_anew(tmp_path):
    net = network()
    assert train(net, loss, validate, tmp_path, SCHEDULE, resume=True) < 5


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train(network(), loss, validate, tmp_path, SCHEDULE)
    with pytest.raises(CheckpointError, match="not a checkpoint of this run"):
        train(nn.Linear(7, 1), loss, validate, tmp_path, SCHEDULE, resume=True)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and nothing more", b"\x80\x04N."])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        train(network(), loss, validate, tmp_path, SCHEDULE, resume=True)


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"network": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError):
        train(network(), loss, validate, tmp_path, SCHEDULE, resume=True)
    assert not (tmp_path / "owned").exists()


def test_a_loss_that_is_not_finite_stops(tmp_path):
    with pytest.raises(ModelOutputError, match="step 0"):
        train(network(), lambda net, generator: net.weight.sum() * float("nan"), validate, tmp_path, SCHEDULE)


def test_the_learning_rate_warms_up_and_falls():
    rates = [learning_rate(Schedule(iterations=1000, learning_rate=1.0), step) for step in (0, 19, 500, 999)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[1] == pytest.approx(1.0)
    assert 0.4 < rates[2] < 0.6
    assert rates[3] == pytest.approx(0.05, abs=0.01)


def test_a_run_that_goes_on_to_no_later_step_gives_the_weights_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_KEEP_EVERY_S", 0)
    monkeypatch.setattr(loop, "_KEEPING_SHARE", float("inf"))

    def killed(step, total, message):
        if step == 7:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        train(network(), loss, validate, tmp_path, SCHEDULE, progress=killed)
    again = network()
    score = train(again, loss, validate, tmp_path, dataclasses.replace(SCHEDULE, iterations=5), resume=True)
    assert score == pytest.approx(validate(again))
