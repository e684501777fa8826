"""Two scans of one patient: what is new, has grown, shrunk or gone.

Both scans are resampled once, into the space half way between them, so that neither is blurred more than the other.
With their intensities matched and slow bias taken out, the difference d of the two is evidence of a change where it is
large against what differs without any change,

    z = d / s(g)       s(g) the spread of d where both scans have edges as strong as g = min(|grad b|, |grad a|)

so that edges, which differ by the slightest misregistration, count less. Fluid is left out: it flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from DISYRECore.detection.detector import Detection
from DISYRECore.detection.findings import TOUCHING, side_of
from DISYRECore.errors import DisyreError
from DISYRECore.io.grid import Grid
from DISYRECore.io.volume import Volume, crop, crop_box, model_grid, resample, resample_mask, to_canonical
from DISYRECore.preprocessing.brain_mask import RIM_MM
from DISYRECore.preprocessing.registration import Registration, register
from DISYRECore.synthesis.intensity import MIDDLE, brain_scale

KINDS = ("new", "grown", "shrunken", "gone")

LEAST_AGREEMENT = 0.58
"""As for the scans of a study."""

FINEST_MM, REGISTRATION_MM = 1.0, 1.5
"""Finest spacings of the half-way grid and of the images that are registered; coarser scans have grids of their own."""

SMOOTH_MM, BIAS_MM = 1.0, 20.0
"""Standard deviations of the smoothing of the difference, and of what counts as slow bias."""

FLUID = 0.3
"""Share of the way to `MIDDLE` 0.45, in linear intensities, below which T1 and FLAIR show fluid."""

FLUID_ON_T2 = 1.0
"""Linear intensity above which T2 shows fluid."""

LEAST_SPREAD = 0.01
"""Differences are measured in no finer unit: 2 % of the brain's median."""

LOW, NEEDED = 3.0, 0.3
"""|z| above which voxels form components, and evidence (|z| above it, summed over mL) that a change needs."""

SMALLEST_ML, CERTAIN = 0.03, 1.5
"""Volume, and multiple of its own uncertainty, that a change must exceed."""

MOST_HIDDEN = 0.15
"""Difference, as a share of the brain's median, that would just be seen, from which on scans are hard to compare. Half
way between the two pairs of real scans tried: .09 of one scanner, .22 of two."""

BRIGHTER = {"T1": False, "T1C": True, "T2": True, "FLAIR": True}
"""Whether a lesion that grows is a place that becomes brighter."""


