"""Pictures of slices as doctors read them: oriented, in millimetres, same window, difference with its scale."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import nibabel.orientations
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from cfmri_core.volume import Volume

_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}
#: Where index directions must point on a picture: right of the picture is left of the patient, top is front or head.
_RIGHTWARD = ("L", "P")
_DOWNWARD = ("P", "I")
_PANEL_INCHES = 3.5
_RULER_MM = 50

#: Colours of the tissue labels, the same as in 3D Slicer: fat yellow, fibroglandular tissue pink.
LABEL_COLOURS: Mapping[int, str] = {1: "#e6c84a", 2: "#e05aa8"}


@dataclass(frozen=True)
class Slice:
    """One slice turned as radiologists look at it.

    Attributes:
        pixels: Values, shape ``(rows, columns)``.
        spacing_mm: Distance of rows and of columns, in millimetres.
        letters: Patient direction at the left, right, top and bottom edge.
    """

    pixels: NDArray[np.generic]
    spacing_mm: tuple[float, float]
    letters: Mapping[str, str]

    @property
    def extent_mm(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the picture in millimetres."""
        rows, columns = self.pixels.shape
        return 0.0, columns * self.spacing_mm[1], rows * self.spacing_mm[0], 0.0


def oriented_slice(volume: Volume, k: int) -> Slice:
    """Cut slice ``k`` of the third axis and turn it into radiological convention.

    The right of the picture is the patient's left (or back, in a sagittal slice), the top is front or head.
    """
    i_code, j_code, _ = (str(code) for code in nibabel.orientations.aff2axcodes(volume.affine))
    i_mm, j_mm, _ = volume.spacing_mm
    pixels = volume.voxels[:, :, k]
    if _lies_across(i_code, j_code):
        pixels, across, down, spacing = pixels.T, i_code, j_code, (j_mm, i_mm)
    else:
        across, down, spacing = j_code, i_code, (i_mm, j_mm)
    if across not in _RIGHTWARD:
        pixels, across = pixels[:, ::-1], _OPPOSITE[across]
    if down not in _DOWNWARD:
        pixels, down = pixels[::-1], _OPPOSITE[down]
    letters = {"left": _OPPOSITE[across], "right": across, "top": _OPPOSITE[down], "bottom": down}
    return Slice(np.ascontiguousarray(pixels), spacing, letters)


def comparison_figure(panels: Mapping[str, Slice], window: tuple[float, float], unit: str) -> str:
    """Show slices side by side in one grey window.

    Args:
        panels: Title to slice, from left to right.
        window: Value shown black, value shown white.
        unit: What the values are, for the scale.

    Returns:
        PNG as a data URI.
    """
    figure, axes = _row_of_panels(panels)
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        image = _show(axis, panel, title, cmap="gray", vmin=window[0], vmax=window[1])
    _scale(figure, axes, image, unit)
    return _data_uri(figure)


def difference_figure(panels: Mapping[str, Slice], limit: float, unit: str) -> str:
    """Show signed differences side by side in one symmetric diverging scale, white at zero.

    Args:
        panels: Title to difference, from left to right.
        limit: Value at the ends of the scale.
        unit: What the values are.
    """
    figure, axes = _row_of_panels(panels)
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        image = _show(axis, panel, title, cmap="RdBu_r", vmin=-limit, vmax=limit, ink="black")
    _scale(figure, axes, image, unit)
    return _data_uri(figure)


def overlay_figure(panels: Mapping[str, tuple[Slice, Slice]], window: tuple[float, float]) -> str:
    """Show tissue labels as coloured areas and outlines over their image.

    Args:
        panels: Title to (image, labels), from left to right.
        window: Value shown black, value shown white.
    """
    figure, axes = _row_of_panels(panels, margin_inches=0.0)
    for axis, (title, (image, labels)) in zip(axes, panels.items(), strict=True):
        _show(axis, image, title, cmap="gray", vmin=window[0], vmax=window[1])
        for value, colour in LABEL_COLOURS.items():
            _show_label(axis, image, labels.pixels == value, colour)
    return _data_uri(figure)


