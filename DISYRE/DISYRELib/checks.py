"""What can be said about a volume before anything is computed."""

from __future__ import annotations

import math
from functools import lru_cache

import slicer
import vtk
from slicer.i18n import tr as _

MIN_SLICES = 3
THICK_MM = 3.5
AIR_HU = -500
SMALLEST_ML = 250
"""A scan of less holds no brain, as `DISYRECore.preprocessing.brain_mask` finds after a while."""
ROLE = "DISYRE.Role"


def scene_is_busy() -> bool:
    """Whether the scene is being loaded, restored, closed or edited in one go; nothing may write to it meanwhile."""
    return bool(slicer.mrmlScene.IsBatchProcessing())


def problem_with(volume: slicer.vtkMRMLScalarVolumeNode | None) -> str:
    """Why a volume cannot be used, in one sentence; empty when it can."""
    if volume is None:
        return _("Select an MRI volume.")
    name = volume.GetName()
    if not volume.IsA("vtkMRMLScalarVolumeNode") or volume.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("{name} is a label map; select the MRI itself.").format(name=name)
    if volume.GetAttribute(ROLE):
        return _("{name} is a result of DISYRE; select the MRI itself.").format(name=name)
    image = volume.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return _("{name} holds no image; load it again.").format(name=name)
    return _problem_with_image(image).format(name=name) or _problem_with_size(volume)


def _problem_with_size(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
    sides = [n * mm for n, mm in zip(volume.GetImageData().GetDimensions(), volume.GetSpacing(), strict=True)]
    if math.prod(sides) / 1000 >= SMALLEST_ML:
        return ""
    return _("{name} measures only {sides} mm; select a scan of the whole brain.").format(
        name=volume.GetName(), sides=" × ".join(f"{side:.0f}" for side in sides)
    )


def _problem_with_image(image: vtk.vtkImageData) -> str:
    if image.GetNumberOfScalarComponents() > 1:
        return _("{name} has several values in each voxel (colour, vector or 4D); select a grey 3D volume.")
    if min(image.GetDimensions()) < MIN_SLICES:
        return _("{name} has fewer than 3 slices; select a 3D volume.")
    low, high = image.GetScalarRange()
    if not low < high:
        return _("{name} has the same value in every voxel; select another volume.")
    if low <= AIR_HU:
        return _("{name} looks like CT, not MRI; select an MRI volume.")
    return ""


def hint_about(volume: slicer.vtkMRMLScalarVolumeNode) -> str:
    """One sentence about a usable volume that the reader should know; empty when there is nothing to say."""
    thickness = max(volume.GetSpacing())
    if thickness > THICK_MM:
        return _("{mm:.1f} mm slices: small lesions may be missed.").format(mm=thickness)
    if _has_nonfinite(volume.GetID(), volume.GetImageData().GetPointData().GetScalars().GetMTime()):
        return _("Some voxels hold no valid number; they are taken as background.")
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    if any(browser.IsProxyNodeID(volume.GetID()) for browser in browsers):
        return _("This volume belongs to a sequence: only the frame that is shown is used.")
    return ""


@lru_cache(maxsize=16)
def _has_nonfinite(identifier: str, _time: int) -> bool:
    """Looks once at the voxels that a volume has at a time; large ones take 10 ms."""
    import numpy as np

    voxels = slicer.util.arrayFromVolume(slicer.mrmlScene.GetNodeByID(identifier))
    return voxels.dtype.kind == "f" and not bool(np.isfinite(voxels.sum(dtype=np.float64)))
