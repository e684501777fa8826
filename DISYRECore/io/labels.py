"""Every label set of the project: FreeSurfer labels of the brain, and labels of the rest of the head (500 and above).

Names in plain are labels of both hemispheres, as label maps have them. Anatomies for synthesis are merged first, see
`merge_sides`: names with ``MERGED`` are labels after that.
"""

from __future__ import annotations

import numpy as np

CSF_LABEL = 24
"""Fluid around the brain."""

FIRST_HEAD_LABEL = 500
LARGEST_LABEL = 20_000

VENTRICLES = (4, 5, 14, 15)
"""After `merge_sides` all inner fluid; before, that of the left side and the middle."""

LATERAL_VENTRICLES, CEREBRAL_WHITE, CEREBRAL_CORTEX = (4, 43), (2, 41), (3, 42)

CSF = (*LATERAL_VENTRICLES, 14, 15, CSF_LABEL)
GREY = (*CEREBRAL_CORTEX, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58)
WHITE = (*CEREBRAL_WHITE, 7, 46, 16, 28, 60)
"""Three tissues of a whole brain, small structures left out."""

MERGED_CHOROID, MERGED_VESSELS = (136, 137), (30,)
MERGED_FLUID = (*VENTRICLES, CSF_LABEL, 72)
MERGED_INNER = (*VENTRICLES, *MERGED_CHOROID)
MERGED_WHITE_MATTER, MERGED_CORTEX, MERGED_DEEP_GREY = (2, 7), (3, 8), (10, 11, 12, 13, 26)
"""White matter and cortex with those of the cerebellum; thalamus and basal ganglia."""

OPTIC_CHIASM = 85
FAT, BONE = (507, 511), (515, 516)

EQUAL_NEIGHBOURS = 0.6
"""Share of equal neighbours above which whole numbers are labels."""

_TWINS = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18,
    57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137,
}  # fmt: skip
_WHITE_MATTER_LESION = 25


_BRAIN_COLOR = {
    1: 24, 4: 14, 11: 15, 23: 26, 30: 26, 31: 18, 32: 18, 35: 16, 36: 11, 37: 11, 38: 8, 39: 8, 40: 7, 41: 7, 44: 2,
    45: 2, 46: 24, 47: 17, 48: 17, 49: 5, 50: 5, 51: 4, 52: 4, 55: 13, 56: 13, 57: 12, 58: 12, 59: 10, 60: 10,
    61: 28, 62: 28, 63: 30, 64: 30, 69: 85, 71: 8, 72: 8, 73: 8, 75: 3, 76: 3, **dict.fromkeys(range(81, 96), 2),
    **dict.fromkeys(range(100, 208), 3),
}  # fmt: skip
"""Labels of BrainCOLOR and of MUSE, which divides its white matter (81 to 95), in those of FreeSurfer, sides merged."""

_PARCELS = ((251, 256, 2), (1000, 1036, 3), (2000, 2036, 42), (3000, 3036, 2), (4000, 4036, 41), (5001, 5003, 2))
"""Parcels of FreeSurfer (from, to, label): corpus callosum, cortex and white matter of both sides, deep white."""

MANY = 40
"""Cortical regions from which on a label map is one of parcels."""


def to_freesurfer(labels: np.ndarray) -> np.ndarray:
    """Brings a label map to the labels of FreeSurfer without parcels.

    Known are FreeSurfer itself, with parcels of cortex and white matter or without, SynthSeg, and BrainCOLOR with its
    relatives MUSE and DLMUSE.

    Args:
        labels: Integers from 0 to `LARGEST_LABEL`, any shape.

    Raises:
        ValueError: The labels are of another scheme, such as GIF, or there is no white matter or no cortex.
    """
    present = np.unique(labels)
    table = np.arange(max(int(present[-1]), 999) + 1)
    if ((present >= 100) & (present < 208)).sum() >= MANY:
        if not set(present.tolist()) <= {0, *_BRAIN_COLOR}:
            raise ValueError("unknown scheme")
        table[list(_BRAIN_COLOR)] = list(_BRAIN_COLOR.values())
    for first, end, label in _PARCELS:
        table[first:end] = label
    known = table[labels]
    if not all(np.isin(tissue, known).any() for tissue in (CEREBRAL_WHITE, CEREBRAL_CORTEX)):
        raise ValueError("no white matter or no cortex")
    return known


def merge_sides(labels: np.ndarray) -> np.ndarray:
    """Gives right-hemisphere labels the value of their left twin, and lesions that of white matter.

    White-matter lesions are drawn as healthy white matter: they are what the models must learn to find.
    """
    table = np.arange(max(int(labels.max()), 999) + 1)
    for right, left in _TWINS.items():
        table[right] = left
    table[table == _WHITE_MATTER_LESION] = CEREBRAL_WHITE[0]
    return table[labels]


def is_label_map(voxels: np.ndarray) -> bool:
    """Whether voxels (X, Y, Z) are labels, not grey values.

    They are whole numbers from 0 on, and most neighbours within what is marked are equal: .79 to 1 of them in the masks
    and label maps that were tried, .31 at most in scans of 8 bits.
    """
    some = voxels[:, ::4, ::4]
    if some.min() < 0 or not np.array_equal(some, np.rint(some)):
        return False
    one, next_one = some[:-1], some[1:]
    marked = (one > 0) & (next_one > 0)
    if marked.any():
        return bool((one == next_one)[marked].mean() > EQUAL_NEIGHBOURS)
    return len(np.unique(voxels)) <= 2


def brain_tissue(labels: np.ndarray) -> np.ndarray:
    """Mask of brain tissue and ventricles (everything below 500 but background and outer CSF)."""
    return (labels > 0) & (labels < FIRST_HEAD_LABEL) & (labels != CSF_LABEL)
