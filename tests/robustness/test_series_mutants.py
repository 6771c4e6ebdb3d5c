"""Damaged series: none is accepted with a voxel in the wrong place or of the wrong value."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from phantoms import affine_of, orientations, rotation, save, slice_dataset

from cfmri_core.archive.index import index_archive, read_entry
from cfmri_core.dicom.read import read_series
from cfmri_core.errors import DicomReadError, GeometryError
from cfmri_core.volume import Volume

SEED = 20_260_413
SLICES = 8
Rng = np.random.Generator


class Mutant:
    """One series on disk that is about to be damaged: files in slice order."""

    def __init__(self, folder: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
        normal = np.cross(*(affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)).T)
        self.paths = []
        for k in range(voxels.shape[2]):
            location = float((affine @ (0, 0, k, 1))[:3] @ normal)
            dataset = slice_dataset(voxels, affine, k, {"SliceLocation": f"{location:.8g}"})
            self.paths.append(save(folder / f"{k:03}.dcm", dataset))

    def change(self, k: int, **attributes: object) -> None:
        """Set attributes of slice k."""
        dataset = pydicom.dcmread(self.paths[k])
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(self.paths[k])

    def value(self, k: int, keyword: str) -> object:
        return pydicom.dcmread(self.paths[k])[keyword].value


def swapped_files(mutant: Mutant, rng: Rng) -> None:
    one, two = (mutant.paths[k] for k in rng.choice(SLICES, 2, replace=False))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def swapped_instance_numbers(mutant: Mutant, rng: Rng) -> None:
    one, two = rng.choice(SLICES, 2, replace=False)
    mutant.change(one, InstanceNumber=int(two) + 1)
    mutant.change(two, InstanceNumber=int(one) + 1)


def swapped_positions(mutant: Mutant, rng: Rng) -> None:
    one, two = rng.choice(SLICES, 2, replace=False)
    first, second = (mutant.value(k, "ImagePositionPatient") for k in (one, two))
    mutant.change(one, ImagePositionPatient=second)
    mutant.change(two, ImagePositionPatient=first)


def missing(mutant: Mutant, rng: Rng) -> None:
    mutant.paths[rng.integers(SLICES)].unlink()


def every_second_missing(mutant: Mutant, rng: Rng) -> None:
    for path in mutant.paths[rng.integers(2) :: 2]:
        path.unlink()


def copied(mutant: Mutant, rng: Rng) -> None:
    path = mutant.paths[rng.integers(SLICES)]
    shutil.copy(path, path.with_name("copy.dcm"))


def duplicated(mutant: Mutant, rng: Rng) -> None:
    source = mutant.paths[rng.integers(SLICES)]
    dataset = pydicom.dcmread(source)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(source.with_name("again.dcm"))


def moved(mutant: Mutant, rng: Rng) -> None:
    k = rng.integers(SLICES)
    position = np.array(mutant.value(k, "ImagePositionPatient"), float) + rng.normal(0, 1, 3)
    mutant.change(k, ImagePositionPatient=[f"{value:.8g}" for value in position])


def rotated(mutant: Mutant, rng: Rng) -> None:
    k = rng.integers(SLICES)
    directions = np.array(mutant.value(k, "ImageOrientationPatient"), float).reshape(2, 3)
    turned = directions @ rotation(*rng.uniform(2, 90, 3))
    mutant.change(k, ImageOrientationPatient=[f"{value:.8g}" for value in turned.ravel()])


def transposed(mutant: Mutant, rng: Rng) -> None:
    k = rng.integers(SLICES)
    mutant.change(k, Rows=mutant.value(k, "Columns"), Columns=mutant.value(k, "Rows"))


def spacing(mutant: Mutant, rng: Rng) -> None:
    k = rng.integers(SLICES)
    first, second = (float(value) for value in mutant.value(k, "PixelSpacing"))
    mutant.change(k, PixelSpacing=[first * rng.choice([0.5, 0.99, 1.01, 2]), second])


def rescaled(mutant: Mutant, rng: Rng) -> None:
    mutant.change(rng.integers(SLICES), RescaleSlope=str(rng.choice([0.5, 2, 0, 1e30])), RescaleIntercept="3")


def bit_depth(mutant: Mutant, rng: Rng) -> None:
    stored = int(rng.choice([8, 10, 12]))
    mutant.change(rng.integers(SLICES), BitsStored=stored, HighBit=stored - 1)


def signed(mutant: Mutant, rng: Rng) -> None:
    mutant.change(rng.integers(SLICES), PixelRepresentation=1)


def inverted(mutant: Mutant, rng: Rng) -> None:
    mutant.change(rng.integers(SLICES), PhotometricInterpretation="MONOCHROME1")


def foreign(mutant: Mutant, rng: Rng) -> None:
    keyword = str(rng.choice(["FrameOfReferenceUID", "StudyInstanceUID", "PatientID", "SeriesInstanceUID"]))
    mutant.change(rng.integers(SLICES), **{keyword: "9.9.9"})


def other_echo(mutant: Mutant, rng: Rng) -> None:
    mutant.change(rng.integers(SLICES), EchoTime="9.2")


def cut_short(mutant: Mutant, rng: Rng) -> None:
    path = mutant.paths[rng.integers(SLICES)]
    path.write_bytes(path.read_bytes()[: -int(rng.integers(1, 60))])


DAMAGES: tuple[Callable[[Mutant, Rng], None], ...] = (
    swapped_files, swapped_instance_numbers, swapped_positions, missing, every_second_missing, copied, duplicated,
    moved, rotated, transposed, spacing, rescaled, bit_depth, signed, inverted, foreign, other_echo, cut_short,
)  # fmt: skip


def series(folder: Path, rng: Rng) -> tuple[Mutant, Volume]:
    """Write a series of random place, spacing and content; return it and the truth."""
    voxels = rng.permutation(9 * 7 * SLICES).reshape(9, 7, SLICES).astype(np.uint16)
    directions = list(orientations())[rng.integers(48)]
    if rng.integers(2):
        directions = rotation(*rng.uniform(-40, 40, 3)) @ directions
    affine = affine_of(directions, tuple(rng.uniform(0.5, 4, 3)), tuple(rng.uniform(-200, 200, 3)))
    return Mutant(folder, voxels, affine), Volume(voxels.astype(np.float32), affine)


def volumes_of(folder: Path) -> list[Volume]:
    """Return what is accepted of a folder, by the reader and by the index."""
    found = []
    for read in (lambda: [read_series(folder)], lambda: [read_entry(folder, e) for e in index_archive(folder)]):
        try:
            found += [series.volume for series in read()]
        except (DicomReadError, GeometryError):
            continue
    return found


def is_true(volume: Volume, truth: Volume) -> bool:
    """Whether every voxel lies where the truth has the same value."""
    indices = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    places = np.c_[indices, np.ones(len(indices))] @ (np.linalg.inv(truth.affine) @ volume.affine).T
    nearest = np.rint(places[:, :3]).astype(int)
    if (nearest < 0).any() or (nearest >= truth.shape).any() or np.abs(places[:, :3] - nearest).max() > 2e-3:
        return False
    return np.array_equal(truth.voxels[tuple(nearest.T)], volume.voxels[tuple(indices.T)])


def test_no_damaged_series_is_accepted_with_wrong_geometry_or_intensity(soak, record_result, tmp_path):
    count = 500 if soak else 3 * len(DAMAGES)
    outcomes: dict[str, Counter[str]] = {damage.__name__: Counter() for damage in DAMAGES}
    for number in range(count):
        rng = np.random.default_rng((SEED, number))
        damage = DAMAGES[number % len(DAMAGES)]
        folder = tmp_path / str(number)
        mutant, truth = series(folder, rng)
        damage(mutant, rng)
        volumes = volumes_of(folder)
        is_wrong = not all(is_true(volume, truth) for volume in volumes)
        outcomes[damage.__name__]["wrong" if is_wrong else "accepted and right" if volumes else "refused"] += 1
        shutil.rmtree(folder)
    clean = clean_outcome(500 if soak else 20, tmp_path)
    record_result(
        "series_mutants",
        {
            "seed": SEED,
            "mutants": count,
            "clean": clean,
            "accepted_wrong": sum(outcome["wrong"] for outcome in outcomes.values()),
            "by_damage": outcomes,
            "promise": "0 accepted with wrong geometry or intensity; at most 2 % of clean series refused",
            "not_covered": "pixels exchanged between two slices whose headers agree: nothing in the files tells",
        },
    )
    assert {name: outcome["wrong"] for name, outcome in outcomes.items() if outcome["wrong"]} == {}
    assert clean["refused"] <= 0.02 * clean["series"]
    for name in ("swapped_files", "swapped_instance_numbers", "copied"):
        assert not outcomes[name]["refused"]
    for name in ("swapped_positions", "duplicated", "rotated", "transposed", "rescaled", "bit_depth", "cut_short"):
        assert not outcomes[name]["accepted and right"]


def clean_outcome(count: int, folder: Path) -> dict[str, int]:
    """Count clean series that are not accepted as they are by reader and index."""
    refused = 0
    for number in range(count):
        place = folder / f"clean{number}"
        _, truth = series(place, np.random.default_rng((SEED, 1_000_000 + number)))
        volumes = volumes_of(place)
        refused += not (len(volumes) == 2 and all(is_true(volume, truth) for volume in volumes))
        shutil.rmtree(place)
    return {"series": count, "refused": refused}
