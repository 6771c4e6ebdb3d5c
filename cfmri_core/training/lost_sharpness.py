"""How much sharpness the maps of a direct editor lose to the noise of each scanner model's scans."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cfmri_core.data.pairs import Renderings
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.sharpness import BANDS, band_power
from cfmri_core.pipeline.image_editing import read_maps
from cfmri_core.progress import Progress, silent

#: Most that is given back, as a logarithm: beyond it noise would be raised more than tissue.
_MOST = 0.7


def measure_lost_sharpness(editor: DirectEditor, subjects: Sequence[Renderings], progress: Progress = silent) -> None:
    """Measure it on subjects that were held back from training, and keep it in the editor's decoder.

    For each model, all that its scans are shown as is compared with the truth. The middle of the lowest band, which
    holds the contrast of tissues, stays as it is, and so does all of a model without a scan.

    Args:
        editor: Trained editor; its decoder is changed.
        subjects: Held-back subjects.
        progress: Called after each subject.
    """
    models = editor.spec.categories["manufacturer_model"]
    shown, truth = (torch.zeros(len(models), BANDS, dtype=torch.float64) for _ in range(2))
    for number, subject in enumerate(subjects, 1):
        for source in subject.sources:
            model = subject.parameters[source].manufacturer_model
            if model in models:
                row = models.index(model)
                for one, true in _shown_and_truth(editor, subject, source):
                    shown[row] += band_power(one)
                    truth[row] += band_power(true)
        progress(number, len(subjects), "measuring lost sharpness")
    lost = 0.5 * torch.log((truth / shown).nan_to_num(nan=1.0))
    lost[:, 0] = 0
    editor.network.decoder.lost_sharpness.copy_(lost.clamp(0, _MOST))


@torch.inference_mode()
def _shown_and_truth(editor: DirectEditor, subject: Renderings, source: int) -> list[tuple[Tensor, Tensor]]:
    """What one scan is shown as under the other protocols, and is, each of shape ``(slices, size, size)``."""
    maps = read_maps(subject.noisy[source].float()[:, None], subject.parameters[source], editor)
    pairs = []
    for other in subject.sources:
        if other != source:
            found = editor.images(maps.to(editor.device), [subject.parameters[other]])[:, 0].cpu()
            true = subject.clean_in_units_of(source, [other], slice(None))[0]
            # Air without noise is darker than the 0 of a noisy scan; the decoder shows 0 there.
            pairs.append((found, true.clamp(min=0)))
    return pairs
