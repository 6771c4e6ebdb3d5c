"""Does an image look like those that a model was trained on?

The networks answer whatever they are shown: a head, a breast upside down, noise. This says when not to
believe them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from cfmri_core.data.studies import SliceSet
from cfmri_core.io.json_text import number
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.pipeline.prediction import inner_slices
from cfmri_core.pipeline.support import Verdict
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

#: Share of training-like volumes that are inside, and that are at most marginal.
INSIDE_SHARE, MARGINAL_SHARE = 0.95, 0.985
#: Fewer subjects say nothing about a distribution.
LEAST_SUBJECTS = 8
#: Side of the images whose features are taken without a predictor.
PLAIN_SIZE = 96

#: Where the tissue lies, and how fine it is: the trunk averages both away. Cells along each side of the image.
_LAYOUT_CELLS, _DETAIL_CELLS = 6, 4
#: Edges of the intensity bins, in normalised units.
_BINS = (-0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5)
#: Least spread of a feature, as a share of the median spread: a feature that was constant in training would make
#: rounding errors infinitely far.
_SPREAD_FLOOR = 0.05
_MOST_COMPONENTS = 24
_FOLDS = 5


@dataclass(frozen=True)
class ImageSupport:
    """The distribution of image features over training subjects, one feature vector a subject.

    A normal distribution on the standardised features whose covariance has a few directions of its own and
    one variance for all others (probabilistic principal components).

    Source: Tipping & Bishop, J R Stat Soc B 1999;61:611-622, eq. 6-8.

    Attributes:
        centre: Mean of each feature, shape ``(features,)``.
        spread: Standard deviation of each feature, shape ``(features,)``.
        directions: Orthonormal rows, shape ``(components, features)``.
        variances: Variance along each direction, shape ``(components,)``.
        rest: Variance along every other direction.
        limits: Distances up to which an image is inside, and marginal.
        subjects: Training subjects.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    directions: NDArray[np.float64]
    variances: NDArray[np.float64]
    rest: float
    limits: tuple[float, float]
    subjects: int

    def judge(self, volume: Volume, predictor: IapPredictor | None = None) -> Verdict:
        """Judge a volume by its distance from the training subjects.

        Args:
            volume: The volume.
            predictor: Whose features were fitted; ``None`` if those of no network were, see `volume_features`.

        Raises:
            GeometryError: The image is constant.
        """
        size, keeps_aspect = (predictor.image_size, predictor.config.keeps_aspect) if predictor else (PLAIN_SIZE, True)
        images, _, _ = normalised_images(volume, size, keeps_aspect)
        distance = float(self.distances(volume_features(images, predictor)[None])[0])
        level = "inside" if distance <= self.limits[0] else "marginal" if distance <= self.limits[1] else "outside"
        if level == "inside":
            return Verdict()
        likeness, model = (
            "hardly looks" if level == "marginal" else "does not look",
            "predictor" if predictor else "editor",
        )
        reason = (
            f"the image {likeness} like those the {model} was trained on: its features lie at distance {distance:.3g}; "
            f"{MARGINAL_SHARE:.1%} of such images lie below {self.limits[1]:.3g}."
        )
        return Verdict(level, (reason,))

    def distances(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Mahalanobis distance per row of features ``(volumes, features)``.

        It is divided by the root of the number of features, so that training subjects lie near 1.
        """
        centred = (features - self.centre) / self.spread
        along = centred @ self.directions.T
        remainder = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
        squares = (along**2 / self.variances).sum(axis=1) + np.maximum(remainder, 0.0) / self.rest
        return np.asarray(np.sqrt(squares / features.shape[1]))

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as JSON-ready values, six digits each."""
        arrays = {name: _rounded(getattr(self, name)) for name in ("centre", "spread", "directions", "variances")}
        return {**arrays, "rest": self.rest, "limits": list(self.limits), "subjects": self.subjects}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ImageSupport:
        """Build from what `to_json` returned."""
        inside, marginal = values["limits"]
        return cls(
            centre=_row(values["centre"]),
            spread=_row(values["spread"], 0),
            directions=np.stack([_row(row) for row in values["directions"]]),
            variances=_row(values["variances"], 0),
            rest=number(values["rest"], 0),
            limits=(number(inside, 0), number(marginal, 0)),
            subjects=int(number(values["subjects"], 0)),
        )


def fit_image_support(
    training: NDArray[np.float64], held_back: NDArray[np.float64] | None = None
) -> ImageSupport | None:
    """Fit the distribution and the limits.

    The limits are upper prediction limits of the distance of one more volume, its logarithm taken as
    normal. Training subjects are measured by distributions fitted without them (5 folds); subjects that
    the predictor was not trained on, if there are at least `LEAST_SUBJECTS` of them, may raise the limits.

    Args:
        training: Features of training subjects, shape ``(subjects, features)``, see `subject_features`.
        held_back: Features of subjects that the predictor was not trained on, or ``None``.

    Returns:
        The distribution, or ``None`` for fewer than `LEAST_SUBJECTS` training subjects.
    """
    count = len(training)
    if count < LEAST_SUBJECTS:
        return None
    folds = np.arange(count) % _FOLDS
    crossed = np.concatenate(
        [_fitted(training[folds != fold]).distances(training[folds == fold]) for fold in range(_FOLDS)]
    )
    fitted = _fitted(training)
    samples = [crossed]
    if held_back is not None and len(held_back) >= LEAST_SUBJECTS:
        samples.append(fitted.distances(held_back))
    inside, marginal = (max(_upper_limit(sample, share) for sample in samples) for share in _SHARES)
    return ImageSupport(
        fitted.centre, fitted.spread, fitted.directions, fitted.variances, fitted.rest, (inside, marginal), count
    )


def subject_features(slices: SliceSet, predictor: IapPredictor | None = None) -> NDArray[np.float64]:
    """Return one row of features per subject, shape ``(subjects, features)``."""
    subjects = range(len(slices.parameters))
    return np.stack([volume_features(slices.images[slices.subject == index], predictor) for index in subjects])


def volume_features(images: Tensor, predictor: IapPredictor | None = None) -> NDArray[np.float64]:
    """Return the features of one volume, the mean over its inner slices.

    They are what the predictor's last layer sees, the mean image and the logarithm of the fine detail on
    coarse grids, and the share of pixels per bin of intensity.

    Args:
        images: All slices in normalised intensity, shape ``(slices, 1, size, size)``.
        predictor: The predictor; ``None`` leaves out what it sees.

    Returns:
        Features, shape ``(features,)``.
    """
    trunk = trunk_features(images, predictor) if predictor else images.new_zeros(len(images), 0)
    inner = inner_slices({"images": images, "trunk": trunk})
    bounded = inner["images"].clamp(-0.5, 2.0)
    detail = (bounded - avg_pool2d(bounded, 3, stride=1, padding=1, count_include_pad=False)).abs()
    bins = torch.bucketize(bounded.contiguous(), torch.tensor(_BINS))
    shares = torch.bincount(bins.flatten(), minlength=len(_BINS) + 1) / bins.numel()
    parts = [
        inner["trunk"].mean(dim=0),
        adaptive_avg_pool2d(bounded, _LAYOUT_CELLS).mean(dim=0).flatten(),
        adaptive_avg_pool2d(detail, _DETAIL_CELLS).mean(dim=0).flatten().add(1e-3).log(),
        shares,
    ]
    return np.asarray(torch.cat(parts).double().numpy())


def trunk_features(images: Tensor, predictor: IapPredictor) -> Tensor:
    """Return what the predictor's last linear layer sees, shape ``(slices, channels)``, whatever its trunk is."""
    last = [module for module in predictor.network.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    here = threading.get_ident()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == here:  # a server runs the same network in other threads
            seen[:] = [inputs[0].detach().float().cpu()]

    def features(batch: Tensor) -> Tensor:
        predictor.outputs(batch)
        return seen.pop()

    hook = last.register_forward_pre_hook(keep)
    try:
        return torch.cat(predictor.over_slices(features, images))
    finally:
        hook.remove()


_SHARES = (INSIDE_SHARE, MARGINAL_SHARE)


def _row(values: Sequence[Any], least: float = -np.inf) -> NDArray[np.float64]:
    return np.array([number(value, least) for value in values])


def _fitted(features: NDArray[np.float64]) -> ImageSupport:
    """Distribution without limits."""
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.maximum(spread, _SPREAD_FLOOR * max(float(np.median(spread)), 1e-6))
    count, width = features.shape
    components = max(1, min(_MOST_COMPONENTS, count // 4, width - 1))
    _, singular, rows = np.linalg.svd((features - centre) / spread, full_matrices=False)
    variances = singular**2 / max(1, count - 1)
    rest = max(float(variances[components:].sum()) / (width - components), 1e-3)
    return ImageSupport(
        centre, spread, rows[:components], np.maximum(variances[:components], rest), rest, (0.0, 0.0), count
    )


def _upper_limit(distances: NDArray[np.float64], share: float) -> float:
    """Upper prediction limit for one more value of a log-normal sample (Hahn & Meeker 1991, section 4.8)."""
    logs, count = np.log(np.maximum(distances, 1e-9)), len(distances)
    quantile = float(student.ppf(share, count - 1)) * float(np.sqrt(1 + 1 / count))
    return float(np.exp(logs.mean() + quantile * logs.std(ddof=1)))


def _rounded(values: NDArray[np.float64]) -> Any:
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape).tolist()
