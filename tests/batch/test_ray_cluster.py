"""Ray actors, where Ray is installed."""

import builtins
import os
import signal

import pytest
from small_archive import actors, batch_of, leftovers, results

from cfmri_core.batch.ray_cluster import LOCAL, ray_executor
from cfmri_core.errors import RequestError


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    original = builtins.__import__

    def without_ray(name, *arguments):
        if name == "ray":
            raise ImportError
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(RequestError, match=r"cfmri\[ray\]"):
        ray_executor(LOCAL)


def test_an_actor_that_dies_costs_the_item_it_had_and_no_other(archive, models, out):
    pytest.importorskip("ray", reason="Ray is an optional extra")
    killed = []

    def kill_once(standing):
        if not killed:
            killed.extend(actors()[:1])
            os.kill(killed[0], signal.SIGKILL)

    summary = batch_of(archive, out, models).run(ray_executor(LOCAL), 1, standing=kill_once)
    assert killed
    assert summary["items"]["done"] == 4
    assert summary["timeline"]["redone"] <= 1


def test_actors_make_every_item(archive, models, out):
    pytest.importorskip("ray", reason="Ray is an optional extra")
    summary = batch_of(archive, out, models).run(ray_executor(LOCAL), 2)
    assert summary["items"]["done"] == len(results(out)) == 4
    assert not leftovers(out)
