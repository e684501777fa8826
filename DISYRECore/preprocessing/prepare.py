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
from DISYRECore.io.volume import TIE, Volume, crop, crop_box, model_grid, resample, resample_mask, to_canonical
from DISYRECore.preprocessing.brain_mask import BrainMask, find_brain
from DISYRECore.preprocessing.contrast import READ_AS, ContrastEstimate, contrast_of
from DISYRECore.preprocessing.doubt import uneven_slices
from DISYRECore.synthesis.intensity import brain_scale, expand

THICK_MM = 3.5
LEAST_WEIGHT = 0.05
"""Of the brain in an interpolated voxel."""

LOWEST_ODDS = -14.0
"""Log odds of what was not looked at: no anomaly."""


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
        contrast: What a network takes it for, ``T1``, ``T2`` or ``FLAIR``.
        flags: Sentences about the scan that the reader should know.
        estimate: What it is, how likely, and by what; None for other modalities.
    """

    image: Volume
    mask: np.ndarray
    native: Grid
    native_mask: np.ndarray
    intensities: Scale
    brain: BrainMask
    contrast: str
    flags: list[str] = field(default_factory=list)
    estimate: ContrastEstimate | None = None

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Image and mask as (Z, Y, X) tensors."""
        image = torch.from_numpy(np.ascontiguousarray(self.image.voxels.T))
        return image.to(device), torch.from_numpy(np.ascontiguousarray(self.mask.T)).to(device)

    def to_native(self, values: Tensor) -> Volume:
        """Brings (Z, Y, X) values from the model grid to the native grid, 0 outside the brain mask."""
        voxels = np.ascontiguousarray(values.detach().float().cpu().numpy().T)
        back = resample(Volume(voxels, self.image.affine), self.native, order=1)
        return Volume(back.voxels * self.native_mask, self.native.affine)

    def log_odds_to_native(self, values: Tensor) -> Volume:
        """Brings log odds (Z, Y, X) to the native grid, interpolated within the brain alone; 0 outside its mask.

        Voxels of the native mask that have no brain beside them on the model grid get `LOWEST_ODDS`.
        """
        voxels = np.ascontiguousarray(values.float().cpu().numpy().T) - LOWEST_ODDS
        above, _ = within_brain(Volume(voxels, self.image.affine), self.mask, self.native)
        return Volume((above + LOWEST_ODDS) * self.native_mask, self.native.affine)

    @property
    def named_contrast(self) -> str:
        """What it is: as `contrast`, but ``T1C`` for T1 with contrast agent."""
        return self.estimate.contrast if self.estimate else self.contrast

    def _contrast_record(self) -> dict[str, Any]:
        if self.estimate is None:
            return {"contrast": self.contrast}
        told = {"contrast_probability": self.estimate.probability, "contrast_by": self.estimate.source}
        return {"contrast": self.named_contrast, **told, "read_as": self.contrast}

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
            **self._contrast_record(),
            "flags": self.flags,
        }


def within_brain(volume: Volume, mask: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Samples a volume at the voxels of another grid, interpolating within its brain alone.

    Args:
        volume: Float voxels.
        mask: (X, Y, Z) bool on its grid, the brain.
        grid: Where to sample.

    Returns:
        Values (X, Y, Z) float32, 0 far from the brain; and where at least half of what was averaged is brain, bool.
    """
    weight = resample(Volume(mask.astype(np.float32), volume.affine), grid).voxels
    values = resample(Volume((volume.voxels * mask).astype(np.float32), volume.affine), grid).voxels
    return values / np.maximum(weight, LEAST_WEIGHT), weight >= 0.5 - TIE


def prepare(
    scan: Volume, spacing_mm: float, mask: np.ndarray | None = None, contrast: str | None = None
) -> PreparedBrain:
    """Orients, finds the brain, resamples and normalises.

    Args:
        scan: As read.
        spacing_mm: Spacing of the model grid.
        mask: Brain mask on the scan's grid, bool; found when None.
        contrast: Contrast if known; recognised when None.

    Raises:
        DisyreError: No brain was found, it is of one intensity only, or of a contrast that nobody can read.
    """
    given = None if mask is None else to_canonical(Volume(mask, scan.affine)).voxels.astype(bool)
    canonical = to_canonical(scan)
    brain = find_brain(canonical, given)
    box = crop_box(brain.mask, margin=1)
    near, near_mask = crop(canonical, box), crop(Volume(brain.mask.astype(np.float32), canonical.affine), box)
    grid = model_grid(near, spacing_mm)
    model_mask = resample_mask(near_mask, grid)
    intensities = brain_scale(near.voxels, near_mask.voxels > 0.5)
    voxels = intensities.normalise(resample(near, grid).voxels) * model_mask
    image = Volume(voxels, grid.affine, scan.source)
    estimate = contrast_of(expand(voxels), model_mask, spacing_mm, scan.source, contrast)
    return PreparedBrain(
        image=image,
        mask=model_mask,
        native=scan.grid,
        native_mask=_back(brain.mask, canonical, scan),
        intensities=intensities,
        brain=brain,
        contrast=READ_AS.get(estimate.contrast, estimate.contrast),
        flags=[
            *scan.notes,
            *brain.flags,
            *_flags(scan, estimate),
            *filter(None, [uneven_slices(canonical, brain.mask)]),
        ],
        estimate=estimate,
    )


def _back(mask: np.ndarray, canonical: Volume, scan: Volume) -> np.ndarray:
    return resample(Volume(mask, canonical.affine), scan.grid, order=0).voxels.astype(bool)


def _flags(scan: Volume, estimate: ContrastEstimate) -> list[str]:
    flags = [estimate.doubt] if estimate.doubt else []
    thickness = max(scan.spacing_mm)
    if thickness > THICK_MM:
        flags.append(f"Slices are {thickness:.1f} mm thick: small lesions may be missed.")
    if estimate.contrast == "T1C":
        flags.append("T1 with contrast agent is read as T1: what takes up the agent may be missed or marked in vain.")
    return flags