@dataclass(frozen=True)
class Change:
    """A place where two scans differ more than chance allows.

    Attributes:
        label: Its number in the label image, from 1, the strongest first.
        kind: One of `KINDS`.
        volume_ml: Of the place that changed, drawn where the difference is half of its mean inside.
        uncertainty_ml: How much the volume varies if the difference is off by its spread.
        before_ml, after_ml: Volume, above the border of the score, of the lesion that the place belongs to; 0 where no
            lesion was found.
        brighter: Whether the place is brighter in the later scan.
        evidence: |z| above `LOW`, summed over mL.
        centroid_ras: Centre in the half-way space, mm.
        side: See `findings.Finding`; empty where one of the scans has no place.
    """

    label: int
    kind: str
    volume_ml: float
    uncertainty_ml: float
    before_ml: float
    after_ml: float
    brighter: bool
    evidence: float
    centroid_ras: tuple[float, float, float]
    side: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two scans in the space half way between them; all volumes on one grid, axes closest to R, A, S.

    Attributes:
        before, after: Matched intensities, the brain's median at `MIDDLE`.
        evidence: z, positive where the later scan is brighter; 0 where nothing was compared.
        labels: One label a change, uint16.
        brain_mask: uint8, brain in both scans.
        changes: In the order of their labels.
        steady: Findings of either scan that no change touches: volume in mL before and after, 0 where there is none.
        doubts: Sentences for the reader.
        record: Measures and settings.
    """

    before: Volume
    after: Volume
    evidence: Volume
    labels: Volume
    brain_mask: Volume
    changes: list[Change]
    steady: list[tuple[float, float]]
    doubts: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def is_meaningful(self) -> bool:
        """Whether the scans are alike enough for their difference to say something."""
        return bool(self.record["visible"] <= MOST_HIDDEN)


@dataclass(frozen=True, eq=False)
class _Pair:
    """Arrays on the half-way grid: matched linear intensities, where they can be compared, and the scores."""

    before: np.ndarray
    after: np.ndarray
    brain: np.ndarray
    tissue: np.ndarray
    lesions: tuple[np.ndarray, np.ndarray]
    findings: tuple[np.ndarray, np.ndarray]
    grid: Grid


def compare(before: Detection, after: Detection) -> Comparison:
    """Compares two scans of one patient and contrast in which anomalies were looked for.

    Args:
        before: Of the earlier scan.
        after: Of the later one.

    Raises:
        DisyreError: The contrasts differ, or the scans do not seem to be of one patient.
    """
    contrast, other = (_contrast(one) for one in (before, after))
    if contrast != other:
        raise DisyreError(f"The earlier scan is {contrast}, the later one {other}; give two scans of one contrast.")
    registration = _registered(before, after)
    pair = _half_way(before, after, registration, contrast)
    difference = _within(pair.after - pair.before, pair.brain, _voxels(SMOOTH_MM, pair.grid))
    spread, common = _spread(difference, pair)
    evidence = np.where(pair.tissue, difference / spread, 0).astype(np.float32)
    image, changes = _changes(evidence, difference, spread, pair, contrast)
    if not (before.scan.has_sides and after.scan.has_sides):
        changes = [replace(change, side="") for change in changes]
    visible = LOW * common / MIDDLE
    return Comparison(
        before=Volume(pair.before, pair.grid.affine),
        after=Volume(pair.after, pair.grid.affine),
        evidence=Volume(evidence, pair.grid.affine),
        labels=Volume(image, pair.grid.affine),
        brain_mask=Volume(pair.brain.astype(np.uint8), pair.grid.affine),
        changes=changes,
        steady=_steady(image > 0, pair),
        doubts=_doubts(visible, contrast, before, after),
        record={
            "contrast": contrast,
            "moved_mm": round(registration.moved_mm, 2),
            "agreement": round(registration.agreement, 3),
            "correlation": round(float(np.corrcoef(pair.before[pair.tissue], pair.after[pair.tissue])[0, 1]), 3),
            "visible": round(visible, 4),
            "low": LOW,
            "needed": NEEDED,
            "spacing_mm": [round(spacing, 3) for spacing in pair.grid.spacing_mm],
        },
    )


def _contrast(detection: Detection) -> str:
    return str(detection.record["scan"]["contrast"])


def _doubts(visible: float, contrast: str, before: Detection, after: Detection) -> list[str]:
    doubts = []
    if contrast != "FLAIR":
        doubts.append(f"Comparison is reliable on FLAIR only; on {contrast} expect many false changes.")
    if visible > MOST_HIDDEN:
        doubts.append(
            f"The scans are hard to compare: only differences above {visible:.0%} of the brain's median would be seen "
            f"({MOST_HIDDEN:.0%} or less is needed), as it happens with other scanners or settings. Changes may be "
            "missing here; compare the scans by eye."
        )
    for name, one in (("Earlier", before), ("Later", after)):
        doubts += [f"{name} scan: {flag}" for flag in one.record["scan"].get("flags", [])]
    return doubts


# --- half way


def _registered(before: Detection, after: Detection) -> Registration:
    """The later scan onto the earlier one, however little it moved."""
    spacing_mm = max(REGISTRATION_MM, _finest_mm(before, after))
    images = [_for_registration(one, spacing_mm) for one in (before, after)]
    found = register(*images[0], *images[1], aligned_mm=0.0)
    if found.agreement < LEAST_AGREEMENT:
        raise DisyreError("The two scans do not fit each other; give two scans of one patient.")
    return found


def _finest_mm(before: Detection, after: Detection) -> float:
    return min(*before.scan.spacing_mm, *after.scan.spacing_mm)


def _for_registration(detection: Detection, spacing_mm: float) -> tuple[Volume, np.ndarray]:
    """The brain, normalised, and its mask, on a coarser grid."""
    scan, mask = to_canonical(detection.scan), to_canonical(_as_float(detection.brain_mask))
    box = crop_box(mask.voxels > 0, margin=1)
    near, near_mask = crop(scan, box), crop(mask, box)
    grid = model_grid(near, spacing_mm)
    inside = resample_mask(near_mask, grid)
    image = brain_scale(near.voxels, near_mask.voxels > 0.5).normalise(resample(near, grid).voxels)
    return Volume(image * inside, grid.affine), inside


def _half_way(before: Detection, after: Detection, registration: Registration, contrast: str) -> _Pair:
    to_half = half_motion(registration.to_fixed)
    places = np.linalg.inv(to_half), to_half
    grid = _grid(before, after, places[0])
    inside = [
        resample_mask(_placed(_as_float(one.brain_mask), place), grid)
        for one, place in zip((before, after), places, strict=True)
    ]
    brain = inside[0] & inside[1]
    if not brain.any():
        raise DisyreError("The two scans show no brain in common; give two scans of one patient.")
    scans = _equally_sharp(before.scan, after.scan)
    one, two = (
        _linear(resample(_placed(scan, place), grid).voxels, brain) for scan, place in zip(scans, places, strict=True)
    )
    one, two = matched(one, two, brain, grid.spacing_mm)
    tissue = _inner(brain, grid) & ~_fluid(one, two, contrast, _voxels(SMOOTH_MM, grid))
    lesions, findings = [], []
    for detection, place in zip((before, after), places, strict=True):
        score = resample(_placed(detection.score, place), grid).voxels
        lesions.append((score > detection.border) & brain)
        findings.append(resample(_placed(detection.labels, place), grid, order=0).voxels > 0)
    return _Pair(one, two, brain, tissue, (lesions[0], lesions[1]), (findings[0], findings[1]), grid)


def _inner(brain: np.ndarray, grid: Grid) -> np.ndarray:
    """Brain without a rim, of one voxel at least, also where the grid ends as a scan that cuts the brain does."""
    depth_mm = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=grid.spacing_mm)[1:-1, 1:-1, 1:-1]
    return np.asarray(depth_mm > max(RIM_MM, 1.01 * max(grid.spacing_mm)))


def half_motion(motion: np.ndarray) -> np.ndarray:
    """The rigid motion (4, 4) that, done twice, is the given one."""
    half = np.eye(4)
    half[:3, :3] = Rotation.from_rotvec(Rotation.from_matrix(motion[:3, :3]).as_rotvec() / 2).as_matrix()
    half[:3, 3] = np.linalg.solve(half[:3, :3] + np.eye(3), motion[:3, 3])
    return half


def _grid(before: Detection, after: Detection, to_half: np.ndarray) -> Grid:
    mask = to_canonical(_placed(_as_float(before.brain_mask), to_half))
    near = crop(mask, crop_box(mask.voxels > 0, margin=1))
    return model_grid(near, max(FINEST_MM, _finest_mm(before, after)))


def _placed(volume: Volume, motion: np.ndarray) -> Volume:
    return Volume(volume.voxels, motion @ volume.affine)


def _as_float(mask: Volume) -> Volume:
    return Volume((mask.voxels > 0).astype(np.float32), mask.affine)


def _equally_sharp(before: Volume, after: Volume) -> tuple[Volume, Volume]:
    """Smooths each scan along the axes on which the voxels of the other are longer."""
    one, two = to_canonical(before), to_canonical(after)
    return _blurred_as(one, two), _blurred_as(two, one)


def _blurred_as(volume: Volume, other: Volume) -> Volume:
    own = np.array(volume.spacing_mm)
    fwhm_mm = np.sqrt(np.maximum(np.array(other.spacing_mm) ** 2 - own**2, 0))
    sigma = (fwhm_mm / 2.355 / own).tolist()
    return Volume(ndimage.gaussian_filter(volume.voxels.astype(np.float32), sigma), volume.affine)


# --- intensities


def _linear(image: np.ndarray, brain: np.ndarray) -> np.ndarray:
    scale = brain_scale(image, brain)
    return ((image - scale.low) / scale.unit).astype(np.float32)


def matched(
    before: np.ndarray, after: np.ndarray, brain: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Shares the slow part of the ratio of two images (X, Y, Z) out between them.

    The logarithm of the ratio is smoothed within the brain without what stands out of it, as changed places do.
    """
    sigma = [BIAS_MM / spacing for spacing in spacing_mm]
    for _ in range(2):
        counts = brain & (before > MIDDLE / 3) & (after > MIDDLE / 3)
        ratio = np.zeros(brain.shape, np.float32)
        ratio[counts] = np.log(after[counts] / before[counts])
        middle = np.median(ratio[counts])
        counts &= np.abs(ratio - middle) < 2.5 * _deviation(ratio[counts])
        bias = np.exp(_within(ratio, counts, sigma) / 2)
        before, after = before * bias, after / bias
    return before, after


