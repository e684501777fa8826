"""What a modality is, and what those share that look at images under a given mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from DISYRECore.errors import DisyreError
from DISYRECore.io.grid import Grid
from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing.brain_mask import BrainMask
from DISYRECore.preprocessing.prepare import PreparedBrain


@dataclass(frozen=True)
class Window:
    """A linear scale between two intensities, the counterpart of `intensity.IntensityScale`.

    Attributes:
        low, high: In scan units, become 0 and 1; what lies beyond is clipped.
    """

    low: float
    high: float

    def normalise(self, voxels: np.ndarray) -> np.ndarray:
        """Scan units to [0, 1], float32."""
        return np.clip((voxels - self.low) / max(self.high - self.low, 1e-12), 0, 1).astype(np.float32)

    def restore(self, image: np.ndarray) -> np.ndarray:
        """[0, 1] back to scan units."""
        return (image * (self.high - self.low) + self.low).astype(np.float32)


@dataclass(frozen=True)
class Modality:
    """One kind of image, and everything that differs between kinds.

    Attributes:
        name: As users write it.
        find: Lists the scans that a path stands for.
        read: Reads one of them.
        read_mask: Reads a mask onto a scan's grid.
        prepare: ``(scan, spacing_mm, mask or None, contrast or None)`` to what the methods take.
        smallest_ml: Findings below this volume are dropped.
        has_sides: Whether findings lie on the left or right of a patient.
        has_depth: Whether the third axis is one of space; if not, it counts frames.
        from_labels: Whether scans of this kind can be synthesised from label maps.
    """

    name: str
    find: Callable[[Path | str], list[Path]]
    read: Callable[[Path | str], Volume]
    read_mask: Callable[[Path | str, Grid], np.ndarray]
    prepare: Callable[[Volume, float, np.ndarray | None, str | None], PreparedBrain]
    smallest_ml: float = 0.1
    has_sides: bool = True
    has_depth: bool = True
    from_labels: bool = False


def check_inside(scan: Volume, mask: np.ndarray) -> None:
    """Refuses a mask with nothing to see in it.

    Raises:
        DisyreError: It has another size than the scan, is empty, or is of one intensity.
    """
    if mask.shape != scan.shape:
        raise DisyreError("The mask has another size than the scan; give a mask of this scan.")
    if not mask.any() or np.ptp(scan.voxels[mask]) == 0:
        raise DisyreError("The mask is empty or of one intensity; give another mask.")


def prepared(
    scan: Volume,
    image: Volume,
    inside: np.ndarray,
    mask: np.ndarray,
    window: Window,
    contrast: str,
    flags: list[str],
    how: str = "given",
) -> PreparedBrain:
    """What the methods take, from an image (X, Y, Z) on the model grid, what is inside, and the scan's mask."""
    return PreparedBrain(
        image=image,
        mask=inside,
        native=scan.grid,
        native_mask=mask,
        intensities=window,
        brain=BrainMask(mask, float(mask.sum()) * scan.voxel_ml, how),
        contrast=contrast,
        flags=[*scan.notes, *flags],
    )
