"""Memory that runs out at any point of an inference: smaller batches and the same result, or a clear 507."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from app.answers import form, refusal
from app.serve_with_slow_edits import FULL_SEED
from cfmri_server.job import Outcome
from cfmri_server.jobs import JobQueue
from torch.utils._python_dispatch import TorchDispatchMode

from cfmri_core.models.batches import MOST_HALVINGS
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import PRESETS as DIRECT_EDITORS
from cfmri_core.models.direct_editor import DirectEditor, MapNetwork
from cfmri_core.models.editor import PRESETS as EDITORS
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.unet import ConditionalUNet
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.image_support import trunk_features
from cfmri_core.pipeline.method import EditRequest
from cfmri_core.pipeline.prediction import predicted_slices
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
SEED = 20
#: Points at which memory runs out, for each kind of inference; the kinds have 20 together.
POINTS = {"inversion": 5, "paper": 3, "fast": 5, "segment": 3, "predict": 4}


#: How many operations in a row are refused: all, one, as many as there are halvings.
LENGTHS = (float("inf"), 1, MOST_HALVINGS)


class FakeAllocator(TorchDispatchMode):
    """Counts the operations of a thread, each of which allocates its result, and refuses some.

    Attributes:
        first: Number of the first operation refused.
        times: How many are refused from there on.
    """

    def __init__(self, first: float = float("inf"), times: float = 1) -> None:
        super().__init__()
        self.first, self.times = first, times
        self.operations = self.refused = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.operations += 1
        if self.operations >= self.first and self.refused < self.times:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return function(*arguments, **(named or {}))


@pytest.fixture(scope="module")
def volume():
    voxels = np.random.default_rng(SEED).gamma(2.0, 200.0, (24, 20, 18)).astype(np.float32)
    return Volume(voxels, np.diag([1.5, 1.5, 3.0, 1.0]))


@pytest.fixture(scope="module")
def inferences(volume):
    """Each kind of inference with a small network that has random weights."""
    torch.manual_seed(SEED)
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    small = {"image_size": 32, "channels": (32, 32)}
    size = dataclasses.replace(EDITORS["tiny"], attention=(False, True), **small)
    editor = Editor(ConditionalUNet(size, spec.width), spec, size)
    size = dataclasses.replace(DIRECT_EDITORS["tiny"], attention=(False, False), **small)
    direct_editor = DirectEditor(MapNetwork(size, spec), spec, size)
    segmenter, predictor = Segmenter.create("tiny"), IapPredictor.create("tiny", spec)
    for model in (editor, direct_editor, segmenter, predictor):
        model.network.eval().requires_grad_(False)
    for model in (editor, direct_editor):
        for parameter in model.network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)

    def edit(method, model, **settings):
        request = EditRequest(changes=SIEMENS.known(), method=method, seed=SEED, **settings)
        return edit_volume(volume, GE, request, model).volume.voxels / np.ptp(volume.voxels)

    def predict():
        images, *_ = normalised_images(volume, predictor.image_size)
        logits = torch.cat(list(predicted_slices(volume, predictor).values()), dim=1)
        return np.concatenate([logits.numpy().ravel(), trunk_features(images, predictor).numpy().ravel()])

    return {
        "inversion": lambda: edit("inversion", editor, steps=1),
        "paper": lambda: edit("paper", editor, steps=1),
        "fast": lambda: edit("fast", direct_editor, source_noise="renew"),
        "segment": lambda: segment_volume(volume, segmenter).voxels.astype(np.float64),
        "predict": predict,
    }


def run(queue, inference, allocator):
    """Run an inference as a job with such an allocator; return the job and its result."""
    found = []

    def work(folder, progress):
        with allocator:
            found.append(inference())
        return Outcome(None, {})

    job = queue.open("m")
    queue.start(job, work)
    job.finished.result(60)
    return job, found[0] if found else None


@pytest.mark.parametrize("kind", POINTS)
def test_memory_that_runs_out_anywhere_costs_time_or_gives_507_and_never_another_result(
    kind, inferences, tmp_path, soak, record_result
):
    queue, inference = JobQueue(tmp_path), inferences[kind]
    whole, counted = inference(), FakeAllocator()
    run(queue, inference, counted)
    points = 20 if soak else POINTS[kind]
    said = {"backed_off": 0, "refused": 0, "largest_difference": 0.0}
    for number, first in enumerate(np.linspace(1, counted.operations, points, dtype=int)):
        for times in LENGTHS if soak else [LENGTHS[number % len(LENGTHS)]]:
            job, result = run(queue, inference, FakeAllocator(first, times))
            if result is None:
                assert job.failure.status == 507
                assert "Memory ran out" in job.failure.detail["message"]
                said["refused"] += 1
                continue
            assert times <= MOST_HALVINGS
            said["backed_off"] += 1
            said["largest_difference"] = max(said["largest_difference"], float(np.abs(result - whole).max()))
    assert said["largest_difference"] <= 1e-4
    assert said["backed_off"]
    assert said["refused"]
    _, after = run(queue, inference, FakeAllocator())
    np.testing.assert_array_equal(after, whole)
    record_result(
        f"out-of-memory-{kind}", {"seed": SEED, "points": points, "in_a_row": [str(times) for times in LENGTHS], **said}
    )


def test_the_server_says_507_and_answers_the_next_request(server):
    full = form(seed=FULL_SEED, slices="1", steps=1, echo_time_ms=1.4)
    detail = refusal(server.http.post("/infer/counterfactual?image=sub-0001", data=full), 507)
    assert "Memory ran out" in detail["message"]
    answer = server.http.post("/infer/counterfactual?image=sub-0001", data=form(slices="1", steps=1, echo_time_ms=1.4))
    assert answer.is_success
