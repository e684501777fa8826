"""Training slices of scans that people bring, prepared exactly as in detection.

A folder holds ``images/`` and, under the same file names, ``masks/`` (where to look: brain, liver, vessel) and
``lesions/``; or, in place of ``lesions/``, a table ``labels.csv`` with the columns ``file``, ``slice`` and
``anomalous`` (0 or 1; slices are counted from 0 along the third axis of the file).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from DISYRECore.corruption.families import Corrupted, CorruptionSettings, apply_corruption, draw_corruption
from DISYRECore.corruption.shapes import ShapeBank
from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume, resample
from DISYRECore.methods.base.slicewise import frame
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.preprocessing.modalities.base import Modality
from DISYRECore.preprocessing.prepare import PreparedBrain
from DISYRECore.training.config import TrainingSettings

LABELS = ("synthetic", "lesions", "table")
FLIPS = {"horizontal": 2, "vertical": 1}
"""Axes of slices (B, Y, X) that are turned about."""

LEAST_SHARE = 0.02
"""Slices with less than this share of their frame inside the mask are left out."""


@dataclass(frozen=True)
class SlicePool:
    """All slices of some scans.

    Attributes:
        image: (N, Y, X) in [0, 1], 0 outside the mask.
        mask: (N, Y, X) bool.
        region: (N, Y, X) bool, lesions; the whole mask of a slice that a table calls anomalous.
    """

    image: Tensor
    mask: Tensor
    region: Tensor

    def to(self, device: torch.device) -> SlicePool:
        """The slices on a device."""
        return SlicePool(self.image.to(device), self.mask.to(device), self.region.to(device))

    def subset(self, which: Tensor) -> SlicePool:
        """Some of the slices."""
        return SlicePool(self.image[which], self.mask[which], self.region[which])


def flip(slices: SlicePool, flips: tuple[str, ...], generator: Generator) -> SlicePool:
    """Turns every other slice about, on average, along each of the axes named.

    Args:
        slices: Image, mask and region are turned together.
        flips: Of `FLIPS`.
        generator: On the device of the slices.

    Raises:
        DisyreError: An axis that does not exist.
    """
    for name in flips:
        if name not in FLIPS:
            raise DisyreError(f"There is no flip '{name}'; choose from {', '.join(FLIPS)}.")
        turned = torch.rand(len(slices.image), generator=generator, device=slices.image.device) < 0.5
        axis, chosen = FLIPS[name], turned.view(-1, 1, 1)
        slices = SlicePool(*(torch.where(chosen, v.flip(axis), v) for v in vars(slices).values()))
    return slices


def read_pool(folder: Path, patterns: tuple[str, ...], settings: TrainingSettings) -> SlicePool:
    """Prepares scans and takes them apart.

    Args:
        folder: See the module.
        patterns: Of the files in ``images/``.
        settings: Modality, labels, spacing and shape of the slices.

    Raises:
        DisyreError: No scans, a scan or mask that cannot be used, or labels that are asked for and missing.
    """
    if settings.labels not in LABELS:
        raise DisyreError(f"There are no labels '{settings.labels}'; choose one of {', '.join(LABELS)}.")
    paths = sorted(path for pattern in patterns for path in (folder / "images").glob(pattern))
    if not paths:
        raise DisyreError(f"{folder.name} holds no images that the config names; put scans into its folder images.")
    table = read_table(folder / "labels.csv") if settings.labels == "table" else {}
    pools = [_read_scan(path, table, settings) for path in paths]
    image, mask, region = (torch.cat(part) for part in zip(*(vars(pool).values() for pool in pools), strict=True))
    pool = SlicePool(image, mask, region)
    kept = pool.mask.flatten(1).float().mean(1) >= LEAST_SHARE
    if not kept.any():
        raise DisyreError(f"The masks in {folder.name} are empty or tiny; check them.")
    return pool.subset(kept)


def read_table(path: Path) -> dict[tuple[str, int], bool]:
    """Labels by file name and slice.

    Raises:
        DisyreError: The table is missing, or not as the module says.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {(row["file"], int(row["slice"])): bool(int(row["anomalous"])) for row in csv.DictReader(file)}
    except OSError as error:
        raise DisyreError("The folder has no labels.csv; add it, or use other labels.") from error
    except (KeyError, ValueError, TypeError) as error:
        raise DisyreError(
            "labels.csv is not understood: it needs the columns file, slice, anomalous (0 or 1)."
        ) from error


