"""Training slices of scans that people bring, prepared exactly as in detection.

A folder holds scans, wherever they lie in it. Or it holds ``images/`` and, under the same file names, ``masks/`` (where
to look: brain, liver, vessel) and ``lesions/``; or, in place of ``lesions/``, a table ``labels.csv`` with the columns
``file``, ``slice`` and ``anomalous`` (0 or 1; slices are counted from 0 along the third axis of the file).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import short_name
from DISYRECore.io.read import read_volume
from DISYRECore.methods.base.slicewise import frame
from DISYRECore.synthesis.images import BRIGHTENED
from DISYRECore.training.prepared import PreparedScan, ScanSource

LABELS = ("synthetic", "lesions", "table")
"""What is known of anomalies: nothing, so that some are synthesised; masks of lesions; or a table of slices."""

FLIPS = {"horizontal": -1, "vertical": -2}
"""Axes of slabs (B, Z, Y, X) that are turned about."""

LEAST_SHARE = 0.02
"""Slices with less than this share of their frame inside the mask are left out."""


@dataclass(frozen=True)
class HealthySlabs:
    """Slabs that a forward process corrupts.

    Attributes:
        image: (B, Z, Y, X) in [0, 1].
        mask: (B, Z, Y, X) bool.
        fluid: (B, Z, Y, X) bool; None where it is not known.
        brighter: Probability that pathology brightens what it covers, for all or for each slab (B,).
        region: (B, 1, Y, X) bool, what the middle slice is known to have of lesions; None where nothing is known.
    """

    image: Tensor
    mask: Tensor
    fluid: Tensor | None = None
    brighter: Tensor | float = 0.5
    region: Tensor | None = None


@dataclass(frozen=True)
class ImageSlabs:
    """Slabs of prepared scans, around slices drawn at random.

    Attributes:
        scans: On disk, where they stay; a draw reads its slabs alone.
        slice_shape: Points (Y, X) of a slab.
        context: Neighbouring slices on either side.
        device: Where slabs are wanted.
        flips: Of `FLIPS`; each turns about half of the slabs.
        places: Scan and height of the slices that can be drawn.
    """

    scans: tuple[PreparedScan, ...]
    slice_shape: tuple[int, int]
    context: int
    device: torch.device
    flips: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    def draw(self, count: int, seed: int) -> HealthySlabs:
        """`count` slabs; the same seed gives the same."""
        generator = Generator().manual_seed(seed)
        which = torch.randint(len(self.places), (count,), generator=generator).tolist()
        chosen = [self.places[index] for index in which]
        image, mask, region = (
            torch.stack([part(index, z) for index, z in chosen]).to(self.device)
            for part in (self._image, self._mask, self._region)
        )
        brighter = torch.tensor([BRIGHTENED.get(self.scans[index].contrast, 0.5) for index, _ in chosen])
        turned = flip([image, mask > 0.5, region > 0.5], self.flips, generator)
        return HealthySlabs(turned[0], turned[1], brighter=brighter.to(self.device), region=turned[2])

    def _image(self, index: int, z: int) -> Tensor:
        return self._slab("image", index, z, self.context)

    def _mask(self, index: int, z: int) -> Tensor:
        return self._slab("mask", index, z, self.context)

    def _region(self, index: int, z: int) -> Tensor:
        return (
            self._slab("region", index, z, 0) if self.scans[index].anomalous[z] else torch.zeros(1, *self.slice_shape)
        )

    def _slab(self, name: str, index: int, z: int, context: int) -> Tensor:
        """(2 * context + 1, Y, X) float32, 0 beyond the ends of the scan."""
        voxels = self.scans[index].open(name)
        low, high = max(z - context, 0), min(z + context + 1, len(voxels))
        slab = torch.from_numpy(np.array(voxels[low:high], np.float32))
        return fit(F.pad(slab, (0, 0, 0, 0, low - (z - context), z + context + 1 - high)), self.slice_shape)


def find_places(
    scans: Sequence[PreparedScan], slice_shape: tuple[int, int], healthy: bool, labelled: bool
) -> tuple[tuple[int, int], ...]:
    """Scan and height of the slices that can be learnt from.

    Args:
        scans: Of the slices.
        slice_shape: Points (Y, X) of a slice.
        healthy: Whether slices that are known to be anomalous are left out.
        labelled: Whether there must be healthy and anomalous ones.

    Raises:
        DisyreError: There is no slice, or all are of one kind where both are needed.
    """
    least = LEAST_SHARE * slice_shape[0] * slice_shape[1]
    places = [
        (index, z, anomalous)
        for index, scan in enumerate(scans)
        for z, (inside, anomalous) in enumerate(zip(scan.inside, scan.anomalous, strict=True))
        if inside >= least and not (healthy and anomalous)
    ]
    if not places:
        kind = "healthy slice to learn from" if healthy else "slice with enough inside its mask"
        raise DisyreError(f"There is no {kind}; check the scans, their masks and lesions.")
    sick = [anomalous for _, _, anomalous in places]
    if labelled and (all(sick) or not any(sick)):
        kind = "anomalous" if all(sick) else "healthy"
        raise DisyreError(f"All slices are labelled {kind}; give slices of both kinds, or use synthetic labels.")
    return tuple((index, z) for index, z, _ in places)


def flip(slabs: Sequence[Tensor], flips: tuple[str, ...], generator: Generator) -> list[Tensor]:
    """Turns every other slab (B, Z, Y, X) about, on average, along each of the axes named; all tensors together.

    Args:
        slabs: Of B slabs each.
        flips: Of `FLIPS`.
        generator: On the CPU.
    """
    turned = list(slabs)
    for name in flips:
        chosen = (torch.rand(len(slabs[0]), generator=generator) < 0.5).to(slabs[0].device).view(-1, 1, 1, 1)
        turned = [torch.where(chosen, values.flip(FLIPS[name]), values) for values in turned]
    return turned


def fit(slices: Tensor, shape: tuple[int, int]) -> Tensor:
    """Pads slices (Z, Y, X) with 0 and crops them, about their middle, to a `shape` (Y, X)."""
    wide, _ = frame(slices, shape, fill=0.0)
    low = [(have - want) // 2 for have, want in zip(wide.shape[1:], shape, strict=True)]
    return wide[:, low[0] : low[0] + shape[0], low[1] : low[1] + shape[1]]


def sources(folder: Path, scans: Sequence[Path], labels: str) -> list[ScanSource]:
    """The files that belong to each scan of a folder.

    Args:
        folder: See the module.
        scans: In it.
        labels: What is known of anomalies, one of `LABELS`.

    Raises:
        DisyreError: Labels that do not exist, or a table that is missing or does not fit.
    """
    if labels not in LABELS:
        raise DisyreError(f"There are no labels '{labels}'; choose one of {', '.join(LABELS)}.")
    table = read_table(folder / "labels.csv") if labels == "table" else None
    return [
        ScanSource(
            scan,
            _beside(folder / "masks", scan),
            _beside(folder / "lesions", scan) if labels == "lesions" else None,
            None if table is None else _slices_of_table(scan, table),
        )
        for scan in scans
    ]


def _beside(folder: Path, scan: Path) -> Path | None:
    file = folder / scan.name
    return file if file.is_file() else None


def _slices_of_table(scan: Path, table: dict[tuple[str, int], bool]) -> tuple[bool, ...]:
    count = read_volume(scan).shape[2]
    known = [table.get((scan.name, z)) for z in range(count)]
    if None in known:
        raise DisyreError(
            f"labels.csv does not label every slice of {short_name(scan)}; add slice {known.index(None)}."
        )
    return tuple(bool(value) for value in known)


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
