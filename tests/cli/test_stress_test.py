"""`stress-test`, with untrained models: the protocol, not the quality."""

import json
from dataclasses import replace

import pytest
import torch


@pytest.fixture
def quick_edits(monkeypatch):
    from cfmri_core.pipeline.method import METHODS

    monkeypatch.setitem(METHODS, "inversion", replace(METHODS["inversion"], steps=1))


def test_the_worst_values_are_printed_and_written(cfmri, studies, models, tmp_path, quick_edits):
    out, report = tmp_path / "stress.json", tmp_path / "stress.html"
    outcome = cfmri("stress-test", studies, "--segmenter", models / "segmenter", "--report", report, "--json", out,
                    "--limit", 1, "--values", 2, "--parameter", "echo_time_ms", "--parameter", "field_strength_t",
                    "--device", "cpu")  # fmt: skip
    assert outcome.code == 0, outcome.err
    written = json.loads(out.read_text())
    assert written == outcome.json()
    assert set(written["aggregate"]) == {"echo_time_ms", "field_strength_t"}
    assert [row[0] for row in written["tables"][0]["rows"]]
    assert report.read_text().count("data:image/png") == 3


def test_a_torchscript_file_and_no_result_file(cfmri, studies, models, tmp_path, quick_edits):
    class Brightness(torch.nn.Module):
        def forward(self, x):
            return torch.cat([-x.abs(), -(x - 0.5).abs(), -(x - 1).abs()], dim=1)

    path = tmp_path / "theirs.ts"
    torch.jit.script(Brightness()).save(str(path))
    outcome = cfmri("stress-test", studies, "--segmenter", path, "--image-size", 64, "--limit", 1, "--values", 2,
                    "--parameter", "flip_angle_deg", "--device", "cpu")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "flip_angle_deg" in outcome.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--parameter", "colour"), "cannot change 'colour'"),
        (("--segmenter", "absent.ts"), "absent.ts: No such file or directory"),
        (("--method", "magic"), "'magic' is not a method"),
    ],
)
def test_what_cannot_be_tested_is_refused(cfmri, studies, models, options, words):
    outcome = cfmri("stress-test", studies, "--segmenter", models / "segmenter", *options)
    assert outcome.code != 0
    assert words in outcome.err
