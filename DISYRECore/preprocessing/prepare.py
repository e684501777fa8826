"""From a scan as it was read to the brain as the models want it, and the way back.

Training images are synthesised in the state that `prepare` brings real ones to; everything it finds out about a
scan is recorded with the result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from DISYRECore.io.grid import Grid
from DISYRECore.io.volume import Volume, crop, crop_box, model_grid, resample, to_canonical
from DISYRECore.preprocessing.brain_mask import BrainMask, find_brain
from DISYRECore.preprocessing.contrast import guess_contrast
from DISYRECore.synthesis.intensity import brain_scale, expand

THICK_MM = 3.5


class Scale(Protocol):
    """Anchors of a normalisation, a dataclass of floats in scan units."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def normalise(self, voxels: np.ndarray) -> np.ndarray:
        """Scan units to [0, 1]."""

    def restore(self, image: np.ndarray) -> np.ndarray:
        """[0, 1] back to scan units."""


@dataclass(frozen=True)
class PreparedBrain:
    """A brain on the model grid.

    Attributes:
        image: Voxels (X, Y, Z) in [0, 1], axes closest to R, A, S; 0 outside the brain.
        mask: (X, Y, Z) bool on the same grid.
        native: Grid of the scan.
        native_mask: Brain mask on the native grid, bool.
        intensities: Anchors of the normalisation in scan units.
        brain: How the mask came about.
        contrast: ``T1``, ``T2``, ``FLAIR`` or ``unknown``.
        flags: Sentences about the scan that the reader should know.
    """

    image: Volume
    mask: np.ndarray
    native: Grid
    native_mask: np.ndarray
    intensities: Scale
    brain: BrainMask
    contrast: str
    flags: list[str] = field(default_factory=list)

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Image and mask as (Z, Y, X) tensors."""
        image = torch.from_numpy(np.ascontiguousarray(self.image.voxels.T))
        return image.to(device), torch.from_numpy(np.ascontiguousarray(self.mask.T)).to(device)

    def to_native(self, values: Tensor) -> Volume:
        """Brings (Z, Y, X) values from the model grid to the native grid, 0 outside the brain mask."""
        voxels = np.ascontiguousarray(values.detach().float().cpu().numpy().T)
        back = resample(Volume(voxels, self.image.affine), self.native, order=1)
        return Volume(back.voxels * self.native_mask, self.native.affine)

    def record(self) -> dict[str, Any]:
        """What was done and found, as plain values for `run.json`."""
        return {
            "spacing_mm": [round(s, 4) for s in self.native.spacing_mm],
            "shape": list(self.native.shape),
            "model_spacing_mm": [round(s, 4) for s in self.image.spacing_mm],
            "model_shape": list(self.image.shape),
            "brain_mask": self.brain.how,
            "brain_mask_because": self.brain.because,
            "brain_volume_ml": round(self.brain.volume_ml, 1),
            **({} if self.brain.agreement is None else {"brain_agreement": self.brain.agreement}),
            **{f"intensity_{name}": value for name, value in asdict(self.intensities).items()},
            "contrast": self.contrast,
            "flags": self.flags,
        }


def prepare(
    scan: Volume, spacing_mm: float, mask: np.ndarray | None = None, contrast: str | None = None
) -> PreparedBrain:
    """Orients, finds the brain, resamples and normalises.

    Args:
        scan: As read.
        spacing_mm: Spacing of the model grid.
        mask: Brain mask on the scan's grid, bool; found when None.
        contrast: Contrast if known; guessed when None.

    Raises:
        DisyreError: No brain was found, or it is of one intensity only.
    """
    given = None if mask is None else to_canonical(Volume(mask, scan.affine)).voxels.astype(bool)
    canonical = to_canonical(scan)
    brain = find_brain(canonical, given)
    box = crop_box(brain.mask, margin=1)
    near, near_mask = crop(canonical, box), crop(Volume(brain.mask.astype(np.float32), canonical.affine), box)
    grid = model_grid(near, spacing_mm)
    model_mask = resample(near_mask, grid).voxels > 0.5
    intensities = brain_scale(near.voxels, near_mask.voxels > 0.5)
    voxels = intensities.normalise(resample(near, grid).voxels) * model_mask
    image = Volume(voxels, grid.affine, scan.source)
    found = contrast or guess_contrast(expand(voxels), model_mask)
    return PreparedBrain(
        image=image,
        mask=model_mask,
        native=scan.grid,
        native_mask=_back(brain.mask, canonical, scan),
        intensities=intensities,
        brain=brain,
        contrast=found,
        flags=[*brain.flags, *_flags(scan, found)],
    )


def _back(mask: np.ndarray, canonical: Volume, scan: Volume) -> np.ndarray:
    return resample(Volume(mask, canonical.affine), scan.grid, order=0).voxels.astype(bool)


def _flags(scan: Volume, contrast: str) -> list[str]:
    flags = []
    thickness = max(scan.spacing_mm)
    if thickness > THICK_MM:
        flags.append(f"Slices are {thickness:.1f} mm thick: small lesions may be missed.")
    if contrast == "unknown":
        flags.append("The contrast was not recognised as T1, T2 or FLAIR: scores may mean little.")
    return flags
