"""Patient-disjoint, stratified splits over acquisition parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import RequestError

#: Balanced by value; the manufacturer follows from the model.
CATEGORICAL = ("manufacturer_model", "field_strength_t", "scan_options")
#: Balanced by tertile over the patients.
CONTINUOUS = ("flip_angle_deg", "slice_thickness_mm", "echo_time_ms", "repetition_time_ms")


def stratified_split(
    patients: Sequence[str], parameters: Sequence[AcquisitionParameters], shares: Sequence[float], seed: int
) -> tuple[list[int], ...]:
    """Split studies into parts that share no patient and have the same mix of acquisition parameters.

    Each value of a categorical parameter, each tertile of a continuous one and "unknown" is a label; a
    patient with several studies has the labels of all. Parts get their exact share of the patients (rounded;
    none is empty while there are patients enough) and, as far as the labels allow, of every label, rare
    ones first. The result depends on the set of patients and the seed, not on their order.

    Args:
        patients: Patient of each study.
        parameters: Acquisition parameters of each study.
        shares: Positive share of each part, e.g. ``(0.75, 0.10, 0.15)``; scaled to sum to 1.
        seed: Decides between equally good choices.

    Returns:
        For each part the indices of its studies, rising.

    Raises:
        RequestError: A share is not positive.

    Source: Sechidis, Tsoumakas and Vlahavas 2011 (ECML PKDD), algorithm 1, followed by swaps of patients
    between parts while these bring label counts nearer to their quotas.
    """
    weights = np.array(shares, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise RequestError(f"Shares {tuple(shares)} are not all positive.", "Example: 0.75, 0.10 and 0.15.")
    names = sorted(set(patients))
    if not names:
        return tuple([] for _ in weights)
    labels = _patient_labels(names, patients, parameters)
    sizes = _part_sizes(len(names), weights / weights.sum())
    quotas = np.outer(sizes / sizes.sum(), labels.sum(axis=0))
    rng = np.random.default_rng((seed, 6))
    part_of = _balanced(labels, _assigned(labels, sizes, quotas, rng), quotas)
    part_of_name = dict(zip(names, part_of.tolist(), strict=True))
    return tuple(
        [index for index, patient in enumerate(patients) if part_of_name[patient] == part]
        for part in range(len(weights))
    )


def stratification_labels(parameters: Sequence[AcquisitionParameters]) -> list[frozenset[str]]:
    """Return the labels of each study that `stratified_split` balances, such as ``echo_time_ms: tertile 2``."""
    columns = [[_text(getattr(one, name)) for one in parameters] for name in CATEGORICAL]
    columns += [_tertiles([getattr(one, name) for one in parameters]) for name in CONTINUOUS]
    names = (*CATEGORICAL, *CONTINUOUS)
    return [
        frozenset(f"{name}: {column[index]}" for name, column in zip(names, columns, strict=True))
        for index in range(len(parameters))
    ]


def _patient_labels(
    names: Sequence[str], patients: Sequence[str], parameters: Sequence[AcquisitionParameters]
) -> NDArray[np.int64]:
    """Indicator matrix, shape ``(patients, labels)``."""
    of_study = stratification_labels(parameters)
    columns = {label: column for column, label in enumerate(sorted(frozenset().union(*of_study)))}
    rows = {name: row for row, name in enumerate(names)}
    matrix = np.zeros((len(names), len(columns)), dtype=np.int64)
    for patient, labels in zip(patients, of_study, strict=True):
        for label in labels:
            matrix[rows[patient], columns[label]] = 1
    return matrix


def _part_sizes(count: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole patients per part, by largest remainder; empty parts then take one from the largest."""
    sizes = np.floor(shares * count + 1e-9).astype(np.int64)
    for part in np.argsort(sizes - shares * count, kind="stable")[: count - sizes.sum()]:
        sizes[part] += 1
    while count >= len(shares) and (sizes == 0).any():
        sizes[np.argmax(sizes)] -= 1
        sizes[np.argmin(sizes)] += 1
    return np.asarray(sizes)


def _assigned(
    labels: NDArray[np.int64], sizes: NDArray[np.int64], quotas: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Give every patient a part: the rarest label first, to the part that wants it most and has room."""
    part_of = np.full(len(labels), -1)
    wanted, room = quotas.copy(), sizes.astype(np.float64)
    tie_break = rng.permutation(len(labels))
    while (part_of < 0).any():
        free = part_of < 0
        remaining = labels[free].sum(axis=0)
        rarest = int(np.argmin(np.where(remaining > 0, remaining, np.inf)))
        holders = np.flatnonzero(free & (labels[:, rarest] > 0))
        for patient in holders[np.argsort(tie_break[holders])]:
            open_parts = np.flatnonzero(room > 0)
            order = np.lexsort((rng.random(len(open_parts)), room[open_parts], wanted[open_parts, rarest]))
            part = open_parts[order[-1]]
            part_of[patient] = part
            wanted[part] -= labels[patient]
            room[part] -= 1
    return part_of


def _balanced(labels: NDArray[np.int64], part_of: NDArray[np.int64], quotas: NDArray[np.float64]) -> NDArray[np.int64]:
    """Swap patients of two parts, best swap first, while the squared distance of counts to quotas falls."""
    part_of = part_of.copy()
    pairs = [(a, b) for a in range(len(quotas)) for b in range(a)]
    lengths = labels.sum(axis=1)
    improved = True
    while improved:
        improved = False
        for first, second in pairs:
            ours, theirs = np.flatnonzero(part_of == first), np.flatnonzero(part_of == second)
            if not len(ours) or not len(theirs):
                continue
            excess = (labels[ours].sum(axis=0) - quotas[first]) - (labels[theirs].sum(axis=0) - quotas[second])
            pull = labels @ excess
            # Moving d = ours - theirs changes the sum of squares by 2 |d|^2 - 2 excess . d.
            unequal = lengths[ours][:, None] + lengths[theirs] - 2 * (labels[ours] @ labels[theirs].T)
            change = 2 * unequal - 2 * (pull[ours][:, None] - pull[theirs])
            best = np.unravel_index(np.argmin(change), change.shape)
            if change[best] < -1e-9:
                part_of[ours[best[0]]], part_of[theirs[best[1]]] = second, first
                improved = True
    return part_of


def _text(value: str | float | None) -> str:
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else value


def _tertiles(values: Sequence[float | None]) -> list[str]:
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return ["unknown"] * len(values)
    edges = np.quantile(known, (1 / 3, 2 / 3))
    return [
        "unknown" if value is None else f"tertile {int(np.searchsorted(edges, value, side='left')) + 1}"
        for value in values
    ]