def _fluid(before: np.ndarray, after: np.ndarray, contrast: str, sigma: list[float]) -> np.ndarray:
    """Where one of the scans (FLAIR), or both (T1, T2) show fluid."""
    darker, brighter = (ndimage.gaussian_filter(f(before, after), sigma) for f in (np.minimum, np.maximum))
    if contrast == "T2":
        return darker > FLUID_ON_T2
    return (darker if contrast == "FLAIR" else brighter) < FLUID


def _within(image: np.ndarray, mask: np.ndarray, sigma: list[float]) -> np.ndarray:
    """Gaussian mean over a mask alone."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    return ndimage.gaussian_filter(image * mask, sigma) / np.maximum(weight, 1e-3)


def _voxels(length_mm: float, grid: Grid) -> list[float]:
    return [length_mm / spacing for spacing in grid.spacing_mm]


def _deviation(values: np.ndarray) -> float:
    """Standard deviation of the bulk, by the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


# --- evidence


def _spread(difference: np.ndarray, pair: _Pair) -> tuple[np.ndarray, float]:
    """What differs without a change: at each voxel, by the strength of the edges there; and over all tissue."""
    edges = np.minimum(*(_edges(image, _voxels(SMOOTH_MM, pair.grid)) for image in (pair.before, pair.after)))
    inside, values = edges[pair.tissue], difference[pair.tissue]
    borders = np.quantile(inside, np.linspace(0, 1, 21))
    bins = np.clip(np.searchsorted(borders, inside) - 1, 0, 19)
    filled = [number for number in range(20) if (bins == number).any()]
    strengths = [float(np.median(inside[bins == number])) for number in filled]
    spreads = [_deviation(values[bins == number]) for number in filled]
    return np.maximum(np.interp(edges, strengths, spreads), LEAST_SPREAD), _deviation(values)


