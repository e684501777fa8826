"""Every tissue and label set of the project: FreeSurfer labels, and those of whole heads (500 and above)."""

from __future__ import annotations

import numpy as np

CSF = (4, 43, 14, 15, 24)
GREY = (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58)
WHITE = (2, 41, 7, 46, 16, 28, 60)

CSF_LABEL = 24
LARGEST_LABEL = 20_000

_MIRRORED = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18,
    57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137,
}  # fmt: skip
_WHITE_MATTER_LESIONS = {25: 2}


def merge_sides(labels: np.ndarray) -> np.ndarray:
    """Gives right-hemisphere labels the value of their left twin, and lesions that of white matter.

    White-matter lesions are drawn as healthy white matter: they are what the models must learn to find.
    """
    table = np.arange(max(int(labels.max()), 999) + 1)
    for right, left in _MIRRORED.items():
        table[right] = left
    for lesion, tissue in _WHITE_MATTER_LESIONS.items():
        table[table == lesion] = tissue
    return table[labels]


def brain_tissue(labels: np.ndarray) -> np.ndarray:
    """Mask of brain tissue and ventricles (everything below 500 but background and outer CSF)."""
    return (labels > 0) & (labels < FIRST_HEAD_LABEL) & (labels != CSF_LABEL)


FIRST_HEAD_LABEL = 500
SULCI = (24,)
VENTRICLES = (4, 5, 14, 15)

_CSF = {4, 5, 14, 15, 24, 72}
_CHOROID = {136, 137}
_WHITE = {2, 7, 85}
_VESSELS = {30}
_FAT, _BONE = {511, 507}, {515, 516}
