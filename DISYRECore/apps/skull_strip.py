"""Brain extraction on its own: a scan in, its brain mask out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from DISYRECore.io.files import check_writable
from DISYRECore.io.read import read_volume
from DISYRECore.io.write import check_image_name, write_volume
from DISYRECore.preprocessing.brain_mask import RIM_MM, BrainMask, find_brain


def skull_strip(scan: Path, mask: Path, brain: Path | None = None, rim_mm: float = RIM_MM) -> BrainMask:
    """Writes the brain mask of a scan, and the scan without what lies outside it.

    Args:
        scan: File or DICOM folder, of any contrast and orientation.
        mask: Where the mask goes, uint8 on the grid of the scan.
        brain: Where the stripped scan goes, if anywhere; its background is 0.
        rim_mm: How far outside the surface of the brain an extracted mask ends.

    Raises:
        DisyreError: The scan cannot be read, shows no brain, or the output cannot be written.
    """
    for output in filter(None, (mask, brain)):
        check_image_name(output)
        check_writable(output.absolute().parent)
    volume = read_volume(scan)
    found = find_brain(volume, rim_mm=rim_mm)
    write_volume(replace(volume, voxels=found.mask.astype(np.uint8)), mask)
    if brain:
        write_volume(replace(volume, voxels=np.where(found.mask, volume.voxels, 0)), brain)
    return found