def _edges(image: np.ndarray, sigma: list[float]) -> np.ndarray:
    return np.asarray(ndimage.gaussian_gradient_magnitude(image, sigma))


def _components(evidence: np.ndarray, voxel_ml: float) -> tuple[np.ndarray, np.ndarray]:
    """Brighter and darker components of enough evidence, the strongest first, and their evidence."""
    labels = np.zeros(evidence.shape, np.int32)
    for sign in (1, -1):
        own, _ = ndimage.label(sign * evidence > LOW, TOUCHING)
        labels = np.where(own > 0, own + labels.max(), labels)
    strength = np.bincount(labels.ravel(), (np.abs(evidence).ravel() - LOW) * voxel_ml)
    strength[0] = 0
    order = np.flatnonzero(strength >= NEEDED)
    order = order[np.argsort(-strength[order], kind="stable")]
    numbers = np.zeros(strength.size, np.int32)
    numbers[order] = np.arange(1, order.size + 1)
    return numbers[labels], strength[order]


def _changes(
    evidence: np.ndarray, difference: np.ndarray, spread: np.ndarray, pair: _Pair, contrast: str
) -> tuple[np.ndarray, list[Change]]:
    """The label image, uint16, and the changes that are certain enough."""
    voxel_ml = pair.grid.voxel_ml
    labels, strengths = _components(evidence, voxel_ml)
    image, changes = np.zeros(pair.grid.shape, np.uint16), list[Change]()
    for number, strength in enumerate(strengths.tolist(), start=1):
        place, uncertainty_ml = _drawn(labels == number, difference, spread, pair)
        if place.sum() * voxel_ml > max(SMALLEST_ML, CERTAIN * uncertainty_ml):
            label = len(changes) + 1
            image[place] = label
            changes.append(_change(label, place, uncertainty_ml, strength, evidence, pair, contrast))
    return image, changes


