"""What the tissues of a brain say of the contrast of a scan.

A logistic regression on percentiles of tissues in twelve parts of the brain, laid by the moments of the brain mask, so
that a lesion in some parts changes little. Learnt by `Testing/fit_contrast.py` on synthetic and healthy scans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from DISYRECore.io.average_head import average_head
from DISYRECore.io.files import resources
from DISYRECore.io.labels import CEREBRAL_CORTEX, CEREBRAL_WHITE, CSF_LABEL, LATERAL_VENTRICLES, brain_tissue

CONTRASTS = ("T1", "T1C", "T2", "FLAIR", "PD", "other")

CONSTANTS = resources() / "Anatomy" / "contrast.json"

PARTS = 12
RIM_STEPS = 2
LEAST_STRETCH, MOST_STRETCH = 0.65, 1.45
LEAST_IN_PART, LEAST_WHITE, LEAST_IN_ZONE, LEAST_PARTS = 400, 80, 12, 3
WHITE_EROSION, FLUID_DILATION = 1, 1
ZONES = {"cortex": CEREBRAL_CORTEX, "striatum": (11, 50, 12, 51), "thalamus": (10, 49)}
PERCENTILES = (10, 50, 90)
EXTREMES = (0.5, 2, 98, 99.5)
QUARTILES = (25, 50, 75)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Voxels of the average brain, P of them.

    Attributes:
        points: (P, 3) voxel indices.
        part: (P,) one of `PARTS` parts: side, back, middle or front, lower or upper half.
        zones: (P,) bool for each zone, `white` among them.
        middle, spread: Mean (3,) and covariance (3, 3) of the points.
    """

    points: np.ndarray
    part: np.ndarray
    zones: dict[str, np.ndarray]
    middle: np.ndarray
    spread: np.ndarray


@lru_cache(maxsize=1)
def atlas() -> Atlas:
    """The average head's brain and the zones that lie within one tissue in most brains."""
    labels = average_head().voxels
    tissue = brain_tissue(labels)
    rim = (labels == CSF_LABEL) & ndimage.binary_dilation(tissue, iterations=RIM_STEPS)
    points = np.argwhere(tissue | rim)
    zones = {name: np.isin(labels, values) for name, values in ZONES.items()}
    zones["white"] = ndimage.binary_erosion(np.isin(labels, CEREBRAL_WHITE), iterations=WHITE_EROSION)
    zones["ventricles"] = ndimage.binary_dilation(np.isin(labels, LATERAL_VENTRICLES), iterations=FLUID_DILATION)
    zones["rim"] = rim
    at = tuple(points.T)
    return Atlas(
        points,
        _parts(points, labels.shape[0]),
        {name: zone[at] for name, zone in zones.items()},
        points.mean(0),
        np.cov(points.T),
    )


def _parts(points: np.ndarray, width: int) -> np.ndarray:
    side = points[:, 0] > (width - 1) / 2
    along = np.searchsorted(np.quantile(points[:, 1], (1 / 3, 2 / 3)), points[:, 1])
    up = points[:, 2] > np.median(points[:, 2])
    return side * 6 + along * 2 + up


def _laid_over(mask: np.ndarray, spacing_mm: float) -> np.ndarray | None:
    """Voxel indices (P, 3) of a mask at which the atlas's points lie; None if the mask is no whole adult brain.

    The affine map takes mean and covariance of the atlas's brain to those of the mask; of all such maps it is the
    symmetric one, which neither turns nor mirrors (the optimal transport between two Gaussians).
    """
    brain = atlas()
    inside = np.argwhere(mask)
    if len(inside) < LEAST_IN_PART:
        return None
    root, inverse = _power(brain.spread, 0.5), _power(brain.spread, -0.5)
    linear = inverse @ _power(root @ np.cov(inside.T) @ root, 0.5) @ inverse
    stretch = np.linalg.eigvalsh(linear) * spacing_mm / average_head().spacing_mm[0]
    if not LEAST_STRETCH <= stretch.min() <= stretch.max() <= MOST_STRETCH:
        return None
    return np.rint((brain.points - brain.middle) @ linear + inside.mean(0)).astype(int)


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-9) ** exponent) @ vectors.T


