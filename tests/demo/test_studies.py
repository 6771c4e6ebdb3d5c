"""The demo's studies: made once, kept apart from training."""

from cfmri_core.demo import studies
from cfmri_core.simulation.study import StudyPlan


def test_studies_are_made_once_and_a_servers_leavings_go_when_asked(tmp_path, monkeypatch):
    made = []

    def simulate(folder, seed, plan: StudyPlan):
        made.append(seed)
        (folder / "dicom").mkdir(parents=True)
        for name in plan.paired:
            (folder / "paired" / name).mkdir(parents=True)
        return folder

    monkeypatch.setattr(studies, "simulate_study", simulate)
    first = studies.prepare_studies(tmp_path)
    expected = len(studies.TEST_PATIENTS) + studies.TRAINING_PATIENTS + 2
    assert len(made) == len(set(made)) == expected
    assert min(made) > 90_000
    assert [list(study.paired) for study in first.test] == [[target] for _, target in studies.TEST_PATIENTS]
    published = first.served / ".monailabel" / "models"
    published.mkdir(parents=True)
    assert studies.prepare_studies(tmp_path) == first
    assert len(made) == expected
    assert published.exists()
    studies.forget_server(first)
    assert not published.exists()


def test_a_changed_plan_is_simulated_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "simulate_study", lambda folder, seed, plan: (folder / "dicom").mkdir(parents=True))
    studies.prepare_studies(tmp_path)
    monkeypatch.setattr(studies, "SLAB_MM", 12.0)
    again = []
    monkeypatch.setattr(
        studies,
        "simulate_study",
        lambda folder, seed, plan: (again.append(seed), (folder / "dicom").mkdir(parents=True)),
    )
    studies.prepare_studies(tmp_path)
    assert len(again) == len(studies.TEST_PATIENTS) + studies.TRAINING_PATIENTS + 2
