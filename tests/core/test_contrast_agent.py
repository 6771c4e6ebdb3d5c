import dataclasses

import numpy as np
import pytest

from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.contrast_agent import RELAXIVITY, agent_mmol_per_l, relaxivity_at
from cfmri_core.simulation.lesions import with_lesions
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.scanner import draw_subject, scan, scanned_labels, scanned_lesions
from cfmri_core.simulation.tissues import Tissue


@pytest.fixture(scope="module")
def anatomy():
    return with_lesions(generate_anatomy(3, slab_mm=14), 1, 3)


def test_relaxivity_is_that_of_the_table():
    assert relaxivity_at(1.5) == pytest.approx(RELAXIVITY[0])
    assert relaxivity_at(3.0) == pytest.approx(RELAXIVITY[1])


def test_what_is_drawn_elsewhere_does_not_depend_on_the_lesion(anatomy):
    without = dataclasses.replace(anatomy, tissue=np.where(anatomy.tissue == Tissue.LESION, Tissue.FAT, anatomy.tissue))
    outside = ~anatomy.breast
    assert np.allclose(agent_mmol_per_l(anatomy, 3)[outside], agent_mmol_per_l(without, 3)[outside])


def test_blood_holds_most_and_a_lesion_more_than_gland(anatomy):
    agent = agent_mmol_per_l(anatomy, 3)
    blood, lesion, gland = (
        np.median(agent[anatomy.tissue == kind]) for kind in (Tissue.VESSEL, Tissue.LESION, Tissue.FIBROGLANDULAR)
    )
    assert blood > lesion > 2 * gland > 0


def test_the_agent_makes_a_lesion_stand_out_from_gland_where_the_native_scan_does_not(anatomy):
    subject = draw_subject(anatomy, 3)
    enhanced = dataclasses.replace(subject, agent_mmol_per_l=agent_mmol_per_l(anatomy, 3))
    mask = scanned_lesions(anatomy).voxels > 0
    contrast = {}
    for name, one in {"native": subject, "enhanced": enhanced}.items():
        voxels = scan(anatomy, one, PRESETS["ge-hdx-3t"], noise_seed=None).voxels
        gland = (scanned_labels(anatomy).voxels == 2) & ~mask
        contrast[name] = voxels[mask].mean() / np.median(voxels[gland])
    assert contrast["enhanced"] > contrast["native"] + 0.1
