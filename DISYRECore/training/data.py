"""What a run learns from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingData:
    """Folders that a run learns from, either or both.

    Attributes:
        images: Scans; a plain folder, DICOM series or BIDS.
        labelmaps: Whole-head label maps, from which healthy scans are synthesised; where there are none, those come
            from the bundled average head.
    """

    images: Path | None = None
    labelmaps: Path | None = None
