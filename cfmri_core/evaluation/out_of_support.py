"""Inputs that no editor should be trusted with, made from a study that it may be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.slices import SliceStack
from cfmri_core.volume import Volume

#: Heavy noise: standard deviation as a share of the 99th percentile.
NOISE_SHARE = 0.25
#: What a header says of a turbo spin echo of the breast on the same scanner.
SPIN_ECHO: Mapping[str, float] = {
    "echo_time_ms": 102.0, "repetition_time_ms": 4500.0, "flip_angle_deg": 90.0, "slice_thickness_mm": 4.0,
}  # fmt: skip
#: Ellipses of a head in one plane (Shepp & Logan, IEEE Trans Nucl Sci 1974;21:21-43, table I): intensity added,
#: half-axes, centre (right, front), rotation in degrees; coordinates from -1 to 1. The intensities are those of
#: Toft 1996, which leave contrast within the brain.
_HEAD = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


def images_out_of_support(volume: Volume, seed: int) -> dict[str, Volume]:
    """Return images that are not breast scans of a known kind, on the volume's grid, by what they are."""
    voxels = volume.voxels.astype(np.float32)
    high = float(np.percentile(voxels, 99))
    rng = np.random.default_rng((seed, 11))
    noisy = np.hypot(voxels + _noise(rng, voxels, NOISE_SHARE * high), _noise(rng, voxels, NOISE_SHARE * high))
    inverted = np.where(voxels > 0.1 * high, np.maximum(1.1 * high - voxels, 0.0), voxels)
    made = {
        "head phantom": head_phantom(volume, high, rng),
        "upside down": _upside_down(volume),
        "heavy noise": noisy,
        "inverted contrast": inverted,
    }
    return {name: volume.with_voxels(np.ascontiguousarray(values, dtype=np.float32)) for name, values in made.items()}


def headers_out_of_support(header: AcquisitionParameters) -> dict[str, AcquisitionParameters]:
    """Return headers that do not belong to an image with this header, by what is wrong.

    ``header of another scanner`` takes all parameters of a typical protocol of another manufacturer, as when
    two subjects' headers are swapped; ``combination never seen`` keeps every value in its range.
    """
    others = [preset for preset in PRESETS.values() if preset.manufacturer != header.manufacturer]
    other = others[len(header.manufacturer_model or "") % len(others)]
    return {
        "header of another scanner": other,
        "combination never seen": header.replaced({"echo_time_ms": other.echo_time_ms}),
        "header of a spin echo": header.replaced(dict(SPIN_ECHO)),
    }


def head_phantom(volume: Volume, high: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a simulated head that fills the volume's grid, seen from below, with a little noise."""
    stack = SliceStack.of(volume, 64)
    rows, columns = (volume.shape[axis] for axis in (stack.row_axis, stack.column_axis))
    front, right = np.meshgrid(np.linspace(1, -1, rows), np.linspace(-1, 1, columns), indexing="ij")
    slices = []
    for height in np.linspace(-0.7, 0.7, stack.count):
        shrink = float(np.sqrt(1 - height**2))
        slices.append(sum(_ellipse(right / shrink, front / shrink, *ellipse) for ellipse in _HEAD))
    voxels = high * np.stack(slices).astype(np.float32)
    return np.asarray(np.abs(stack.voxels(voxels) + _noise(rng, volume.voxels, 0.02 * high)), dtype=np.float32)


def _ellipse(
    right: NDArray[np.float64],
    front: NDArray[np.float64],
    value: float,
    a: float,
    b: float,
    x: float,
    y: float,
    degrees: float,
) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    along, across = (right - x) * cosine + (front - y) * sine, (front - y) * cosine - (right - x) * sine
    return np.where((along / a) ** 2 + (across / b) ** 2 <= 1, value, 0.0)


def _upside_down(volume: Volume) -> NDArray[np.float32]:
    stack = SliceStack.of(volume, 64)
    return np.asarray(stack.voxels(stack.native(volume.voxels)[:, ::-1]), dtype=np.float32)


def _noise(rng: np.random.Generator, like: NDArray[np.float32], deviation: float) -> NDArray[np.float32]:
    return rng.normal(0.0, deviation, like.shape).astype(np.float32)