def features(image: np.ndarray, mask: np.ndarray, spacing_mm: float) -> dict[str, float]:
    """What the classifier sees of a brain.

    In each part of the brain, percentiles of each zone are taken relative to the median of the white matter there and
    to the distance between the 10th and 90th percentile of the part: unit and zero of the scan's intensities do not
    count. The quartiles over the parts are returned, for a lesion spoils some parts and leaves others.

    Args:
        image: (X, Y, Z), axes closest to R, A, S, isotropic, in linear intensities from 0 on.
        mask: Brain mask on the same grid, bool.
        spacing_mm: Of the grid.

    Returns:
        Features by name, NaN where a zone is not in the scan; empty where the mask is not about a whole brain.
    """
    index = _laid_over(mask, spacing_mm)
    if index is None:
        return {}
    within = np.all((index >= 0) & (index < np.array(mask.shape)), axis=1)
    index = np.where(within[:, None], index, 0)
    within &= mask[tuple(index.T)]
    values = image[tuple(index.T)]
    rows = [row for part in range(PARTS) if (row := _part_features(values, within & (atlas().part == part)))]
    return _over_parts(rows) if len(rows) >= LEAST_PARTS else {}


def _over_parts(rows: list[dict[str, float]]) -> dict[str, float]:
    """Quartiles of each number over the parts; NaN where no part has it."""
    table = np.array([list(row.values()) for row in rows])
    seen = np.isfinite(table).any(0)
    table[:, ~seen] = 0
    quartiles = np.where(seen, np.nanpercentile(table, QUARTILES, axis=0), np.nan)
    names = [f"{name}, {q} % of parts" for q in QUARTILES for name in rows[0]]
    return dict(zip(names, quartiles.ravel().tolist(), strict=True))


def _part_features(values: np.ndarray, part: np.ndarray) -> dict[str, float]:
    zones = {name: values[zone & part] for name, zone in atlas().zones.items()}
    whole, white = values[part], zones.pop("white")
    if len(whole) < LEAST_IN_PART or len(white) < LEAST_WHITE:
        return {}
    low, high = np.percentile(whole, (10, 90))
    unit, middle = max(float(high - low), 1e-6), float(np.median(white))
    row: dict[str, float] = {}
    for name, zone, wanted in [("all", whole, EXTREMES), *((n, z, PERCENTILES) for n, z in zones.items())]:
        found = np.percentile(zone, wanted) if len(zone) >= LEAST_IN_ZONE else np.full(len(wanted), np.nan)
        row |= {f"{name} {p:g} %": float(v - middle) / unit for p, v in zip(wanted, found, strict=True)}
    return row


@dataclass(frozen=True, eq=False)
class Classifier:
    """Multinomial logistic regression over F standardised features.

    Attributes:
        names: Of the features.
        mean, deviation: (F,) what standardises them; a feature that is missing counts as the mean.
        weights: (F, 6), one column for each of `CONTRASTS`.
        bias: (6,).
    """

    names: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, seen: Mapping[str, float]) -> dict[str, float]:
        """Probability of each contrast given `features`."""
        x = np.array([seen[name] for name in self.names])
        x = np.clip(np.nan_to_num((x - self.mean) / self.deviation), -FARTHEST, FARTHEST)
        logits = x @ self.weights + self.bias
        odds = np.exp(logits - logits.max())
        return dict(zip(CONTRASTS, (odds / odds.sum()).tolist(), strict=True))


FARTHEST = 4.0
"""A feature that lies further from the mean, in standard deviations, tells no more."""


@lru_cache(maxsize=1)
def classifier() -> Classifier:
    """The classifier that `Testing/fit_contrast.py` has learnt."""
    stored = json.loads(CONSTANTS.read_text(encoding="utf-8"))
    arrays = {name: np.array(stored[name]) for name in ("mean", "deviation", "weights", "bias")}
    return Classifier(tuple(stored["names"]), **arrays)


PRIOR = {"T1": 0.3, "T1C": 0.05, "T2": 0.3, "FLAIR": 0.3, "PD": 0.03, "other": 0.02}
"""Of a scan of which the image shows too little."""


def contrast_from_image(image: np.ndarray, mask: np.ndarray, spacing_mm: float) -> dict[str, float]:
    """Probability of each of `CONTRASTS` by the tissues of a brain alone.

    Args:
        image: (X, Y, Z), axes closest to R, A, S, isotropic, in linear intensities from 0 on, see `features`.
        mask: Brain mask on the same grid, bool.
        spacing_mm: Of the grid.
    """
    seen = features(image, mask, spacing_mm)
    return classifier().probabilities(seen) if seen else dict(PRIOR)
