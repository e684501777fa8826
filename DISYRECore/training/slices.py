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

from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume, resample
from DISYRECore.methods.base.slicewise import frame
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.preprocessing.modalities.base import Modality
from DISYRECore.preprocessing.prepare import PreparedBrain

LABELS = ("synthetic", "lesions", "table")
"""What is known of anomalies: nothing, so that some are synthesised; masks of lesions; or a table of slices."""

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


@dataclass(frozen=True)
class ScanFolder:
    """Scans of one kind and how slices are taken of them.

    Attributes:
        path: See the module.
        modality: See `preprocessing.modalities`.
        spacing_mm: Spacing of the slices.
        slice_shape: Points (Y, X) of a slice.
        labels: What is known of anomalies, one of `LABELS`.
    """

    path: Path
    modality: str
    spacing_mm: float
    slice_shape: tuple[int, int]
    labels: str

    def pool(self, patterns: tuple[str, ...]) -> SlicePool:
        """Prepares the scans in ``images/`` that some patterns name and takes them apart.

        Raises:
            DisyreError: No scans, a scan or mask that cannot be used, or labels that are asked for and missing.
        """
        if self.labels not in LABELS:
            raise DisyreError(f"There are no labels '{self.labels}'; choose one of {', '.join(LABELS)}.")
        paths = sorted(path for pattern in patterns for path in (self.path / "images").glob(pattern))
        name = self.path.name
        if not paths:
            raise DisyreError(f"{name} holds no images that the config names; put scans into its folder images.")
        table = read_table(self.path / "labels.csv") if self.labels == "table" else {}
        scans = [vars(self._slices(path, table)).values() for path in paths]
        pool = SlicePool(*(torch.cat(part) for part in zip(*scans, strict=True)))
        kept = pool.mask.flatten(1).float().mean(1) >= LEAST_SHARE
        if not kept.any():
            raise DisyreError(f"The masks in {name} are empty or tiny; check them.")
        return pool.subset(kept)

    def _slices(self, path: Path, table: dict[tuple[str, int], bool]) -> SlicePool:
        modality = find_modality(self.modality)
        scan = modality.read(path)
        mask_file = self.path / "masks" / path.name
        mask = modality.read_mask(mask_file, scan.grid) if mask_file.exists() else None
        brain = modality.prepare(scan, self.spacing_mm, mask, None)
        x, inside = brain.tensors()
        truth = _to_model(brain, self._truth(path, scan, modality, table))
        image, inside, truth = (fit(v.float(), self.slice_shape) for v in (x, inside, truth))
        return SlicePool(image, inside > 0.5, (truth > 0.5) & (inside > 0.5))

    def _truth(self, path: Path, scan: Volume, modality: Modality, table: dict[tuple[str, int], bool]) -> np.ndarray:
        """(X, Y, Z) float32 on the scan's grid: lesions, or slices that are anomalous as a whole."""
        if self.labels == "table":
            return _slices_of_table(path.name, scan.shape, table)
        file = self.path / "lesions" / path.name
        if self.labels == "synthetic" or not file.exists():
            return np.zeros(scan.shape, np.float32)
        lesion: np.ndarray = modality.read_mask(file, scan.grid)
        return lesion.astype(np.float32)


def _slices_of_table(name: str, shape: tuple[int, ...], table: dict[tuple[str, int], bool]) -> np.ndarray:
    known = [table.get((name, z)) for z in range(shape[2])]
    if None in known:
        raise DisyreError(f"labels.csv does not label every slice of {name}; add slice {known.index(None)}.")
    return np.broadcast_to(np.array(known, np.float32), shape)


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


def _to_model(brain: PreparedBrain, values: np.ndarray) -> Tensor:
    moved = resample(Volume(np.ascontiguousarray(values), brain.native.affine), brain.image.grid)
    return torch.from_numpy(np.ascontiguousarray(moved.voxels.T))


def fit(slices: Tensor, shape: tuple[int, int]) -> Tensor:
    """Pads slices (Z, Y, X) with 0 and crops them, about their middle, to a `shape` (Y, X)."""
    wide, _ = frame(slices, shape, fill=0.0)
    low = [(have - want) // 2 for have, want in zip(wide.shape[1:], shape, strict=True)]
    return wide[:, low[0] : low[0] + shape[0], low[1] : low[1] + shape[1]]
