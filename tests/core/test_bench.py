"""The benchmark at a size that says nothing of speed, but runs every part; that takes a minute and needs ``--soak``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cfmri_core.benchmark import bench, measure, reference
from cfmri_core.benchmark.bench import Plan, benchmark_volume, run_benchmark


@pytest.fixture(scope="module")
def result(request, tmp_path_factory):
    if not request.config.getoption("--soak", default=False):
        pytest.skip("a minute of benchmarks: --soak")
    other = tmp_path_factory.mktemp("results") / "edit.json"
    other.write_text(json.dumps({"settings": {"models_sha256": {"fast": "0"}}, "aggregate": {}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "IMAGE_SIZE", 32)
        patch.setattr(measure, "_MATRIX_SIDE", 256)
        yield run_benchmark(
            Plan(slices=6, matrix=48, growth=(6,), repeats=1, training_batch=1, quality=other, device="cpu")
        )


def test_every_part_is_measured(result):
    assert set(result["volume_s"]) == {"fast", "inversion"}
    assert result["authors_volume_s"]["authors' loop, plain attention"] == pytest.approx(
        6 * 50 * result["authors_guided_step_s"]["plain"][0]
    )
    assert all(0 < found["share_of_bfloat16_ceiling"] < 2 for found in result["forward"].values())
    assert [row["slices"] for row in result["growth"]] == [6]
    assert result["end_to_end"]["peak_mib"] > 100
    assert result["training"]["times_as_fast"] > 0
    json.dumps(result)


def test_quality_of_other_models_is_not_shown_beside_the_times(result):
    assert "other models" in result["quality"]["refused"]


def test_work_is_timed_in_turn_after_one_unmeasured_round():
    order = []
    timings = measure.alternating({name: lambda name=name: order.append(name) for name in "ab"}, 2, "cpu")
    assert order == ["a", "b"] * 3
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2]


def test_arithmetic_is_counted_with_two_operations_for_a_multiplication_and_an_addition():
    matrix = torch.ones(100, 100)
    assert measure.gflop_of(lambda: matrix @ matrix) == pytest.approx(2e6 / 1e9)


def test_shares_of_time_sum_to_one_and_name_what_takes_it():
    matrix = torch.ones(300, 300)
    shares = measure.shares_of(lambda: matrix @ matrix)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == "aten::mm"


def test_peak_memory_is_that_of_the_process_itself():
    held = np.ones(2**26)  # 512 MiB that the other process never has
    _, without = measure.in_own_process(max, 1, 2)
    _, with_text = measure.in_own_process(len, b"x" * 2**27)
    assert without < 512
    assert with_text - without >= 120
    assert held[0] == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")
def test_what_preparing_took_does_not_count_to_the_peak():
    prepared = "import numpy; numpy.ones(2**27).sum()"  # a GiB that is given back
    forgotten = f"{prepared}; from cfmri_core.benchmark.measure import forget_peak_memory; forget_peak_memory()"
    _, with_preparing = measure.in_own_process(exec, prepared)
    _, without = measure.in_own_process(exec, forgotten)
    assert with_preparing - without > 900


def test_plain_and_fused_attention_compute_the_same():
    torch.manual_seed(0)
    plain = reference.published_network("cpu", fused_attention=False).eval()
    fused = reference.published_network("cpu", fused_attention=True).eval()
    fused.load_state_dict(plain.state_dict())
    images, time = torch.randn(1, 1, 32, 32), torch.tensor([25.0])
    condition = torch.randn(1, reference.CONDITION_WIDTH)
    with torch.inference_mode():
        ours, theirs = (reference._forward(network, images, time, condition) for network in (fused, plain))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_volume_has_the_size_asked_for_and_the_slice_distance_of_the_scan():
    small, large = benchmark_volume(4, 32), benchmark_volume(8, 64)
    assert (small.shape, large.shape) == ((32, 32, 4), (64, 64, 8))
    assert small.spacing_mm[2] == pytest.approx(large.spacing_mm[2])
    assert small.spacing_mm[0] == pytest.approx(2 * large.spacing_mm[0])
    assert np.isfinite(large.voxels).all()
    assert bench.SOURCE.manufacturer != bench.TARGET.manufacturer
