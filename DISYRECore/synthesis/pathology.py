"""What can be wrong with a brain: abnormal tissues with their places and their signal in T1, T2 and FLAIR.

A disease turns a healthy subject into a patient: it may displace the anatomy, and it lists abnormal tissues, each the
share of every voxel that it fills and its signal in each contrast. Signals follow the textbook (Osborn, Hedlund &
Salzman, Osborn's Brain, 2nd edition 2017): tumour, oedema, gliosis and plaques hold water, so they are bright on T2 and
FLAIR and grey to dark on T1; what is fluid is dark on FLAIR; blood goes through stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from DISYRECore.io.labels import (
    CEREBRAL_CORTEX,
    CEREBRAL_WHITE,
    LATERAL_VENTRICLES,
    MERGED_CORTEX,
    MERGED_DEEP_GREY,
    MERGED_VESSELS,
    MERGED_WHITE_MATTER,
    WHITE,
)
from DISYRECore.io.volume import Volume
from DISYRECore.synthesis.growth import (
    FAR,
    Focus,
    Push,
    Subject,
    arrival_times,
    depth_inside,
    depth_of_foci,
    doubled,
    from_coarse,
    halved,
    push_aside,
    round_focus,
    smooth_noise,
    time_of_volume,
)

KINDS = ("glioma", "metastases", "infarct", "ms", "leukoaraiosis", "haemorrhage", "resection")

VARIANTS = {
    "glioma": ("high_grade", "high_grade", "low_grade"),
    "infarct": ("acute", "chronic"),
    "haemorrhage": ("acute", "early_subacute", "late_subacute"),
}
"""Drawn from with equal probability; kinds that are not named here have one form."""

LARGEST_SHARE, BRAIN_RIM_MM = 0.15, 3.0
"""How much may be anomalous of the volume of the brain and the fluid in it and within a rim."""

MNI_MEAN_MM, MNI_SPREAD_MM, MNI_ML = (9.7, -21.9, 0.0), (31.1, 40.6, 33.6), 1730.0
"""Mean and standard deviation along (S, A, R) of where brain tissue lies in MNI space, and its volume (grey plus white
matter of the symmetric ICBM 2009a template above one half)."""

_MOST_FOCI = 200


@dataclass(frozen=True)
class Signal:
    """What a tissue looks like in one contrast.

    Attributes:
        step: Brighter than cortex by this much, in units of the brighter of cortex and white matter.
        fluid: Share that looks like CSF, 0 to 1.
    """

    step: float
    fluid: float


_APPEARANCES: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "tumour": {"T1": (0.14, -0.25, 0, 0.15), "T2": (0.15, 0.9, 0, 0.2), "FLAIR": (0.06, 0.5, 0, 0)},
    "rim": {"T1": (0.15, -0.15, 0, 0), "T2": (0.1, 0.5, 0, 0), "FLAIR": (0.06, 0.5, 0, 0)},
    "necrosis": {"T1": (-0.1, -0.3, 0.1, 0.8), "T2": (0.5, 1.5, 0.1, 0.8), "FLAIR": (0.35, -0.1, 0, 0.8)},
    "oedema": {"T1": (0.1, -0.2, 0, 0), "T2": (0.25, 1.1, 0, 0), "FLAIR": (0.12, 0.65, 0, 0)},
    "infarct": {"T1": (0.05, -0.25, 0, 0), "T2": (0.2, 0.9, 0, 0), "FLAIR": (0.12, 0.7, 0, 0)},
    "gliosis": {"T1": (0.05, -0.15, 0, 0), "T2": (0.2, 1.0, 0, 0), "FLAIR": (0.12, 0.65, 0, 0)},
    "cavity": {"T1": (-0.2, -0.3, 0.85, 1), "T2": (0.5, 1.0, 0.85, 1), "FLAIR": (0.0, -0.2, 0.75, 1)},
    "plaque": {"T1": (0.15, -0.2, 0, 0), "T2": (0.25, 0.9, 0, 0), "FLAIR": (0.1, 0.55, 0, 0)},
    "black_hole": {"T1": (-0.15, -0.35, 0.1, 0.5), "T2": (0.6, 1.3, 0, 0.3), "FLAIR": (0.4, 0.0, 0, 0.3)},
    "leukoaraiosis": {"T1": (0.2, -0.1, 0, 0), "T2": (0.2, 0.7, 0, 0), "FLAIR": (0.08, 0.45, 0, 0)},
    "blood_acute": {"T1": (0.0, -0.12, 0, 0), "T2": (-0.2, -0.5, 0, 0), "FLAIR": (0.05, -0.4, 0, 0)},
    "blood_early_subacute": {"T1": (0.35, 0.9, 0, 0), "T2": (-0.2, -0.5, 0, 0), "FLAIR": (0.1, -0.3, 0, 0)},
    "blood_late_subacute": {"T1": (0.35, 0.9, 0, 0), "T2": (0.5, 1.4, 0, 0), "FLAIR": (0.35, 0.9, 0, 0)},
}
"""Step and share of fluid of a faint and of a strong specimen: (faint step, strong step, faint fluid, strong fluid)."""


def draw_signals(appearance: str, strength: float, random: np.random.Generator) -> dict[str, Signal]:
    """The signals of one tissue of a patient.

    Args:
        appearance: Key of `_APPEARANCES`.
        strength: 0 for hardly visible to 1 for glaring.
        random: Moves each contrast a little on its own.
    """
    signals = {}
    for contrast, (faint, strong, little, much) in _APPEARANCES[appearance].items():
        share = float(np.clip(strength + 0.15 * random.standard_normal(), 0, 1))
        signals[contrast] = Signal(faint + (strong - faint) * share, little + (much - little) * share)
    return signals


@dataclass(frozen=True, eq=False)
class Tissue:
    """One abnormal tissue.

    Attributes:
        appearance: Key of the table of signals.
        share: (Z, Y, X) float32 in [0, 1], how much of each voxel it fills.
        signals: By contrast.
        texture: Relative standard deviation of its signal.
    """

    appearance: str
    share: np.ndarray
    signals: dict[str, Signal]
    texture: float


@dataclass(frozen=True, eq=False)
class Patient:
    """A subject with abnormal tissues; later ones cover earlier ones.

    Attributes:
        subject: The anatomy, displaced where there is a mass.
        tissues: In the order of painting.
        displacement_mm: The largest displacement.
        source: Name of the mask that gave the shape, if any.
    """

    subject: Subject
    tissues: tuple[Tissue, ...]
    displacement_mm: float = 0.0
    source: str = ""

    def within(self, larger: Subject) -> Patient:
        """The patient on a larger lattice that has the same middle; beyond the old one all is as in `larger`."""
        low = [(m - n) // 2 for n, m in zip(self.subject.labels.shape, larger.labels.shape, strict=True)]
        box = tuple(slice(a, a + n) for a, n in zip(low, self.subject.labels.shape, strict=True))
        labels, outside = larger.labels.copy(), larger.outside_mm.copy()
        labels[box], outside[box] = self.subject.labels, self.subject.outside_mm
        margins = [(b.start, m - b.stop) for b, m in zip(box, larger.labels.shape, strict=True)]
        tissues = tuple(replace(tissue, share=np.pad(tissue.share, margins)) for tissue in self.tissues)
        return replace(self, subject=replace(larger, labels=labels, outside_mm=outside), tissues=tissues)

    def anomalous(self) -> np.ndarray:
        """Share of each voxel that is abnormal, (Z, Y, X) float32 in [0, 1]."""
        return np.maximum.reduce([tissue.share for tissue in self.tissues])


@dataclass(frozen=True)
class Disease:
    """What is drawn of a disease.

    Attributes:
        kind: One of `KINDS`.
        variant: One of `VARIANTS` of this kind, or empty.
        volume_ml: Wanted of everything that is abnormal; metastases and masks have volumes of their own.
        core: Share of the volume that is the mass itself; the rest is oedema.
        push: Share of the mass that displaces tissue instead of infiltrating it.
        strength: How much the signal changes, 0 to 1.
        seed: Place, shape and texture follow from it.
    """

    kind: str
    variant: str
    volume_ml: float
    core: float
    push: float
    strength: float
    seed: int


def make_patient(subject: Subject, disease: Disease, masks: Sequence[Volume] = ()) -> Patient:
    """Gives a healthy subject a disease.

    Args:
        subject: Of at least the size of a brain, on a lattice of about 1 mm.
        disease: What it has.
        masks: Lesion masks in MNI space, axes R, A, S; the one nearest in volume is used for infarcts and multiple
            sclerosis. Without any, shapes are grown.
    """
    brain = ~subject.skull & (subject.outside_mm < BRAIN_RIM_MM)
    brain_ml = float(brain.sum()) * subject.spacing_mm**3 / 1000
    disease = replace(disease, volume_ml=min(disease.volume_ml, LARGEST_SHARE * brain_ml))
    random = np.random.default_rng([disease.seed, 1])
    if disease.kind not in _SHAPED:
        return _GROWN[disease.kind](subject, disease, random)
    grow, make = _SHAPED[disease.kind]
    if not masks:
        return make(subject, disease, random, grow(subject, disease.volume_ml, random))
    mask = _fitting_mask(subject, disease.volume_ml, masks)
    share = _smooth_sample(mask, _mni_coordinates(subject))
    return replace(make(subject, disease, random, share), source=mask.source)


# --- masses


def _glioma(subject: Subject, disease: Disease, random: np.random.Generator) -> Patient:
    core_ml = disease.volume_ml * disease.core
    coarse = subject.coarse()
    radius = _radius_mm(core_ml + 0.25 * (disease.volume_ml - core_ml))
    centre = _place(coarse, coarse.within(CEREBRAL_WHITE), (min(8.0 + 0.3 * radius, 18.0), 45.0), random)
    displaced, moved_mm = push_aside(subject, [Push(doubled(centre), radius, disease.push)])
    coarse = displaced.coarse()
    speed = _speeds(coarse, white=1.0, deep=0.7, cortex=0.6, fluid=0.15) * _roughness(coarse, 0.5, random)
    times, end = _grown(coarse, speed, centre[None], core_ml, coarse.tissue | coarse.sulci)
    solid = _share(displaced, times, end, soft=2.0) * _open_to_mass(displaced)
    tissues = _rings(displaced, solid, times, end, disease, random)
    if disease.core < 1:
        tissues = [_oedema(displaced, times < end, disease.volume_ml - core_ml, disease, random), *tissues]
    return Patient(displaced, tuple(tissues), moved_mm)


def _rings(
    subject: Subject, solid: np.ndarray, times: np.ndarray, end: float, disease: Disease, random: np.random.Generator
) -> list[Tissue]:
    """The solid tumour; most of high grade have a necrotic middle and a rim of living cells around it."""
    tumour = _tissue("tumour", solid, disease, random, texture=0.08)
    if disease.variant != "high_grade" or random.random() < 0.2:
        return [tumour]
    wobble = 0.12 * smooth_noise(times.shape, 10.0, 2 * subject.spacing_mm, random)
    reach = random.uniform(0.45, 0.85) * end * (1 + wobble)
    living = reach + random.uniform(2.0, 5.0)
    ends = (np.clip((edge - np.minimum(times, 2 * end)) / 3.0 + 0.5, 0, 1) for edge in (reach, living))
    necrosis, rim = (from_coarse(part, subject.labels.shape) * solid for part in ends)
    return [
        tumour,
        _tissue("rim", rim, disease, random, texture=0.08),
        _tissue("necrosis", necrosis, disease, random, texture=0.15),
    ]


def _metastases(subject: Subject, disease: Disease, random: np.random.Generator) -> Patient:
    diameters = _diameters_of_metastases(random)
    coarse = subject.coarse()
    where = _junction(coarse)
    foci = [round_focus(doubled(_place(coarse, where, (4.0, 40.0), random)), d, 0.12, random) for d in diameters]
    large = [Push(f.centre, d / 2, disease.push) for f, d in zip(foci, diameters, strict=True) if d > 9]
    displaced, moved_mm = push_aside(subject, large)
    depth = depth_of_foci(displaced.labels.shape, foci, displaced.spacing_mm) + 0.4 * _ripple(displaced, 5.0, random)
    solid = _edge(depth, 1.0) * _open_to_mass(displaced)
    tissues = [_tissue("tumour", solid, disease, random, texture=0.08)]
    if max(diameters) > 12 and random.random() < 0.7:
        necrosis = _edge(depth - random.uniform(3.0, 5.0), 1.5) * solid
        tissues.append(_tissue("necrosis", necrosis, disease, random, texture=0.1))
    if swollen := [focus for focus in foci if random.random() < 0.8]:
        tissues.insert(0, _oedema_around(displaced, swollen, disease, random))
    return Patient(displaced, tuple(tissues), moved_mm)


def _diameters_of_metastases(random: np.random.Generator) -> list[float]:
    """One to eight of 4 to 25 mm, log-uniform; the first is 10 mm at least."""
    first, *others = (4.0 * (25.0 / 4.0) ** random.random(random.integers(1, 9))).tolist()
    return [max(first, random.uniform(10.0, 25.0)), *others]


def _haemorrhage(subject: Subject, disease: Disease, random: np.random.Generator) -> Patient:
    blood_ml = disease.volume_ml * disease.core
    coarse = subject.coarse()
    home = MERGED_DEEP_GREY if random.random() < 0.5 else CEREBRAL_WHITE
    centre = _place(coarse, coarse.within(home), (8.0, 60.0), random)
    displaced, moved_mm = push_aside(subject, [Push(doubled(centre), _radius_mm(blood_ml), disease.push)])
    coarse = displaced.coarse()
    speed = _speeds(coarse, white=1.0, deep=0.9, cortex=0.7, fluid=0.1) * _roughness(coarse, 0.3, random)
    times, end = _grown(coarse, speed, centre[None], blood_ml, coarse.tissue)
    clot = _share(displaced, times, end, soft=1.2) * _open_to_mass(displaced)
    swelling = _oedema(displaced, times < end, disease.volume_ml - blood_ml, disease, random)
    blood = _tissue(f"blood_{disease.variant}", clot, disease, random, texture=0.1)
    return Patient(displaced, (swelling, blood), moved_mm)


def _oedema(
    subject: Subject, start: np.ndarray, volume_ml: float, disease: Disease, random: np.random.Generator
) -> Tissue:
    """Water that spreads from the coarse mask `start` along white matter and hardly into cortex."""
    coarse = subject.coarse()
    speed = _speeds(coarse, white=1.0, deep=0.22, cortex=0.06, fluid=0.0) * _roughness(coarse, 0.45, random)
    speed = np.where(start, 1.0, speed)
    counted = coarse.within(CEREBRAL_WHITE) & ~start
    times, end = _grown(coarse, speed, np.argwhere(start), volume_ml, counted)
    passable = np.float32(0.12) * subject.within(CEREBRAL_CORTEX) + subject.within((*WHITE, *MERGED_DEEP_GREY))
    share = _share(subject, times, end, soft=4.0)
    inner = _share(subject, times, 0.4 * end, soft=max(end, 5.0))
    return _tissue("oedema", share * (0.7 + 0.3 * inner) * passable, disease, random, texture=0.07)


def _oedema_around(subject: Subject, foci: Sequence[Focus], disease: Disease, random: np.random.Generator) -> Tissue:
    """Oedema of 1.5 to 10 times the volume of foci, as much as the disease may have at the most."""
    coarse = subject.coarse()
    nearby = [replace(focus, centre=halved(focus.centre)) for focus in foci]
    start = depth_of_foci(coarse.labels.shape, nearby, coarse.spacing_mm) > 0
    volume_ml = float(start.sum()) * coarse.spacing_mm**3 / 1000 * random.uniform(1.5, 10.0)
    return _oedema(subject, start, min(volume_ml, disease.volume_ml), disease, random)


# --- vascular disease


def _infarct(subject: Subject, disease: Disease, random: np.random.Generator, share: np.ndarray) -> Patient:
    share = share * subject.tissue
    if disease.variant == "acute":
        return Patient(subject, (_tissue("infarct", share, disease, random, texture=0.06),))
    depth = depth_inside(share > 0.5, subject.spacing_mm) + 0.8 * _ripple(subject, 6.0, random)
    hollow = _edge(depth - random.uniform(2.0, 4.5), 1.5) * share
    scar = _tissue("gliosis", share, disease, random, texture=0.06)
    return Patient(subject, (scar, _tissue("cavity", hollow, disease, random, texture=0.03)))


def _territory(subject: Subject, volume_ml: float, random: np.random.Generator) -> np.ndarray:
    """A grown infarct: from a place in cortex or deep grey matter through cortex and white matter alike."""
    coarse = subject.coarse()
    home = MERGED_DEEP_GREY if random.random() < 0.3 else CEREBRAL_CORTEX
    centre = _place(coarse, coarse.within(home), (2.0, 60.0), random)
    speed = _speeds(coarse, white=0.8, deep=0.9, cortex=1.0, fluid=0.12) * _roughness(coarse, 0.6, random)
    times, end = _grown(coarse, speed, centre[None], volume_ml, coarse.tissue)
    return _share(subject, times, end, soft=2.0)


def _leukoaraiosis(subject: Subject, disease: Disease, random: np.random.Generator) -> Patient:
    """Caps and bands along the lateral ventricles, and foci in deep white matter (Fazekas et al., AJR 1987)."""
    coarse = subject.coarse()
    wall = ~coarse.within(LATERAL_VENTRICLES)
    distance = depth_inside(wall, coarse.spacing_mm)
    white = coarse.within(CEREBRAL_WHITE)
    rough = np.exp(0.5 * smooth_noise(distance.shape, 14.0, coarse.spacing_mm, random) + 0.9 * _at_horns(coarse))
    reached = (distance / rough).astype(np.float32)
    bands_ml = disease.volume_ml * random.uniform(0.5, 0.9)
    end = time_of_volume(reached, white & wall, bands_ml, coarse.spacing_mm)
    bands = _share(subject, np.minimum(reached, FAR), end, soft=1.2)
    deep = white & (distance > 5) & (depth_inside(~coarse.within(CEREBRAL_CORTEX), coarse.spacing_mm) > 3.5)
    spots = _rippled(subject, _foci(deep, disease.volume_ml - bands_ml, (2.5, 9.0), random), random)
    share = np.maximum(bands, spots) * subject.within(CEREBRAL_WHITE)
    return Patient(subject, (_tissue("leukoaraiosis", share, disease, random, texture=0.06),))


def _at_horns(coarse: Subject) -> np.ndarray:
    """0 at the body of the lateral ventricles to 1 at their frontal and occipital ends, (Z, Y, X)."""
    ventricle = coarse.within(LATERAL_VENTRICLES)
    along = coarse.coordinates[1]
    low, high = np.percentile(along[ventricle], (8, 92)) if ventricle.any() else (-30.0, 30.0)
    return np.clip(np.abs(along - (low + high) / 2) / max((high - low) / 2, 1.0) - 0.4, 0, 1)


# --- multiple sclerosis, resection cavities


def _ms(subject: Subject, disease: Disease, random: np.random.Generator, share: np.ndarray) -> Patient:
    share = share * (subject.tissue & ~subject.within(CEREBRAL_CORTEX))
    depth = depth_inside(share > 0.5, subject.spacing_mm)
    chosen = smooth_noise(share.shape, 18.0, subject.spacing_mm, random) > random.uniform(-0.5, 1.5)
    holes = _edge(depth - random.uniform(1.2, 2.2), 1.0) * share * chosen
    plaques = _tissue("plaque", share, disease, random, texture=0.06)
    return Patient(subject, (plaques, _tissue("black_hole", holes, disease, random, texture=0.05)))


def _plaques(subject: Subject, volume_ml: float, random: np.random.Generator) -> np.ndarray:
    """Ovoid plaques, most of them beside the ventricles and pointing away from them (Dawson's fingers)."""
    coarse = subject.coarse()
    distance = depth_inside(~coarse.within(LATERAL_VENTRICLES), coarse.spacing_mm)
    likely = coarse.within(CEREBRAL_WHITE) & (random.random(distance.shape) < np.exp(-distance / 9.0))
    foci = [_pointing(focus, distance) for focus in _foci(likely, volume_ml, (3.0, 14.0), random)]
    return _rippled(subject, foci, random)


def _pointing(focus: Focus, distance_mm: np.ndarray) -> Focus:
    """The focus drawn out along the gradient of a coarse distance."""
    z, y, x = (min(max(round(c), 1), n - 2) for c, n in zip(halved(focus.centre), distance_mm.shape, strict=True))
    box = distance_mm[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]
    slope = np.array([np.gradient(box, axis=axis).mean() for axis in range(3)]) + 1e-3
    axes = np.linalg.qr(np.column_stack([slope, np.eye(3)[:, np.argsort(np.abs(slope))[:2]]]))[0].T
    radius = float(np.prod(focus.radii_mm)) ** (1 / 3)
    return Focus(focus.centre, (1.5 * radius, 0.82 * radius, 0.82 * radius), axes)


def _resection(subject: Subject, disease: Disease, random: np.random.Generator) -> Patient:
    """What surgery leaves: fluid up to the brain's surface, sharply bordered, and scar around it."""
    coarse = subject.coarse()
    upper = coarse.within(CEREBRAL_CORTEX) & (coarse.coordinates[0] > -15)
    centre = _place(coarse, upper, (1.0, 8.0), random)
    hole_ml = disease.volume_ml * disease.core
    speed = _speeds(coarse, white=1.0, deep=0.6, cortex=1.0, fluid=0.9) * _roughness(coarse, 0.25, random)
    times, end = _grown(coarse, speed, centre[None], hole_ml, coarse.tissue | coarse.sulci)
    hole = _share(subject, times, end, soft=1.0) * _open_to_mass(subject)
    start, rest = times < end, coarse.tissue & (times >= end)
    speed = _speeds(coarse, white=1.0, deep=0.5, cortex=0.5, fluid=0.0) * _roughness(coarse, 0.7, random)
    speed = np.where(start, 1.0, speed)
    around, reach = _grown(coarse, speed, np.argwhere(start), disease.volume_ml - hole_ml, rest)
    scar = _share(subject, around, reach, soft=2.5) * subject.tissue
    rim = _tissue("gliosis", scar, disease, random, texture=0.08)
    return Patient(subject, (rim, _tissue("cavity", hole, disease, random, texture=0.02)))


# --- places and shapes


def _tissue(
    appearance: str, share: np.ndarray, disease: Disease, random: np.random.Generator, texture: float
) -> Tissue:
    return Tissue(appearance, share.astype(np.float32), draw_signals(appearance, disease.strength, random), texture)


def _radius_mm(volume_ml: float) -> float:
    """Of a ball."""
    return float(np.cbrt(volume_ml * 1000 * 3 / (4 * np.pi)))


def _place(
    coarse: Subject, where: np.ndarray, depth_mm: tuple[float, float], random: np.random.Generator
) -> np.ndarray:
    """A voxel of `where` at some depth below the skull, if there is one; index (3,)."""
    depth = depth_inside(~coarse.skull, coarse.spacing_mm)
    fitting = where & (depth >= depth_mm[0]) & (depth <= depth_mm[1])
    places = np.argwhere(next(mask for mask in (fitting, where, coarse.tissue) if mask.any()))
    return places[random.integers(len(places))]


def _speeds(coarse: Subject, *, white: float, deep: float, cortex: float, fluid: float) -> np.ndarray:
    """How fast a front travels; `fluid` is that of sulci, and nothing passes ventricles, the great fissure or skull."""
    speed = np.zeros(coarse.labels.shape, np.float32)
    speed[coarse.tissue] = deep
    speed[coarse.within(MERGED_WHITE_MATTER)] = white
    speed[coarse.within(MERGED_CORTEX)] = cortex
    speed[coarse.sulci] = fluid
    return speed


def _open_to_mass(subject: Subject) -> np.ndarray:
    """Where a mass can be: in brain tissue and in the sulci that it fills."""
    return subject.tissue | subject.sulci | subject.within(MERGED_VESSELS)


def _junction(coarse: Subject) -> np.ndarray:
    """White matter within 5 mm of cortex, above the tentorium and below it."""
    cortex_mm = depth_inside(~coarse.within(MERGED_CORTEX), coarse.spacing_mm)
    return coarse.within(MERGED_WHITE_MATTER) & (cortex_mm < 5.0)


def _roughness(coarse: Subject, amount: float, random: np.random.Generator) -> np.ndarray:
    """Factors on speed that vary over 8 and 20 mm, about 1."""
    shape, spacing = coarse.labels.shape, coarse.spacing_mm
    coarser, finer = (smooth_noise(shape, length, spacing, random) for length in (20.0, 8.0))
    return np.exp(amount * (coarser + 0.6 * finer))


def _ripple(subject: Subject, length_mm: float, random: np.random.Generator) -> np.ndarray:
    return smooth_noise(subject.labels.shape, length_mm, subject.spacing_mm, random)


def _rippled(subject: Subject, foci: Sequence[Focus], random: np.random.Generator) -> np.ndarray:
    """Share of each voxel that foci with uneven surfaces fill."""
    depth = depth_of_foci(subject.labels.shape, foci, subject.spacing_mm)
    return _edge(depth + 0.3 * _ripple(subject, 4.0, random), 1.1)


def _grown(
    coarse: Subject, speed: np.ndarray, seeds: np.ndarray, volume_ml: float, counted: np.ndarray
) -> tuple[np.ndarray, float]:
    """Arrival times of a front, and the time at which it has filled a volume of `counted`."""
    times = arrival_times(speed, seeds, coarse.spacing_mm)
    return times, time_of_volume(times, counted, volume_ml, coarse.spacing_mm)


def _share(subject: Subject, times: np.ndarray, end: float, soft: float) -> np.ndarray:
    """Share of each fine voxel behind the front at time `end`, with an edge of width `soft` in units of time."""
    fine = from_coarse(np.minimum(times, end + 4 * soft), subject.labels.shape)
    return np.clip((end - fine) / soft + 0.5, 0, 1)


def _edge(depth_mm: np.ndarray, soft_mm: float) -> np.ndarray:
    return np.clip(depth_mm / soft_mm + 0.5, 0, 1)


def _foci(
    where: np.ndarray, volume_ml: float, diameters_mm: tuple[float, float], random: np.random.Generator
) -> list[Focus]:
    """Ellipsoids of log-uniform diameters at places of `where` (coarse) until they have a volume."""
    places, total = np.argwhere(where), 0.0
    foci: list[Focus] = []
    low, high = diameters_mm
    while total < volume_ml and len(foci) < _MOST_FOCI and len(places):
        diameter = low * (high / low) ** (random.random() ** 1.3)
        foci.append(round_focus(doubled(places[random.integers(len(places))]), diameter, 0.25, random))
        total += np.pi / 6 * diameter**3 / 1000
    return foci


# --- real lesion masks


def _fitting_mask(subject: Subject, volume_ml: float, masks: Sequence[Volume]) -> Volume:
    """The mask whose volume, at the size of the subject's brain, is nearest to the one wanted."""
    smaller = subject.tissue.sum() * subject.spacing_mm**3 / 1000 / MNI_ML
    volumes = np.array([(mask.voxels > 0.5).sum() * mask.voxel_ml * smaller for mask in masks])
    return masks[int(np.abs(np.log((volumes + 1e-3) / volume_ml)).argmin())]


def _mni_coordinates(subject: Subject) -> np.ndarray:
    """Where in MNI space each point lies: the moments of brain tissue agree; (3, Z, Y, X), mm along (S, A, R)."""
    inside = subject.coordinates[:, subject.tissue]
    mean, spread = inside.mean(1), inside.std(1)
    scale = np.array(MNI_SPREAD_MM, np.float32) / spread
    shift = np.array(MNI_MEAN_MM, np.float32) - mean * scale
    return subject.coordinates * scale[:, None, None, None] + shift[:, None, None, None]


def _smooth_sample(mask: Volume, points_mm: np.ndarray) -> np.ndarray:
    """A mask with axes R, A, S at points (3, Z, Y, X) in mm along (S, A, R); linear."""
    to_index = np.linalg.inv(mask.affine)
    scale, start = np.diag(to_index)[:3], to_index[:3, 3]
    sizes = np.array(mask.shape)
    grid = np.stack([2 * (points_mm[2 - a] * scale[a] + start[a]) / (sizes[a] - 1) - 1 for a in range(3)], -1)
    volume = torch.from_numpy(np.ascontiguousarray((mask.voxels > 0.5).T.astype(np.float32)))[None, None]
    sampled = F.grid_sample(volume, torch.from_numpy(grid.astype(np.float32))[None], align_corners=True)[0, 0]
    return np.clip((sampled.numpy() - 0.5) * 1.5 + 0.5, 0, 1)


_GROWN: dict[str, Callable[[Subject, Disease, np.random.Generator], Patient]] = {
    "glioma": _glioma,
    "metastases": _metastases,
    "leukoaraiosis": _leukoaraiosis,
    "haemorrhage": _haemorrhage,
    "resection": _resection,
}

_Grow = Callable[[Subject, float, np.random.Generator], np.ndarray]
_Make = Callable[[Subject, Disease, np.random.Generator, np.ndarray], Patient]

_SHAPED: dict[str, tuple[_Grow, _Make]] = {"infarct": (_territory, _infarct), "ms": (_plaques, _ms)}
"""Kinds that real masks may give their shape: how it is grown without any, and what is made of it."""
