"""What a direct editor is told about the sharpness that its maps lose."""

from types import SimpleNamespace

import pytest
import torch

from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.sharpness import BANDS, band_power
from cfmri_core.pipeline.image_editing import Placement, edit_images
from cfmri_core.pipeline.method import EditRequest
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training import lost_sharpness
from cfmri_core.training.lost_sharpness import measure_lost_sharpness

SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
SOURCE, TARGET = PRESETS["siemens-avanto-1.5t"], PRESETS["ge-hdxt-1.5t"]
ROW = SPEC.categories["manufacturer_model"].index("Avanto")


@pytest.fixture
def editor():
    return DirectEditor.create("tiny", SPEC)


def test_it_is_measured_by_scanner_model_and_never_taken_away(editor, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 128, 128, generator=generator)
    # The lowest band is shown too bright, the highest too weak by half.
    spectrum = torch.fft.fft2(truth)
    frequency = torch.hypot(torch.fft.fftfreq(128)[:, None], torch.fft.fftfreq(128)[None])
    shown = torch.fft.ifft2(spectrum * torch.where(frequency < 0.09, 2.0, torch.where(frequency < 0.4, 1.0, 0.5))).real
    monkeypatch.setattr(lost_sharpness, "_shown_and_truth", lambda *_: [(shown, truth)])
    measure_lost_sharpness(editor, [SimpleNamespace(sources=(0,), parameters=(SOURCE,))])
    lost = editor.network.decoder.lost_sharpness
    assert lost[ROW, 0] == 0
    assert lost[ROW, 1:4].abs().max() < 1e-4
    assert lost[ROW, -2:].tolist() == pytest.approx([0.693, 0.693], abs=1e-3)
    assert float(lost.sum()) == float(lost[ROW].sum())


def test_new_noise_comes_with_the_sharpness_of_another_scan(editor):
    slices = torch.rand(3, 1, 128, 128, generator=torch.Generator().manual_seed(1))
    placement = Placement(0, slice_distance_mm=2.3, low_signal=0.0)
    changes = {name: new for name, (_, new) in SOURCE.differences(TARGET).items()}

    def high_frequencies(source_noise):
        request = EditRequest(changes=changes, source_noise=source_noise)
        edited = edit_images(slices, SOURCE, TARGET, request, editor, placement)
        return float(band_power(edited[:, 0])[-3:].sum())

    plain = {way: high_frequencies(way) for way in ("renew", "remove")}
    editor.network.decoder.lost_sharpness[ROW] = torch.linspace(0, 0.7, BANDS)
    assert high_frequencies("renew") > 1.2 * plain["renew"]
    assert high_frequencies("remove") == plain["remove"]
