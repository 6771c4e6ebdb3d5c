import numpy as np
import pytest
from phantoms import affine_of, distinct_voxels, orientations, rotation, slice_dataset

from cfmri_core.dicom.geometry import affine_from_planes, nominal_gap_mm, plane_of, slice_order
from cfmri_core.errors import GeometryError

VOXELS = distinct_voxels()


def headers(affine, count=4, **attributes):
    return [slice_dataset(np.zeros((7, 5, count), np.uint16), affine, k, attributes) for k in range(count)]


def planes(affine, count=4):
    return [plane_of(header) for header in headers(affine, count)]


@pytest.mark.parametrize("tilt", [(0, 0, 0), (7, -13, 31)])
def test_affine_of_every_orientation(tilt):
    for directions in orientations():
        affine = affine_of(rotation(*tilt) @ directions)
        stack = planes(affine)
        order = slice_order(stack)
        found = affine_from_planes([stack[index] for index in order])
        is_right_handed = np.linalg.det(affine) > 0
        assert order == ([0, 1, 2, 3] if is_right_handed else [3, 2, 1, 0])
        expected = affine if is_right_handed else affine @ _flip_k(4)
        corner = np.array([7, 5, 4, 1])
        assert np.abs(found @ corner - expected @ corner).max() < 1e-6
        assert np.abs(found[:3, 3] - expected[:3, 3]).max() < 1e-6


def test_lps_becomes_ras():
    header = headers(affine_of(np.diag([-1.0, -1.0, 1.0]), origin=(100, 90, -50)))[0]
    assert [float(value) for value in header.ImagePositionPatient] == [-100, -90, -50]
    found = affine_from_planes([plane_of(header)], nominal_gap_mm(header))
    assert np.allclose(found, affine_of(np.diag([-1.0, -1.0, 1.0]), origin=(100, 90, -50)))


def test_pixel_spacing_names_the_distance_between_rows_first():
    header = headers(affine_of(np.eye(3), spacing=(0.5, 2.0, 3.0)))[0]
    assert [float(value) for value in header.PixelSpacing] == [2.0, 0.5]
    assert np.allclose(plane_of(header).spacing, (0.5, 2.0))


def test_single_slice_takes_its_spacing_from_the_header():
    header = headers(affine_of(np.eye(3)), 1)[0]
    assert nominal_gap_mm(header) == (2.5, 3.75)
    del header.SpacingBetweenSlices
    assert nominal_gap_mm(header) == (2.0, 5.0)
    header.SliceThickness = ""
    assert nominal_gap_mm(header) is None
    assert affine_from_planes([plane_of(header)])[2, 2] == 1.0


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", None),
        ("ImagePositionPatient", ["1", "2"]),
        ("ImageOrientationPatient", ["1", "0", "0", "0", "0", "0"]),
        ("ImageOrientationPatient", ["1", "0", "0", "0.7071", "0.7071", "0"]),
        ("PixelSpacing", ["0", "1"]),
        ("PixelSpacing", None),
    ],
)
def test_nonsense_planes_are_refused(keyword, value):
    with pytest.raises(GeometryError):
        plane_of(headers(affine_of(np.eye(3)), 1, **{keyword: value})[0])


def test_missing_slice_is_named_by_its_position():
    stack = planes(affine_of(np.eye(3)), 6)
    del stack[3]
    with pytest.raises(GeometryError, match=r"gap after the slice at 8.00 mm along the normal is 5.00 mm"):
        affine_from_planes([stack[index] for index in slice_order(stack)])


def test_every_second_slice_missing_is_seen_from_the_stated_spacing():
    affine = affine_of(np.eye(3))
    stack = planes(affine, 6)[::2]
    with pytest.raises(GeometryError, match=r"5.00 mm apart, where the header says 2.50 mm"):
        affine_from_planes(stack, nominal_gap_mm(headers(affine)[0]))


def test_overlapping_slices_are_accepted():
    affine = affine_of(np.eye(3), spacing=(1, 1, 1.1))
    header = headers(affine, SliceThickness="2.2")[0]
    assert affine_from_planes(planes(affine), nominal_gap_mm(header))[2, 2] == pytest.approx(1.1)


def test_unlike_orientations_and_spacings_are_refused():
    axial, tilted = planes(affine_of(np.eye(3))), planes(affine_of(rotation(0.1, 0, 0)))
    with pytest.raises(GeometryError, match="not parallel"):
        slice_order([*axial, tilted[0]])
    with pytest.raises(GeometryError, match="pixel spacing"):
        slice_order([*axial, *planes(affine_of(np.eye(3), spacing=(0.91, 1.3, 2.5)))])


def test_sheared_stack_and_stray_slice_are_refused():
    sheared = affine_of(np.eye(3))
    sheared[0, 2] = 0.3
    with pytest.raises(GeometryError, match="sheared"):
        affine_from_planes(planes(sheared))
    stack = planes(affine_of(np.eye(3)))
    stack[1].position[0] += 0.5
    with pytest.raises(GeometryError, match=r"Slice 2 is 0.50 mm off"):
        affine_from_planes(stack)


def test_equal_positions_are_refused():
    plane = planes(affine_of(np.eye(3)))[0]
    with pytest.raises(GeometryError, match="one position"):
        affine_from_planes([plane, plane])


def _flip_k(count):
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = count - 1
    return flip
