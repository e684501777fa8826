"""More anatomies from few: brains with narrower or wider ventricles and sulci.

Training sees only as many brains as there are label maps, and what it has not seen looks anomalous to the model:
above all the wide fluid spaces of older people. Here the surfaces of the fluid move along their own normals, so the
cortex keeps its thickness and the white matter makes room. For the extraction of brains, some also shrink as a whole
within their skull.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from DISYRECore.io.labels import CSF_LABEL, FIRST_HEAD_LABEL, VENTRICLES

REACH_MM = 20.0
"""Depth at which tissue moves half as far as the surface."""

SULCI_MM, VENTRICLES_MM = (-1.0, 1.6), (-1.0, 5.0)
UNEVEN = 0.4
SHRINKAGE = 0.1
"""The most that a brain shrinks, as a share of its length."""


@dataclass(frozen=True)
class Widening:
    """How far the walls of the fluid spaces move into the tissue, mm; below 0 the spaces narrow.

    Attributes:
        sulci_mm: Of the outer fluid.
        ventricles_mm: Of the ventricles.
        seed: Of the unevenness over the brain.
        shrinkage: By how much the brain shrinks within the skull, as a share of its length.
    """

    sulci_mm: float
    ventricles_mm: float
    seed: int
    shrinkage: float = 0.0


def draw_widening(seed: int, shrinks: bool = False) -> Widening:
    """Draws one variant of an anatomy; sulci and ventricles go together, loosely, as with age."""
    random = np.random.default_rng(seed)
    age, own = random.random(), random.random(2)
    sulci, ventricles = 0.5 * (age + own)
    shrinkage = SHRINKAGE * random.random() if shrinks else 0.0
    return Widening(_between(SULCI_MM, sulci), _between(VENTRICLES_MM, ventricles), seed, shrinkage)


def widened(labels: np.ndarray, widening: Widening, spacing_mm: float) -> np.ndarray:
    """Moves the walls of sulci and ventricles of a label map with sides merged, (Z, Y, X), its brain in the middle."""
    wide = _shift(_shrunken(labels, widening.shrinkage), widening, spacing_mm)
    return _narrowed(wide, widening, spacing_mm)


def _between(limits: tuple[float, float], share: float) -> float:
    return float(limits[0] + (limits[1] - limits[0]) * share)


def _shrunken(labels: np.ndarray, share: float) -> np.ndarray:
    """What lies within the skull drawn towards the middle; fluid takes the room."""
    if share == 0:
        return labels
    within = (labels > 0) & (labels < FIRST_HEAD_LABEL)
    middle = (np.array(labels.shape) - 1) / 2
    zoom = 1 / (1 - share)
    smaller = ndimage.affine_transform(labels * within, [zoom] * 3, offset=middle * (1 - zoom), order=0)
    return np.where(within, np.where(smaller > 0, smaller, CSF_LABEL), labels)


def _shift(labels: np.ndarray, widening: Widening, spacing_mm: float) -> np.ndarray:
    """Tissue takes the label that lay nearer to the fluid; what the fluid has reached becomes fluid."""
    amounts = max(widening.sulci_mm, 0.0), max(widening.ventricles_mm, 0.0)
    tissue = (labels > 0) & ~np.isin(labels, (CSF_LABEL, *VENTRICLES)) & (labels < FIRST_HEAD_LABEL)
    if max(amounts) == 0 or not tissue.any():
        return labels
    depth, nearest = ndimage.distance_transform_edt(
        ~np.isin(labels, (CSF_LABEL, *VENTRICLES)), sampling=spacing_mm, return_indices=True
    )
    at = np.nonzero(tissue)
    depth, wall = depth[at], np.stack([axis[at] for axis in nearest])
    ventricular = np.isin(labels[tuple(wall)], VENTRICLES)
    move = np.where(ventricular, amounts[1], amounts[0]) * _unevenness(labels.shape, widening.seed)[at]
    share = np.minimum(move * REACH_MM / (REACH_MM + depth) / depth, 1.0)
    here = np.stack(at)
    source = np.rint(here + share * (wall - here)).astype(np.intp)
    out = labels.copy()
    out[at] = labels[tuple(source)]
    return out


def _narrowed(labels: np.ndarray, widening: Widening, spacing_mm: float) -> np.ndarray:
    """Fluid near tissue becomes the tissue beside it."""
    out = labels
    for spaces, amount in (((CSF_LABEL,), -widening.sulci_mm), (VENTRICLES, -widening.ventricles_mm)):
        if amount <= 0:
            continue
        fluid = np.isin(out, spaces)
        tissue = (out > 0) & (out < FIRST_HEAD_LABEL) & ~np.isin(out, (CSF_LABEL, *VENTRICLES))
        depth, nearest = ndimage.distance_transform_edt(~tissue, sampling=spacing_mm, return_indices=True)
        filled = fluid & (depth <= amount * _unevenness(labels.shape, widening.seed))
        out = np.where(filled, out[tuple(nearest)], out)
    return out


def _unevenness(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A smooth field about 1."""
    coarse = np.random.default_rng(seed + 1).standard_normal((6, 6, 6))
    zoom = [n / 6 for n in shape]
    return np.clip(1 + UNEVEN * ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest"), 0.0, 2.0)
