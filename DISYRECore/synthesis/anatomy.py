"""Label maps of healthy heads, held as one tensor from which any slab can be sampled.

Label values follow FreeSurfer and SynthSeg: brain structures below 500, extra-cerebral tissue from 500 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from DISYRECore.errors import DisyreError
from DISYRECore.io.labels import FIRST_HEAD_LABEL, LARGEST_LABEL, brain_tissue, merge_sides, to_freesurfer
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, to_canonical
from DISYRECore.synthesis.atrophy import draw_widening, widened

DISTANCE_STEP_MM = 0.125
SAMPLES, SAMPLED_RIM_MM = 4096, 2.0


@dataclass(frozen=True)
class AnatomyBank:
    """Healthy anatomies on a common 1 mm-like lattice, axes ordered (Z, Y, X) = (S, A, R).

    Attributes:
        classes: (N, Z, Y, X) uint8, index into `label_values`.
        distance: (N, Z, Y, X) uint8, distance outside brain tissue in steps of `DISTANCE_STEP_MM`, 0 inside.
        label_values: label of each class index, ascending, sides merged.
        spacing_mm: isotropic spacing of the lattice.
        brain_samples: (N, S) uint8, classes of voxels drawn at random from each brain; they stand for its
            volume fractions when intensities are normalised.
    """

    classes: Tensor
    distance: Tensor
    label_values: tuple[int, ...]
    spacing_mm: float
    brain_samples: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device | str) -> AnatomyBank:
        """Returns the bank on `device`."""
        return AnatomyBank(
            self.classes.to(device),
            self.distance.to(device),
            self.label_values,
            self.spacing_mm,
            self.brain_samples.to(device),
        )


def load_anatomies(
    paths: list[Path], size_mm: tuple[int, int, int] = (176, 216, 176), variants: int = 0, shrinks: bool = False
) -> AnatomyBank:
    """Reads label maps and centres each on its brain.

    Args:
        paths: Label maps of whole heads, all with the same isotropic spacing.
        size_mm: Extent kept around the centre of each brain, in mm along (S, A, R). Use more to keep the head.
        variants: How many further brains with other widths of sulci and ventricles are made of each, see `atrophy`.
        shrinks: Whether these brains shrink within their skulls, too.

    Raises:
        DisyreError: No path, a file that is no label map, or spacings that differ.
    """
    if not paths:
        raise DisyreError("No label maps were found; give a folder that holds label maps of healthy heads.")
    volumes = [to_canonical(read_volume(path)) for path in paths]
    spacings = np.array([volume.spacing_mm for volume in volumes])
    if np.ptp(spacings) > 1e-3:
        raise DisyreError("The label maps differ in spacing; resample them to one isotropic spacing first.")
    spacing = float(spacings[0, 0])
    shape = tuple(round(extent / spacing) for extent in size_mm)
    own = [_centred(_head_labels(volume), shape) for volume in volumes]
    seeds = np.arange(len(own) * variants).reshape(len(own), variants)
    drawn = [[draw_widening(int(seed), shrinks) for seed in row] for row in seeds]
    others = [widened(one, wider, spacing) for one, row in zip(own, drawn, strict=True) for wider in row]
    labels = np.stack(own + others)
    values = np.unique(np.concatenate([np.unique(one) for one in own]))
    if len(values) > 256:
        raise DisyreError("These files are no label maps but images; give FreeSurfer or SynthSeg label maps.")
    table = np.zeros(LARGEST_LABEL + 1, np.uint8)
    table[values] = np.arange(len(values))
    classes = table[labels]
    distance = np.stack([_outer_distance(brain_tissue(one), spacing) for one in labels])
    skull_side = (labels >= FIRST_HEAD_LABEL) | (labels == 0)
    samples = np.stack([_brain_samples(*one) for one in zip(classes, distance, skull_side, strict=True)])
    return AnatomyBank(
        torch.from_numpy(classes),
        torch.from_numpy(distance),
        tuple(int(v) for v in values),
        spacing,
        torch.from_numpy(samples),
    )


def _head_labels(volume: Volume) -> np.ndarray:
    """Labels with sides merged, axes (Z, Y, X), uint16."""
    labels = np.rint(volume.voxels).astype(np.int64).T
    try:
        if labels.min() < 0 or labels.max() > LARGEST_LABEL:
            raise ValueError("no labels")
        return merge_sides(to_freesurfer(labels)).astype(np.uint16)
    except ValueError as error:
        name = Path(volume.source).name
        known = "FreeSurfer, SynthSeg, BrainCOLOR or DLMUSE"
        raise DisyreError(f"{name} is no label map of a head that is known; give labels of {known}.") from error


def _centred(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Crops or pads (Z, Y, X) labels to `shape` around the middle of the brain's bounding box; the border is 0."""
    box = ndimage.find_objects(brain_tissue(labels).astype(np.uint8))[0]
    start = [(b.start + b.stop) // 2 - n // 2 for b, n in zip(box, shape, strict=True)]
    out = np.zeros(shape, labels.dtype)
    source = tuple(slice(max(s, 0), min(s + n, m)) for s, n, m in zip(start, shape, labels.shape, strict=True))
    target = tuple(slice(c.start - s, c.stop - s) for c, s in zip(source, start, strict=True))
    out[target] = labels[source]
    inside = np.zeros_like(out)
    inside[1:-1, 1:-1, 1:-1] = out[1:-1, 1:-1, 1:-1]
    return inside


def _outer_distance(tissue: np.ndarray, spacing_mm: float) -> np.ndarray:
    distance = ndimage.distance_transform_edt(~tissue, sampling=spacing_mm)
    return np.clip(distance / DISTANCE_STEP_MM, 0, 255).astype(np.uint8)


def _brain_samples(classes: np.ndarray, distance: np.ndarray, skull_side: np.ndarray) -> np.ndarray:
    """Classes of random voxels of the brain and its rim, without skull and background: `prepare` sees none."""
    inside = classes[(distance <= SAMPLED_RIM_MM / DISTANCE_STEP_MM) & ~skull_side]
    return np.random.default_rng(0).choice(inside, SAMPLES)
