"""Liver CT: a volume that is looked at under an organ mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from DISYRECore.errors import DisyreError
from DISYRECore.io.read import find_scans, read_mask, read_volume
from DISYRECore.io.volume import Volume, crop, crop_box, model_grid, resample, resample_mask, to_canonical
from DISYRECore.preprocessing.modalities.base import Modality, Window, check_inside, prepared
from DISYRECore.preprocessing.prepare import PreparedBrain

WINDOW_HU = (0.0, 150.0)
LIKELY_HU = (-20.0, 250.0)
"""Where the median of a liver lies, with or without contrast agent, fatty or not."""


def prepare_liver(
    scan: Volume, spacing_mm: float, mask: np.ndarray | None = None, contrast: str | None = None
) -> PreparedBrain:
    """The liver on the model grid, 0 to 150 HU, nothing outside the organ.

    Args:
        scan: CT in Hounsfield units, as read.
        spacing_mm: Spacing of the model grid.
        mask: Of the liver, lesions included, bool on the scan's grid.
        contrast: Taken as it is.

    Raises:
        DisyreError: There is no mask or nothing in it, or what is under it is no liver in Hounsfield units.
    """
    if mask is None:
        raise DisyreError("Liver CT needs a mask of the liver; give one with --mask.")
    check_inside(scan, mask)
    median = float(np.median(scan.voxels[mask]))
    if not LIKELY_HU[0] <= median <= LIKELY_HU[1]:
        raise DisyreError(f"The median under the liver mask is {median:.0f}, not a liver's; give a CT in HU.")
    canonical, organ = to_canonical(scan), to_canonical(Volume(mask, scan.affine))
    box = crop_box(organ.voxels, margin=1)
    near, near_mask = crop(canonical, box), crop(replace(organ, voxels=organ.voxels.astype(np.float32)), box)
    grid, window = model_grid(near, spacing_mm), Window(*WINDOW_HU)
    inside = resample_mask(near_mask, grid)
    image = window.normalise(resample(near, grid).voxels) * inside
    return prepared(scan, Volume(image, grid.affine, scan.source), inside, mask, window, contrast or "CT", [])


MODALITY = Modality("liver-ct", find_scans, read_volume, read_mask, prepare_liver)