def _read_scan(path: Path, table: dict[tuple[str, int], bool], settings: TrainingSettings) -> SlicePool:
    modality = find_modality(settings.modality)
    scan = modality.read(path)
    mask_file = path.parents[1] / "masks" / path.name
    mask = modality.read_mask(mask_file, scan.grid) if mask_file.exists() else None
    brain = modality.prepare(scan, settings.spacing_mm, mask, None)
    truth = _truth(path, scan, modality, table, settings.labels)
    x, inside = brain.tensors()
    pictures = [fit(v.float(), settings.slice_shape) for v in (x, inside, _to_model(brain, truth))]
    return SlicePool(pictures[0], pictures[1] > 0.5, (pictures[2] > 0.5) & (pictures[1] > 0.5))


def _truth(path: Path, scan: Volume, modality: Modality, table: dict[tuple[str, int], bool], labels: str) -> np.ndarray:
    """(X, Y, Z) float32 on the scan's grid: lesions, or slices that are anomalous as a whole."""
    if labels == "table":
        known = [table.get((path.name, z)) for z in range(scan.shape[2])]
        if None in known:
            raise DisyreError(f"labels.csv does not label every slice of {path.name}; add slice {known.index(None)}.")
        return np.broadcast_to(np.array(known, np.float32), scan.shape)
    file = path.parents[1] / "lesions" / path.name
    if labels == "synthetic" or not file.exists():
        return np.zeros(scan.shape, np.float32)
    lesion: np.ndarray = modality.read_mask(file, scan.grid)
    return lesion.astype(np.float32)


def _to_model(brain: PreparedBrain, values: np.ndarray) -> Tensor:
    moved = resample(Volume(np.ascontiguousarray(values), brain.native.affine), brain.image.grid)
    return torch.from_numpy(np.ascontiguousarray(moved.voxels.T))


def fit(slices: Tensor, shape: tuple[int, int]) -> Tensor:
    """Pads slices (Z, Y, X) with 0 and crops them, about their middle, to a `shape` (Y, X)."""
    wide, _ = frame(slices, shape, fill=0.0)
    low = [(have - want) // 2 for have, want in zip(wide.shape[1:], shape, strict=True)]
    return wide[:, low[0] : low[0] + shape[0], low[1] : low[1] + shape[1]]


class ImageSlices:
    """Draws slices from a pool.

    Args:
        pool: On the device that trains.
        shapes: Of synthetic anomalies.
        settings: Their corruption, spacing, flips and labels; ``synthetic`` corrupts the slices, other labels do not.
        brighter: Probability that a synthetic anomaly brightens what it covers.
    """

    def __init__(self, pool: SlicePool, shapes: ShapeBank, settings: TrainingSettings, brighter: float = 0.5) -> None:
        self.pool, self.shapes, self.settings, self.brighter = pool, shapes, settings, brighter

    def draw(self, count: int, seed: int) -> tuple[SlicePool, Corrupted]:
        """`count` slices as they are, and with their anomalies (B, 1, Y, X); the same seed gives the same slices."""
        device = self.pool.image.device
        generator = Generator(device).manual_seed(seed)
        which = torch.randint(len(self.pool.image), (count,), generator=generator, device=device)
        chosen = flip(self.pool.subset(which), self.settings.flips, generator)
        image, mask = chosen.image[:, None], chosen.mask[:, None]
        if self.settings.labels != "synthetic":
            return chosen, Corrupted(image, chosen.region[:, None], torch.zeros(count, device=device))
        corruption: CorruptionSettings = self.settings.corruption
        spacing_mm = self.settings.spacing_mm
        drawn = draw_corruption(self.shapes, mask, spacing_mm, generator, corruption, self.brighter)
        return chosen, apply_corruption(self.shapes, image, mask, drawn, spacing_mm, corruption)