def _drawn(component: np.ndarray, difference: np.ndarray, spread: np.ndarray, pair: _Pair) -> tuple[np.ndarray, float]:
    """The voxels of a component down to half of its mean difference, and the uncertainty of their volume in mL."""
    size = np.abs(difference)
    border = 0.0
    for _ in range(10):
        border = float(size[component & (size > border)].mean()) / 2
    off = float(np.median(spread[component]))
    around = ndimage.binary_dilation(component, TOUCHING, iterations=2) & pair.tissue
    around &= np.sign(difference) == np.sign(difference[component].mean())
    most, least = (int((around & (size > at)).sum()) for at in (border - off, border + off))
    return component & (size > border), (most - least) / 2 * pair.grid.voxel_ml


def _change(
    label: int,
    place: np.ndarray,
    uncertainty_ml: float,
    strength: float,
    evidence: np.ndarray,
    pair: _Pair,
    contrast: str,
) -> Change:
    brighter = bool(evidence[place].mean() > 0)
    before_ml, after_ml = (_lesion_ml(lesion, place, pair.grid.voxel_ml) for lesion in pair.lesions)
    kind = _kind(brighter == BRIGHTER[contrast], before_ml > 0, after_ml > 0)
    centre = pair.grid.affine[:3, :3] @ np.argwhere(place).mean(axis=0) + pair.grid.affine[:3, 3]
    r, a, s = centre.tolist()
    volume_ml = float(place.sum() * pair.grid.voxel_ml)
    side = side_of(r, pair.brain, pair.grid.affine)
    return Change(
        label, kind, volume_ml, uncertainty_ml, before_ml, after_ml, brighter, float(strength), (r, a, s), side
    )


def _kind(is_more: bool, was_there: bool, is_there: bool) -> str:
    if is_more:
        return "grown" if was_there else "new"
    return "shrunken" if is_there else "gone"


def _lesion_ml(lesions: np.ndarray, place: np.ndarray, voxel_ml: float) -> float:
    """Volume of the lesions that reach to a place."""
    components, _ = ndimage.label(lesions, TOUCHING)
    touched = np.unique(components[ndimage.binary_dilation(place, TOUCHING)])
    return float(np.isin(components, touched[touched > 0]).sum() * voxel_ml)


def _steady(changed: np.ndarray, pair: _Pair) -> list[tuple[float, float]]:
    """Volumes before and after of the findings that no change touches."""
    together, count = ndimage.label(pair.findings[0] | pair.findings[1], TOUCHING)
    touched = set(np.unique(together[ndimage.binary_dilation(changed, TOUCHING)]).tolist())
    volumes = [
        tuple(float((found & (together == number)).sum() * pair.grid.voxel_ml) for found in pair.findings)
        for number in range(1, count + 1)
        if number not in touched
    ]
    return sorted(((one, two) for one, two in volumes), key=lambda pair_ml: -max(pair_ml))
