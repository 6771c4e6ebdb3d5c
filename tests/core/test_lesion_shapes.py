import numpy as np
import pytest
from lesions import lesion_mask, scan_without

from cfmri_core.errors import RequestError
from cfmri_core.training.lesion_shapes import SCALE, TURN_DEG, LesionShape, Pose, drawn_mask
from cfmri_core.volume import Volume

CENTRE = np.array([18.0, 12, 3])


@pytest.fixture
def grid():
    return scan_without()


@pytest.fixture
def shape(grid):
    """A bar of 32 mm x 8 mm x 8 mm with a foot at one end: no two poses look alike."""
    mask = np.zeros(grid.shape, np.uint8)
    mask[4:20, 10:14, 2:4] = 1
    mask[4:8, 14:18, 2:4] = 1
    return LesionShape.of(grid.with_voxels(mask))


def test_a_shape_laid_as_it_was_is_the_same(grid):
    mask = lesion_mask()
    shape = LesionShape.of(grid.with_voxels(mask.astype(np.uint8)))
    assert np.array_equal(shape.placed(grid, np.argwhere(mask).mean(axis=0), Pose()), mask)
    assert shape.volume_ml == pytest.approx(mask.sum() * 2 * 2 * 4 / 1000)


def test_only_the_largest_part_of_a_mask_is_taken(grid):
    mask = lesion_mask().astype(np.uint8)
    mask[30, 3, 0] = 1
    assert LesionShape.of(grid.with_voxels(mask)).inside.sum() == lesion_mask().sum()
    with pytest.raises(RequestError, match="mask is empty"):
        LesionShape.of(grid.with_voxels(np.zeros(grid.shape, np.uint8)))


def test_mirroring_and_turning_move_the_long_side(grid, shape):
    straight, mirrored, turned = (
        np.argwhere(shape.placed(grid, CENTRE, pose)) for pose in (Pose(), Pose(is_mirrored=True), Pose(turn_deg=90))
    )
    ends = [int(np.abs(index[:, 1]).argmax()) for index in (straight, mirrored)]
    assert straight[ends[0], 0] < CENTRE[0] < mirrored[ends[1], 0]
    assert np.ptp(straight[:, 0]) == pytest.approx(np.ptp(turned[:, 1]), abs=1)
    assert np.ptp(straight[:, 1]) == pytest.approx(np.ptp(turned[:, 0]), abs=1)


def test_a_scale_is_one_of_lengths(grid, shape):
    fine = Volume(np.zeros((80, 80, 24), np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]))
    volumes = [shape.placed(fine, np.array([40.2, 40.3, 12.4]), Pose(scale=scale)).sum() / 1000 for scale in (1.0, 1.2)]
    assert volumes[0] == pytest.approx(shape.volume_ml, rel=0.05)
    assert volumes[1] / volumes[0] == pytest.approx(1.2**3, rel=0.05)


def test_poses_are_moderate_and_drawn_by_the_generator():
    poses = [Pose.drawn(np.random.default_rng(seed)) for seed in range(40)]
    assert poses[3] == Pose.drawn(np.random.default_rng(3))
    assert {pose.is_mirrored for pose in poses} == {True, False}
    assert all(abs(pose.turn_deg) <= TURN_DEG and 1 / SCALE <= pose.scale <= SCALE for pose in poses)
    assert np.allclose(Pose(turn_deg=30).matrix @ Pose(turn_deg=-30).matrix, np.eye(3))


def test_a_mask_is_drawn_about_gland_and_inside_the_breast(grid):
    shape = LesionShape.of(grid.with_voxels(lesion_mask().astype(np.uint8)))
    gland, breast = np.zeros((2, *grid.shape), bool)
    gland[20, 12, 3], breast[14:28, 4:22] = True, True
    mask = drawn_mask(shape, grid, gland, breast, np.random.default_rng(0))
    assert mask[20, 12, 3]
    assert not (mask & ~breast).any()
    again = drawn_mask(shape, grid, gland, breast, np.random.default_rng(0))
    assert np.array_equal(mask, again)


def test_where_there_is_no_room_nothing_is_drawn(grid):
    shape = LesionShape.of(grid.with_voxels(lesion_mask().astype(np.uint8)))
    gland, breast = np.zeros((2, *grid.shape), bool)
    rng = np.random.default_rng(0)
    assert drawn_mask(shape, grid, gland, ~breast, rng) is None
    gland[20, 12, 3] = breast[20, 12, 3] = True
    assert drawn_mask(shape, grid, gland, breast, rng) is None
