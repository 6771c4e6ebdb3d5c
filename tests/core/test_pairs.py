import shutil

import pytest
import torch

from cfmri_core.data.pairs import load_renderings, paired_parameters
from cfmri_core.data.studies import list_studies
from cfmri_core.errors import RequestError
from cfmri_core.simulation.study import StudyPlan, simulate_dataset


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    simulate_dataset(root, 1, 80, StudyPlan(slab_mm=8, paired={"same": "same", "short": {"echo_time_ms": 1.3}}))
    return list_studies(root)


def test_noise_is_all_that_a_noisy_and_a_clean_rendering_differ_in(studies):
    subject = load_renderings(studies, 128)[0]
    assert subject.noisy.shape == subject.clean.shape == (2, 3, 128, 128)
    tissue = subject.clean > 0.3
    noise = (subject.noisy - subject.clean).float()[tissue]
    assert abs(noise.mean()) < 0.01
    assert noise.std() < 0.1
    assert torch.isfinite(subject.noisy).all()


def test_renderings_can_be_compared_on_one_scale(studies):
    subject = load_renderings(studies, 128)[0]
    own, other = subject.clean_in_units_of(0, [0, 1], 1)
    assert torch.equal(own, subject.clean[0, 1].float())
    assert torch.equal(subject.clean_in_units_of(0, [0, 1], slice(None))[:, 1], torch.stack([own, other]))
    back = (other * subject.span[0] + subject.low[0] - subject.low[1]) / subject.span[1]
    torch.testing.assert_close(back, subject.clean[1, 1].float(), atol=1e-4, rtol=0)


def test_a_probe_is_no_source(tmp_path):
    plan = StudyPlan(slab_mm=8, paired={"same": "same", "probe-long-echo-time": {"echo_time_ms": 9.0}})
    simulate_dataset(tmp_path, 1, 81, plan)
    subject = load_renderings(list_studies(tmp_path), 32)[0]
    assert [one.echo_time_ms == 9.0 for one in subject.parameters] == [True, False]
    assert subject.sources == (1,)


def test_each_rendering_has_its_own_parameters(studies):
    by_name = dict(zip(studies[0].paired, load_renderings(studies, 32)[0].parameters, strict=True))
    assert by_name["short"].echo_time_ms == 1.3
    assert by_name["same"].replaced({"echo_time_ms": 1.3}) == by_name["short"]


def test_one_rendering_is_no_pair(tmp_path):
    simulate_dataset(tmp_path, 1, 80, StudyPlan(slab_mm=8, paired={"same": "same"}))
    with pytest.raises(RequestError, match="1 paired rendering"):
        load_renderings(list_studies(tmp_path), 32)


def test_a_damaged_description_is_refused_by_name(studies, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(studies[0].paired["short"], folder)
    (folder / "study.json").write_text("{")
    with pytest.raises(RequestError, match=r"study\.json"):
        paired_parameters(folder)
