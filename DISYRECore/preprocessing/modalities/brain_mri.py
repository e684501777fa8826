"""Brain MRI: heads and stripped brains."""

from __future__ import annotations

from DISYRECore.io.read import find_scans, read_mask, read_volume
from DISYRECore.preprocessing.modalities.base import Modality
from DISYRECore.preprocessing.prepare import prepare

MODALITY = Modality("brain-mri", find_scans, read_volume, read_mask, prepare, from_labels=True)
