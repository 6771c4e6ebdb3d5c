import torch
from lesions import lesion_mask, scan_without

from cfmri_core.data.lesion_scans import lesion_scan
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training.lesion_segmenter import LesionSegmentationLoss


def test_a_field_of_view_smaller_than_a_patch_is_padded():
    scan = lesion_scan(scan_without(), lesion_mask(), None, PRESETS["ge-hdx-3t"], 2.0)
    segmenter = LesionSegmenter.create("tiny")
    size = segmenter.config.image_size
    assert scan.images.shape[-1] < size
    images, labels = LesionSegmentationLoss(segmenter, [scan], 4).draw(4, torch.Generator().manual_seed(0))
    assert images.shape[-2:] == labels.shape[-2:] == (size, size)
    assert images[..., scan.images.shape[-2] :, :].abs().sum() == 0