def bar_figure(values: Mapping[str, tuple[float, float, float]], label: str, ideal: float | None = None) -> str:
    """Show one mean with its confidence interval per arm.

    Args:
        values: Arm to mean, lower and upper limit.
        label: What the values are, with unit.
        ideal: Value of a perfect result, drawn as a line.
    """
    figure = Figure(figsize=(5.2, 0.55 * len(values) + 0.9), layout="constrained")
    axis = figure.subplots()
    positions = np.arange(len(values))[::-1]
    for position, (mean, low, high) in zip(positions, values.values(), strict=True):
        if np.isfinite([low, high]).all():
            axis.plot([low, high], [position, position], color="#14548c", linewidth=2, solid_capstyle="butt")
        axis.plot(mean, position, "o", color="#14548c", markersize=7)
    axis.set_yticks(positions, list(values))
    axis.set_ylim(-0.6, len(values) - 0.4)
    axis.set_xlabel(label)
    axis.grid(axis="x", color="#d9dee5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    if ideal is not None:
        axis.axvline(ideal, color="#5b6675", linewidth=1, linestyle="--")
    return _data_uri(figure)


def curve_figure(
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    places: Sequence[str | float],
    labels: tuple[str, str],
    references: Mapping[str, float],
) -> str:
    """Show how means with their confidence intervals run over the values of one quantity.

    Args:
        series: Name to mean, lower and upper limit at each place.
        places: Numbers, shown to scale and joined by lines, or texts, shown side by side as points.
        labels: What the places are and what the values are, with units.
        references: Name of a series to the value drawn as a dashed line in its colour.
    """
    figure = Figure(figsize=(6.2, 3.0), layout="constrained")
    axis = figure.subplots()
    is_scale = all(not isinstance(place, str) for place in places)
    across = np.array(places, dtype=float) if is_scale else np.arange(len(places), dtype=float)
    for (name, values), colour in zip(series.items(), ("#14548c", "#b3541e", "#3d7a3d"), strict=False):
        mean, low, high = np.array(values, dtype=float).T
        axis.plot(across, mean, "o-" if is_scale else "o", color=colour, markersize=5, label=name)
        axis.vlines(across, low, high, color=colour, linewidth=1.5)
        if name in references:
            axis.axhline(references[name], color=colour, linewidth=1, linestyle="--")
    if not is_scale:
        axis.set_xticks(across, [str(place) for place in places])
    axis.set_xlabel(labels[0])
    axis.set_ylabel(labels[1])
    axis.grid(axis="y", color="#d9dee5", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8.5)
    return _data_uri(figure)


def difference_limit(differences: Sequence[NDArray[np.generic]], quantile: float = 0.99) -> float:
    """Return one symmetric limit for several difference maps: the 99 % quantile of their magnitude, never 0."""
    magnitudes = np.concatenate([np.abs(difference).ravel() for difference in differences])
    return max(float(np.quantile(magnitudes, quantile)), 1e-6)


def _lies_across(i_code: str, j_code: str) -> bool:
    """Whether axis i belongs across the picture: left-right always does, front-back does beside head-foot."""
    if "L" in (i_code, _OPPOSITE[i_code]):
        return True
    return "A" in (i_code, _OPPOSITE[i_code]) and "S" in (j_code, _OPPOSITE[j_code])


def _row_of_panels(panels: Mapping[str, Any], margin_inches: float = 0.8) -> tuple[Figure, list[Axes]]:
    first = next(iter(panels.values()))
    slice_ = first[0] if isinstance(first, tuple) else first
    _, width_mm, height_mm, _ = slice_.extent_mm
    height = min(_PANEL_INCHES * height_mm / width_mm, 1.6 * _PANEL_INCHES)
    figure = Figure(figsize=(_PANEL_INCHES * len(panels) + margin_inches, height + 0.35), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, len(panels))))


def _show(axis: Axes, panel: Slice, title: str, ink: str = "white", **style: Any) -> mpl.image.AxesImage:
    image = axis.imshow(panel.pixels, extent=panel.extent_mm, interpolation="nearest", **style)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()
    _letters(axis, panel, ink)
    _ruler(axis, panel, ink)
    return image


def _letters(axis: Axes, panel: Slice, ink: str) -> None:
    places = {"left": (0.015, 0.5), "right": (0.985, 0.5), "top": (0.5, 0.985), "bottom": (0.5, 0.015)}
    align = {
        "left": ("left", "center"),
        "right": ("right", "center"),
        "top": ("center", "top"),
        "bottom": ("center", "bottom"),
    }
    for place, (x, y) in places.items():
        horizontal, vertical = align[place]
        axis.text(
            x,
            y,
            panel.letters[place],
            transform=axis.transAxes,
            color=ink,
            fontsize=9,
            ha=horizontal,
            va=vertical,
            path_effects=_halo(ink),
        )


def _ruler(axis: Axes, panel: Slice, ink: str) -> None:
    """Draw a ruler of 50 mm with a tick every 10 mm into the lower left corner."""
    _, width, height, _ = panel.extent_mm
    length = _RULER_MM if width > 2 * _RULER_MM else 10
    left, base = 0.05 * width, 0.95 * height
    halo = _halo(ink)
    axis.plot([left, left + length], [base, base], color=ink, linewidth=1.2, path_effects=halo)
    for tick in range(0, length + 1, 10):
        axis.plot([left + tick] * 2, [base, base - 0.018 * height], color=ink, linewidth=1, path_effects=halo)
    axis.text(left, base - 0.03 * height, f"{length} mm", color=ink, fontsize=7.5, va="bottom", path_effects=halo)
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)


def _halo(ink: str) -> list[withStroke]:
    return [withStroke(linewidth=2, foreground="black" if ink == "white" else "white")]


def _show_label(axis: Axes, panel: Slice, mask: NDArray[np.bool_], colour: str) -> None:
    if not mask.any():
        return
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = (*mpl.colors.to_rgb(colour), 0.45)
    axis.imshow(tint, extent=panel.extent_mm, interpolation="nearest")


def _scale(figure: Figure, axes: list[Axes], image: mpl.image.AxesImage, unit: str) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.85, aspect=30, pad=0.01)
    bar.set_label(unit, fontsize=8.5)
    bar.ax.tick_params(labelsize=8)


def _data_uri(figure: Figure) -> str:
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream, metadata={"Software": "cfmri"})
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
