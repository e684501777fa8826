"""What a run learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class TrainingData:
    """Folders that a run learns from, either or both.

    Attributes:
        images: Healthy scans; a plain folder, DICOM series or BIDS, see `slices`.
        labelmaps: Whole-head label maps, from which healthy scans are synthesised; where there are none, those come
            from the bundled average head.
        cache: Where prepared scans are kept; in the output folder of the run where None.
    """

    images: Path | None = None
    labelmaps: Path | None = None
    cache: Path | None = None

    def cached_in(self, folder: Path) -> TrainingData:
        """The same with a place for prepared scans: the one that it has, or else a folder."""
        return self if self.cache else replace(self, cache=folder)
