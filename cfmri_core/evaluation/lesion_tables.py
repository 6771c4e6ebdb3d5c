"""The lesion suite summed up: the thesis' table, how like real lesions they are, and whether the aims are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cfmri_core.evaluation.frechet import frechet_distance, kernel_distance
from cfmri_core.evaluation.statistics import Interval
from cfmri_core.evaluation.suite import PatientResult, mean_intervals
from cfmri_core.evaluation.summary_table import Cell, SummaryTable

MASK, BOX, REMOVAL = "by mask", "by box", "removal"
#: Features that the distances are of.
FEATURES = "the second-stage features of the predictor that scores edits of acquisition (`scoring_predictor`)"
#: Random halvings of the patients over which distances are averaged.
_HALVINGS = 40
#: Declared before the run: lowest Dice by mask and by box, how far the boundary gradient may lie from the truth's, and
#: the share of removals after which nothing is found.
DICE_AIMS, GRADIENT_AIM, REMOVAL_AIM = {MASK: 0.63, BOX: 0.59}, 0.05, 0.90
#: FID on RadImageNet features and Dice of nnU-Net in brain MRI, Ben Alaya et al. 2024 (MedEdit) and thesis.
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    MASK: {"sdedit": (24.1, 0.67, 7.95), "palette": (9.08, 0.38, 5.63), "repaint": (8.31, 0.50, 4.24),
           "mededit": (8.30, 0.63, 3.07)},
    BOX: {"sdedit": (22.09, 0.57, 9.50), "palette": (8.5, 0.52, 4.08), "repaint": (8.48, 0.56, 3.73),
          "mededit": (8.45, 0.59, 3.46)},
}  # fmt: skip

_FeatureSets = Sequence[Mapping[str, Sequence[Sequence[float]]]]


def lesion_tables(results: Sequence[PatientResult], methods: Sequence[str], real: str) -> list[SummaryTable]:
    """Return the tables.

    Args:
        results: One per patient.
        methods: Methods that were run.
        real: Name of the arm that is the real lesions.
    """
    sets: _FeatureSets = [result.facts["features"] for result in results]
    means = {kind: mean_intervals(results, kind) for kind in (MASK, BOX, REMOVAL)}
    distances = {
        kind: {method: _distances(sets, f"{kind}/{method}", real) for method in methods} for kind in (MASK, BOX)
    }
    composite = {
        kind: {
            method: (1 - means[kind][method]["dice"].mean) * distances[kind][method][0]
            for method in methods
        }
        for kind in (MASK, BOX)
    }  # fmt: skip
    return [
        _main_table(methods, means, distances, composite, _distances(sets, real, real)),
        _aims_table(means, composite),
    ]


def _distances(sets: _FeatureSets, first: str, second: str) -> tuple[float, float]:
    """Fréchet distance and KID between one half's ``first`` and the other half's ``second``, no patient in both.

    The same halvings for every pair, so that the distance of real lesions to real ones is what can be reached at best.
    """
    if len(sets) < 4:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    scale = _stacked(sets, second).std(axis=0) + 1e-6
    found = []
    for _ in range(_HALVINGS):
        order = rng.permutation(len(sets))
        halves = order[: len(sets) // 2], order[len(sets) // 2 :]
        one, other = (
            _stacked([sets[n] for n in half], name) / scale for half, name in zip(halves, (first, second), strict=True)
        )
        found.append((frechet_distance(one, other), kernel_distance(one, other)))
    frechet, kernel = np.mean(found, axis=0)
    return float(frechet), float(kernel)


def _stacked(sets: _FeatureSets, name: str) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(one[name], dtype=np.float64) for one in sets])


def _main_table(
    methods: Sequence[str],
    means: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    distances: Mapping[str, Mapping[str, tuple[float, float]]],
    composite: Mapping[str, Mapping[str, float]],
    floor: tuple[float, float],
) -> SummaryTable:
    header = ["Given", "Method", "Fréchet distance", "KID", "Dice", "(1 - Dice) x Fréchet", "Boundary gradient",
              "Found / asked volume", "Contrast, %", "published: FID / Dice / composite"]  # fmt: skip
    rows: list[list[Cell]] = []
    for kind in (MASK, BOX):
        for method in methods:
            found, told = means[kind][method], PUBLISHED[kind].get(method)
            rows.append(
                [
                    kind, method, *distances[kind][method], found["dice"], composite[kind][method],
                    found["boundary_gradient_ratio"], found["volume_ratio"], found["contrast"],
                    " / ".join(f"{value:g}" for value in told) if told else None,
                ]
            )  # fmt: skip
    real = next(iter(means[MASK].keys() - set(methods)), None)
    if real:
        found = means[MASK][real]
        rows.append([real, "none", *floor, found["dice"], None, 1.0, found["volume_ratio"], found["contrast"], None])
    caption = (
        f"Fréchet distance and KID: of {FEATURES}, about each lesion; edits of one half of the patients against real "
        "lesions of the other, averaged over halvings. The last row is the floor: real against real. Dice of what that "
        "segmenter finds with the lesion that was asked for; for a box, with the lesion that the box was drawn about. "
        "Contrast: of the asked place to its surroundings, in percent of the intensity range. "
        "Published: brain lesions, other features, other data; only the order can be compared, not the size. The "
        "published composite by box is the product of the two published figures."
    )
    return SummaryTable("Inserted lesions", caption, header, rows)


def _aims_table(
    means: Mapping[str, Mapping[str, Mapping[str, Interval]]], composite: Mapping[str, Mapping[str, float]]
) -> SummaryTable:
    own = "mededit"
    rows: list[list[Cell]] = []
    for kind in (MASK, BOX):
        if own not in composite[kind]:
            continue
        order = sorted(composite[kind], key=lambda method: composite[kind][method])
        rows.append([f"mededit first in the composite, {kind}", ", ".join(order), _told(order[0] == own)])
        reached = means[kind][own]["dice"].mean
        rows.append([f"Dice at least {DICE_AIMS[kind]}, {kind}", reached, _told(reached >= DICE_AIMS[kind])])
        ratio = means[kind][own]["boundary_gradient_ratio"].mean
        rows.append(
            [f"boundary gradient within 5 % of the truth's, {kind}", ratio, _told(abs(ratio - 1) <= GRADIENT_AIM)]
        )
        outside = means[kind][own]["outside_max"].mean
        rows.append([f"outside of the region exactly unchanged, {kind}", outside, _told(outside == 0)])
    if own in means[REMOVAL]:
        share = means[REMOVAL][own]["nothing_found"].mean
        rows.append(["nothing found after at least 90 % of removals", share, _told(share >= REMOVAL_AIM)])
    return SummaryTable("Aims", "Declared before the run, of method mededit.", ["Aim", "Reached", "Met"], rows)


def _told(is_met: bool) -> str:
    return "yes" if is_met else "no"
