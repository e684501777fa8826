"""The average head: what an adult's head is like on average, and where."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from DISYRECore.files import resources
from DISYRECore.volume import Volume, read_volume, to_canonical

AVERAGE_HEAD = resources() / "Anatomy" / "average_head_2mm.nii.gz"

CSF = (4, 43, 14, 15, 24)
GREY = (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58)
WHITE = (2, 41, 7, 46, 16, 28, 60)


@lru_cache(maxsize=1)
def average_head() -> Volume:
    """The mean anatomy of 14 healthy adults: a label map (int16) of 2 mm, the middle of the brain at the origin."""
    volume = to_canonical(read_volume(AVERAGE_HEAD))
    return Volume(np.rint(volume.voxels).astype(np.int16), volume.affine, volume.source)
