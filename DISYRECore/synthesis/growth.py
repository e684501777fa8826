"""How disease takes its place in a head: fronts that travel through tissue, masses that displace it, round foci.

Arrays are (Z, Y, X) = (S, A, R) on an isotropic lattice; points are lattice indices in that order. Fronts and
displacements are smooth, so they are computed on every second point of the lattice, called coarse here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy import ndimage

from DISYRECore.io.labels import CSF_LABEL, FIRST_HEAD_LABEL, GREY, OPTIC_CHIASM, WHITE
from DISYRECore.synthesis.anatomy import DISTANCE_STEP_MM, AnatomyBank
from DISYRECore.synthesis.images import Lattice, ScanParameters, lookup, positions

FAR = 1e4
"""Arrival time of what a front never reaches."""

SKULL_MM = 14.0
"""Depth below the skull from which on tissue is free to move."""

SULCI_REACH_MM, CLOSED_MM = 20.0, 2.5
"""How far around a mass sulci are narrowed, and by how much at the most."""

FISSURE_MM = 5.0
"""Half the width of the fissure between the hemispheres."""

_SLOWEST = 1e-3
_FREE_SHARE = 0.05
_FAR_OUTSIDE_MM, _DEEPEST_MM = -5.0, 60.0


@dataclass(frozen=True, eq=False)
class Subject:
    """A head on a lattice.

    Attributes:
        bank: Holds its anatomy.
        geometry: Batch of one: which anatomy, and how the lattice is mapped to it.
        coordinates: (3, Z, Y, X) float32, where in the anatomy each point lies, mm from its brain's centre (S, A, R).
        labels: (Z, Y, X) int16, FreeSurfer labels with sides merged.
        outside_mm: (Z, Y, X) float32, distance outside brain tissue, 0 inside.
        spacing_mm: Of the lattice.
    """

    bank: AnatomyBank
    geometry: ScanParameters
    coordinates: np.ndarray
    labels: np.ndarray
    outside_mm: np.ndarray
    spacing_mm: float

    def within(self, labels: Sequence[int]) -> np.ndarray:
        """Where one of some labels is; (Z, Y, X) bool."""
        table = np.zeros(max(int(self.labels.max()), *labels) + 1, bool)
        table[list(labels)] = True
        return table[self.labels]

    @property
    def tissue(self) -> np.ndarray:
        """Brain tissue without ventricles; (Z, Y, X) bool."""
        return self.within((*GREY, *WHITE, OPTIC_CHIASM))

    @property
    def skull(self) -> np.ndarray:
        """Whatever is neither brain nor its fluid; (Z, Y, X) bool."""
        return (self.labels == 0) | (self.labels >= FIRST_HEAD_LABEL)

    @property
    def sulci(self) -> np.ndarray:
        """Outer fluid, but not that of the fissure between the hemispheres; (Z, Y, X) bool."""
        return (self.labels == CSF_LABEL) & (np.abs(self.coordinates[2]) > FISSURE_MM)

    def coarse(self) -> Subject:
        """The subject on every second point."""
        half = (slice(None, None, 2),) * 3
        return replace(
            self,
            coordinates=np.ascontiguousarray(self.coordinates[(slice(None), *half)]),
            labels=np.ascontiguousarray(self.labels[half]),
            outside_mm=np.ascontiguousarray(self.outside_mm[half]),
            spacing_mm=2 * self.spacing_mm,
        )


def healthy_subject(bank: AnatomyBank, geometry: ScanParameters, lattice: Lattice) -> Subject:
    """Lays an anatomy of the bank on a lattice, as `geometry` (a batch of one) maps it."""
    return _looked_up(bank, geometry, positions(geometry, lattice, bank.classes.device), lattice.spacing_mm)


def _looked_up(bank: AnatomyBank, geometry: ScanParameters, coordinates: torch.Tensor, spacing_mm: float) -> Subject:
    values = torch.tensor(bank.label_values, dtype=torch.int16)
    classes = lookup(bank, bank.classes, geometry.anatomy, coordinates)[0]
    outside = lookup(bank, bank.distance, geometry.anatomy, coordinates)[0].float() * DISTANCE_STEP_MM
    labels = values.index_select(0, classes.flatten().int()).view(classes.shape)
    return Subject(bank, geometry, coordinates[0].numpy(), labels.numpy(), outside.numpy(), spacing_mm)


def smooth_noise(
    shape: tuple[int, ...], length_mm: float, spacing_mm: float, random: np.random.Generator
) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1 that varies over about `length_mm`; (Z, Y, X) float32."""
    nodes = [max(3, round(n * spacing_mm / length_mm) + 2) for n in shape]
    coarse = torch.from_numpy(random.standard_normal(nodes, dtype=np.float32))[None, None]
    field = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def from_coarse(coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A field on every second point of a lattice, linearly interpolated at all points of it; float32."""
    dense = [2 * n - 1 for n in coarse.shape]
    values = torch.from_numpy(np.ascontiguousarray(coarse, dtype=np.float32))[None, None]
    fine = F.interpolate(values, size=dense, mode="trilinear", align_corners=True)
    padding = [p for have, want in zip(reversed(dense), reversed(shape), strict=True) for p in (0, want - have)]
    return F.pad(fine, padding, mode="replicate")[0, 0].numpy()


def halved(point: tuple[float, float, float]) -> tuple[float, float, float]:
    """An index of the lattice as one of the coarse lattice."""
    return point[0] / 2, point[1] / 2, point[2] / 2


def doubled(point: np.ndarray) -> tuple[float, float, float]:
    """An index of the coarse lattice, (3,), as one of the lattice."""
    z, y, x = (2.0 * float(p) for p in point)
    return z, y, x


def depth_inside(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Distance of the points of a mask from its border in mm, 60 at most, 0 outside; float32."""
    return np.minimum(ndimage.distance_transform_edt(mask, sampling=spacing_mm), _DEEPEST_MM).astype(np.float32)


# --- fronts


def arrival_times(speed: np.ndarray, seeds: np.ndarray, spacing_mm: float) -> np.ndarray:
    """When a front that starts at `seeds` reaches each voxel: the eikonal equation |grad T| speed = 1.

    Solved by fast marching (Sethian, PNAS 1996), as growth along white matter is often modelled (Konukoglu et al.,
    IEEE TMI 2010).

    Args:
        speed: (Z, Y, X), 1 for a millimetre in a unit of time; nothing passes where it is 0.
        seeds: (N, 3) indices.
        spacing_mm: Of the lattice.

    Returns:
        Times, float32, `FAR` at most.
    """
    image = sitk.GetImageFromArray(np.where(speed > _SLOWEST, speed, 0).astype(np.float32))
    image.SetSpacing([spacing_mm] * 3)
    march = sitk.FastMarchingImageFilter()
    march.SetTrialPoints([[int(x), int(y), int(z)] for z, y, x in seeds])
    march.SetStoppingValue(FAR)
    return np.minimum(sitk.GetArrayFromImage(march.Execute(image)), FAR).astype(np.float32)


def time_of_volume(times: np.ndarray, counted: np.ndarray, volume_ml: float, spacing_mm: float) -> float:
    """The time at which the voxels of `counted` that have been reached make up a volume, or all there are."""
    reached = np.sort(times[counted & (times < FAR)])
    if not reached.size:
        return 0.0
    return float(reached[min(round(volume_ml * 1000 / spacing_mm**3), reached.size) - 1])


# --- foci


@dataclass(frozen=True)
class Focus:
    """An ellipsoid.

    Attributes:
        centre: Index (Z, Y, X).
        radii_mm: Half axes.
        axes: (3, 3), the directions of the half axes in its rows.
    """

    centre: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    axes: np.ndarray


def round_focus(
    centre: tuple[float, float, float], diameter_mm: float, uneven: float, random: np.random.Generator
) -> Focus:
    """A focus whose half axes differ by a factor of about exp(`uneven`), turned at random."""
    stretch = np.exp(uneven * random.standard_normal(3))
    a, b, c = (diameter_mm / 2 * stretch / np.prod(stretch) ** (1 / 3)).tolist()
    axes = np.linalg.qr(random.standard_normal((3, 3)))[0]
    return Focus(centre, (a, b, c), axes)


def depth_of_foci(shape: tuple[int, ...], foci: Sequence[Focus], spacing_mm: float) -> np.ndarray:
    """Depth below the surface of the foci in mm, negative near them outside, -5 far away; (Z, Y, X) float32."""
    depth = np.full(shape, _FAR_OUTSIDE_MM, np.float32)
    for focus in foci:
        box = _box(focus.centre, (max(focus.radii_mm) + 3.0) / spacing_mm, shape)
        points = _from(focus.centre, box, spacing_mm)
        local = np.einsum("ij,jzyx->izyx", focus.axes / np.array(focus.radii_mm)[:, None], points)
        radius = np.sqrt((local**2).sum(0))
        depth[box] = np.maximum(depth[box], (1 - radius) * min(focus.radii_mm))
    return depth


def _box(centre: Sequence[float], reach: float, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of a lattice within a cube of half side `reach` about an index."""
    return tuple(slice(max(0, int(c - reach)), min(n, int(c + reach) + 2)) for c, n in zip(centre, shape, strict=True))


def _from(centre: Sequence[float], box: tuple[slice, ...], spacing_mm: float) -> np.ndarray:
    """Where the points of a box lie, mm from an index; (3, Z, Y, X) float32."""
    axes = (np.arange(b.start, b.stop, dtype=np.float32) - c for b, c in zip(box, centre, strict=True))
    return np.stack(np.meshgrid(*axes, indexing="ij")) * np.float32(spacing_mm)


# --- mass effect


@dataclass(frozen=True)
class Push:
    """A ball that has grown in place and has displaced what was there.

    Attributes:
        centre: Index (Z, Y, X).
        radius_mm: Of the ball.
        share: How much of the ball's volume was displaced, 0 to 1; the rest was infiltrated.
    """

    centre: tuple[float, float, float]
    radius_mm: float
    share: float


def push_aside(subject: Subject, pushes: Sequence[Push]) -> tuple[Subject, float]:
    """The subject with its tissue displaced by balls and the sulci around them narrowed.

    The anatomy is looked up where the tissue came from.

    Returns:
        The subject, and the largest displacement in mm.
    """
    coarse = subject.coarse()
    balls = [replace(push, centre=halved(push.centre)) for push in pushes]
    depth = depth_inside(~coarse.skull, coarse.spacing_mm)
    moved = displacement(balls, depth, coarse.coordinates[2], coarse.coordinates[0], coarse.spacing_mm)
    fine = np.stack([from_coarse(axis, subject.labels.shape) for axis in moved]) * ~subject.skull
    came_from = subject.coordinates - np.einsum("ij,jzyx->izyx", subject.geometry.affine[0].numpy(), fine)
    coordinates = torch.from_numpy(came_from)[None]
    displaced = _looked_up(subject.bank, subject.geometry, coordinates, subject.spacing_mm)
    for push in pushes:
        _close_sulci(displaced, push)
    return displaced, float(np.sqrt((moved**2).sum(0)).max())


def displacement(
    pushes: Sequence[Push], skull_mm: np.ndarray, side_mm: np.ndarray, height_mm: np.ndarray, spacing_mm: float
) -> np.ndarray:
    """How far tissue has been displaced to where it now lies, mm.

    Around a ball of radius R that displaces a share s of its volume, volume-preserving flow takes tissue from the
    radius (r^3 - s R^3)^(1/3) to r, which fades as 1 / r^2. Within `SKULL_MM` of the skull the movement fades to 0.
    The falx holds back the other side, most in its upper part.

    Args:
        pushes: The balls.
        skull_mm: (Z, Y, X) depth below the skull, 0 outside.
        side_mm: (Z, Y, X) distance to the right of the midline.
        height_mm: (Z, Y, X) height above the middle of the brain.
        spacing_mm: Of the lattice.

    Returns:
        (3, Z, Y, X) float32; tissue at index x came from x - displacement / spacing.
    """
    free = _smoothstep(skull_mm / SKULL_MM)
    total = np.zeros((3, *skull_mm.shape), np.float32)
    everywhere = tuple(slice(0, n) for n in skull_mm.shape)
    for push in pushes:
        away = _from(push.centre, everywhere, spacing_mm)
        radius = np.sqrt((away**2).sum(0)) + 1e-3
        cube = radius**3
        before = np.cbrt(np.maximum(cube - push.share * push.radius_mm**3, _FREE_SHARE * cube))
        own_side = np.sign(side_mm[tuple(round(c) for c in push.centre)]) or 1.0
        total += away / radius * ((radius - before) * free * _behind_falx(side_mm * own_side, height_mm))
    return total


def _behind_falx(own_side_mm: np.ndarray, height_mm: np.ndarray) -> np.ndarray:
    """Share of the movement that remains: 1 on the side of the mass, less beyond the midline."""
    beyond = _smoothstep(0.5 - own_side_mm / 24.0)
    return 1 - beyond * (0.3 + 0.5 * _smoothstep((height_mm - 10.0) / 25.0))


def _smoothstep(x: np.ndarray) -> np.ndarray:
    t = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def _close_sulci(subject: Subject, push: Push) -> None:
    """Gives the fluid of sulci near a ball the label of the tissue beside it, in place."""
    reach = (push.radius_mm + SULCI_REACH_MM) / subject.spacing_mm
    box = _box(push.centre, reach, subject.labels.shape)
    labels, tissue = subject.labels[box], subject.tissue[box]
    if not tissue.any():
        return
    gap, nearest = ndimage.distance_transform_edt(~tissue, sampling=subject.spacing_mm, return_indices=True)
    away = np.sqrt((_from(push.centre, box, subject.spacing_mm) ** 2).sum(0)) - push.radius_mm
    closed = subject.sulci[box] & (gap <= CLOSED_MM * np.clip(1 - away / SULCI_REACH_MM, 0, 1))
    labels[closed] = labels[tuple(axis[closed] for axis in nearest)]
    subject.outside_mm[box][closed] = 0
