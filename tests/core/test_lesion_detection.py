import numpy as np
from lesions import lesion_segmenter, scan_without

from cfmri_core.pipeline.lesion_detection import lesion_probability


def test_probabilities_lie_on_the_scans_grid():
    volume = scan_without()
    probability = lesion_probability(volume, lesion_segmenter())
    assert probability.shape == volume.shape
    assert 0 <= probability.min() <= probability.max() <= 1
    turned = volume.with_voxels(np.ascontiguousarray(volume.voxels[::-1]))
    assert not np.array_equal(lesion_probability(turned, lesion_segmenter()), probability)
