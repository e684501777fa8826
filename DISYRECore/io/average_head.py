"""The average head: what an adult's head is like on average, and where."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from DISYRECore.io.files import resources
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, to_canonical

AVERAGE_HEAD = resources() / "Anatomy" / "average_head_2mm.nii.gz"
FOLDED_HEAD = resources() / "Anatomy" / "folded_head.nii.gz"
"""The same at 1 mm with an invented folded cortex."""


@lru_cache(maxsize=1)
def average_head() -> Volume:
    """The mean anatomy of 14 healthy adults: a label map (int16) of 2 mm, the middle of the brain at the origin."""
    volume = to_canonical(read_volume(AVERAGE_HEAD))
    return Volume(np.rint(volume.voxels).astype(np.int16), volume.affine, volume.source)
