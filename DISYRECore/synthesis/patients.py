"""Synthetic patients: one anatomy with one disease, scanned in T1, T2 and FLAIR.

The second family of test sets beside `test_set`: masses that displace the brain, infarcts and plaques of real shapes,
disease of ageing white matter, haemorrhages and resection cavities, scanned with slices of 1 to 8 mm, raw or stripped.
`draw_patient` draws everything random from a seed, `render_patient` applies it; the same parameters give the same
patient.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable, write_text
from DISYRECore.io.grid import middle
from DISYRECore.io.labels import CEREBRAL_CORTEX, CEREBRAL_WHITE, FIRST_HEAD_LABEL, MERGED_FLUID
from DISYRECore.io.read import read_volume
from DISYRECore.io.volume import Volume, to_canonical
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import AnatomyBank, load_anatomies
from DISYRECore.synthesis.growth import Subject, healthy_subject, smooth_noise
from DISYRECore.synthesis.images import Lattice, ScanParameters, draw_scan, rotation
from DISYRECore.synthesis.pathology import KINDS, VARIANTS, Disease, Patient, Signal, Tissue, make_patient

CONTRASTS = ("T1", "T2", "FLAIR")
MEDIAN = 300.0
"""Of the brain in the files, before the bias field."""

LATTICE_MM = 1.0
_BRAIN_MM, _HEAD_MM = (176, 216, 176), (240, 248, 224)
_PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Axes of the file, of (R, A, S); slices lie along the last."""

_MASK_FOLDERS = {"infarct": "lesion_masks_stroke*", "ms": "lesion_masks_ms*"}
_CANDIDATES = 8
_WIDENED = 2
"""Further anatomies made of each label map."""

_FLUID_RANKS = {"leukoaraiosis": (0.6, 1.0), "infarct": (0.2, 0.9), "haemorrhage": (0.2, 0.9)}
_YOUNG = (0.0, 0.65)
"""Ranks by width of the fluid spaces from which the anatomy of a kind is taken; the latter for kinds not named."""

_VOLUME_ML = {
    "glioma": (55.0, 0.85, 5.0, 250.0),
    "metastases": (60.0, 0.5, 5.0, 120.0),
    "infarct": (35.0, 1.1, 2.0, 250.0),
    "ms": (14.0, 0.7, 2.0, 60.0),
    "leukoaraiosis": (14.0, 0.8, 2.0, 80.0),
    "haemorrhage": (35.0, 0.7, 4.0, 150.0),
    "resection": (35.0, 0.6, 8.0, 120.0),
}
"""Median, standard deviation of the logarithm, least, most."""

_CORE = {"glioma": (0.2, 0.6), "haemorrhage": (0.45, 0.85), "resection": (0.5, 0.85)}
_PUSH = {"glioma": (0.35, 0.9), "metastases": (0.5, 0.9), "haemorrhage": (0.5, 0.9)}
_FAINTEST = 0.1

Motion = tuple[float, float, float, float, float, float]
"""Three angles in degrees and three lengths in mm (R, A, S)."""

_STILL: Motion = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Acquisition:
    """How one contrast of a patient is scanned.

    Attributes:
        plane: Of the slices, key of `_PLANES`.
        thickness_mm: Of a slice, 1 to 8.
        gap_mm: Between slices.
        in_plane_mm: Size of a pixel.
        blur_mm: Standard deviation of the point spread on top of the voxel itself.
        noise: Standard deviation of the noise as a share of the median of the brain.
        flatness: Share of the contrast between grey and white matter that is lost on T1: spin echo has less of it than
            an inversion recovery.
        bias: Strength of the bias field, standard deviation of its logarithm at its nodes.
        moved: By how much the head has moved since the first contrast.
        seed: Of intensities, noise and bias.
    """

    plane: str
    thickness_mm: float
    gap_mm: float
    in_plane_mm: float
    blur_mm: float
    noise: float
    flatness: float
    bias: float
    moved: Motion
    seed: int


@dataclass(frozen=True)
class PatientParameters:
    """All that is random about a patient.

    Attributes:
        disease: What it has.
        anatomy: Rank of the anatomy by the width of its fluid spaces, as a share of the bank in [0, 1).
        geometry_seed: Of rotation, size and warp.
        head: Whether the whole head is drawn.
        one_grid: Whether all contrasts lie on one grid and the head has not moved.
        scans: An acquisition for each contrast.
    """

    disease: Disease
    anatomy: float
    geometry_seed: int
    head: bool
    one_grid: bool
    scans: dict[str, Acquisition]


@dataclass(frozen=True, eq=False)
class PatientScan:
    """One contrast of a patient; all volumes lie on one grid.

    Attributes:
        image: int16, 0 outside the brain where it is stripped.
        truth: uint8 mask of everything abnormal, within the brain.
        brain: uint8 brain mask.
    """

    image: Volume
    truth: Volume
    brain: Volume


@dataclass(frozen=True, eq=False)
class RenderedPatient:
    """A patient in several contrasts.

    Attributes:
        scans: By contrast.
        lesion_ml: Volume of everything abnormal, on the lattice.
        displacement_mm: The largest displacement of tissue.
        anatomy: Index in the bank.
        source: Name of the mask that gave the shape, if any.
    """

    scans: dict[str, PatientScan]
    lesion_ml: float
    displacement_mm: float
    anatomy: int
    source: str


# --- drawing


def draw_patient(seed: int, kind: str, head: bool = False) -> PatientParameters:
    """Draws a patient.

    Args:
        seed: Everything random follows from it.
        kind: One of `pathology.KINDS`.
        head: Whether the whole head is drawn.
    """
    random = np.random.default_rng(seed)
    disease = _draw_disease(kind, random)
    low, high = _FLUID_RANKS.get(kind, _YOUNG)
    one_grid = bool(random.random() < 0.6)
    return PatientParameters(
        disease=disease,
        anatomy=float(random.uniform(low, high)),
        geometry_seed=_draw_seed(random),
        head=head,
        one_grid=one_grid,
        scans=_draw_scans(one_grid, random),
    )


def _draw_disease(kind: str, random: np.random.Generator) -> Disease:
    variant = str(random.choice(VARIANTS.get(kind, ("",))))
    median, spread, least, most = _VOLUME_ML[kind]
    core = random.uniform(*_CORE.get(kind, (1.0, 1.0)))
    push = random.uniform(*_PUSH.get(kind, (0.0, 0.0)))
    if variant == "low_grade":
        core, push = float(random.choice([1.0, random.uniform(0.7, 0.95)])), 0.5 * push
    return Disease(
        kind=kind,
        variant=variant,
        volume_ml=float(np.clip(median * np.exp(spread * random.standard_normal()), least, most)),
        core=float(core),
        push=float(push),
        strength=max(_FAINTEST, float(random.beta(1.6, 1.6))),
        seed=_draw_seed(random),
    )


def _draw_scans(one_grid: bool, random: np.random.Generator) -> dict[str, Acquisition]:
    first, *others = (_draw_acquisition(random) for _ in CONTRASTS)
    if one_grid:
        others = [replace(first, noise=one.noise, bias=one.bias, seed=one.seed) for one in others]
    else:
        others = [replace(one, moved=_draw_motion(random)) for one in others]
    return dict(zip(CONTRASTS, [first, *others], strict=True))


def _draw_motion(random: np.random.Generator) -> Motion:
    a, b, c, x, y, z = (float(limit * random.uniform(-1, 1)) for limit in (3, 3, 3, 5, 5, 5))
    return a, b, c, x, y, z


def _draw_acquisition(random: np.random.Generator) -> Acquisition:
    thick = random.random() < 0.65
    thickness = float(random.uniform(1.5, 8.0)) if thick else 1.0
    return Acquisition(
        plane=str(random.choice(list(_PLANES), p=(0.86, 0.07, 0.07))) if thick else "axial",
        thickness_mm=thickness,
        gap_mm=float(random.choice([0.0, 0.1, 0.2])) * thickness if thickness > 3 else 0.0,
        in_plane_mm=float(random.uniform(0.85, 1.05)) if thick else 1.0,
        blur_mm=float(random.uniform(0.3, 0.7)),
        noise=float(random.uniform(0.01, 0.05)),
        flatness=float(random.uniform(0.0, 0.7)) if thick else 0.0,
        bias=float(random.uniform(0.02, 0.16)),
        moved=_STILL,
        seed=_draw_seed(random),
    )


def _draw_seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))


# --- rendering


def render_patient(
    bank: AnatomyBank,
    parameters: PatientParameters,
    contrasts: Sequence[str] = CONTRASTS,
    masks: Sequence[Volume] = (),
    lattice_mm: float = LATTICE_MM,
) -> RenderedPatient:
    """Scans a patient in some contrasts.

    Args:
        bank: Anatomies; loaded with room for the head where it is wanted, see `load_patient_anatomies`.
        parameters: From `draw_patient`.
        contrasts: Of `CONTRASTS`.
        masks: Lesion masks in MNI space, see `make_patient`.
        lattice_mm: Spacing on which the patient is made before it is scanned.
    """
    geometry = draw_geometry(bank, parameters)
    subject = healthy_subject(bank, geometry, _lattice(_BRAIN_MM, lattice_mm))
    patient = make_patient(subject, parameters.disease, masks)
    if parameters.head:
        patient = patient.within(healthy_subject(bank, geometry, _lattice(_HEAD_MM, lattice_mm)))
    brain = brain_mask(patient.subject, float(geometry.rim[0]))
    truth = patient.anomalous() * brain
    scans = {name: _scan(patient, parameters, name, brain, truth) for name in contrasts}
    lesion_ml = float((truth > 0.5).sum()) * lattice_mm**3 / 1000
    return RenderedPatient(scans, lesion_ml, patient.displacement_mm, int(geometry.anatomy[0]), patient.source)


def load_patient_anatomies(labelmaps: Sequence[Path], head: bool) -> AnatomyBank:
    """The anatomies, each as it is and with two other widths of sulci and ventricles."""
    return load_anatomies(list(labelmaps), _HEAD_MM if head else _BRAIN_MM, variants=_WIDENED)


def _lattice(extent_mm: tuple[int, int, int], spacing_mm: float) -> Lattice:
    z, y, x = (8 * round(mm / spacing_mm / 8) for mm in extent_mm)
    return Lattice((z, y, x), spacing_mm)


def draw_geometry(bank: AnatomyBank, parameters: PatientParameters) -> ScanParameters:
    """Which anatomy, how it is turned (7 degrees at most) and scaled (.93 to 1.08 an axis) and warped; batch of one."""
    drawn = draw_scan(bank, 1, parameters.geometry_seed, reach_mm=(0.0, 0.0))
    g = torch.Generator().manual_seed(parameters.geometry_seed)
    turn = rotation((torch.rand((1, 3), generator=g) - 0.5) * 0.24)
    scale = 0.93 + 0.15 * torch.rand((1, 3), generator=g)
    is_fluid = torch.tensor([value in MERGED_FLUID for value in bank.label_values])
    fluid = is_fluid[bank.brain_samples.long()].float().mean(1)
    chosen = fluid.argsort(stable=True)[int(parameters.anatomy * len(bank))]
    return replace(drawn, anatomy=chosen[None], affine=turn @ torch.diag_embed(scale))


def brain_mask(subject: Subject, rim_mm: float) -> np.ndarray:
    """Brain tissue and the fluid within a rim, as skull stripping leaves it; (Z, Y, X) bool."""
    skull_side = subject.skull & (subject.outside_mm > 1.5)
    return (subject.outside_mm <= rim_mm) & ~skull_side


def _scan(
    patient: Patient, parameters: PatientParameters, contrast: str, brain: np.ndarray, truth: np.ndarray
) -> PatientScan:
    acquisition = parameters.scans[contrast]
    random = np.random.default_rng([acquisition.seed, 2])
    ideal = ideal_image(patient, contrast, acquisition, random)
    median = float(np.median(ideal[brain]))
    fields = (ideal if parameters.head else ideal * brain) / median, brain, truth
    (image, affine), *masks = (acquire(field, patient.subject.spacing_mm, acquisition) for field in fields)
    within, lesion = (mask > 0.5 for mask, _ in masks)
    image = _disturbed(image, acquisition, random)
    if not parameters.head:
        image = image * within
    voxels = np.clip(np.rint(MEDIAN * image), 0, 32767).astype(np.int16)
    truth, inside = (mask.astype(np.uint8) for mask in (within & lesion, within))
    return PatientScan(Volume(voxels, affine), Volume(truth, affine), Volume(inside, affine))


def ideal_image(patient: Patient, contrast: str, acquisition: Acquisition, random: np.random.Generator) -> np.ndarray:
    """The patient in one contrast without noise and bias, (Z, Y, X) float32, arbitrary units from 0 on.

    Args:
        patient: What to draw.
        contrast: One of `CONTRASTS`.
        acquisition: Its seed fixes the intensities of healthy tissue.
        random: Of texture.
    """
    subject = patient.subject
    looks = draw_scan(subject.bank, 1, acquisition.seed, contrasts=(contrast,))
    means, spreads = (
        dict(zip(subject.bank.label_values, table[0].tolist(), strict=True)) for table in (looks.means, looks.spreads)
    )
    if contrast == "T1":
        means = _flattened(means, acquisition.flatness)
    fine = random.standard_normal(subject.labels.shape, dtype=np.float32)
    middling, finer, broader = (
        smooth_noise(subject.labels.shape, mm, subject.spacing_mm, random) for mm in (8.0, 3.5, 16.0)
    )
    variation = float(looks.texture[0]) * middling + 2 * _per_label(subject, spreads) * fine
    image = _per_label(subject, means) * (1 + variation)
    texture = 0.5 * finer + 0.5 * middling + 0.9 * broader
    for tissue in patient.tissues:
        _paint(image, tissue, _level(tissue.signals[contrast], means, contrast), texture)
    return np.maximum(image, 0)


def _flattened(means: dict[int, float], flatness: float) -> dict[int, float]:
    """Brain tissue drawn towards the middle between cortex and white matter."""
    between = (means[CEREBRAL_CORTEX[0]] + means[CEREBRAL_WHITE[0]]) / 2
    tissue = [label for label in means if 0 < label < FIRST_HEAD_LABEL and label not in MERGED_FLUID]
    return means | {label: means[label] + flatness * (between - means[label]) for label in tissue}


def _per_label(subject: Subject, values: dict[int, float]) -> np.ndarray:
    table = np.zeros(max(values) + 1, np.float32)
    for label, value in values.items():
        table[label] = value
    return table[subject.labels]


def _level(signal: Signal, means: dict[int, float], contrast: str) -> float:
    """The mean of a tissue in one scan, in the units of the means of healthy tissue."""
    grey, white = means[CEREBRAL_CORTEX[0]], means[CEREBRAL_WHITE[0]]
    csf = float(np.mean([means[label] for label in MERGED_FLUID if label in means]))
    solid = grey + signal.step * max(grey, white)
    solid = min(max(solid, 0.3 * white), csf) if contrast == "T2" else max(solid, csf)
    return solid + (csf - solid) * signal.fluid


def _paint(image: np.ndarray, tissue: Tissue, level: float, texture: np.ndarray) -> None:
    """Mixes one tissue into an image, in place."""
    where = np.nonzero(tissue.share)
    image[where] += tissue.share[where] * (level * (1 + tissue.texture * texture[where]) - image[where])


# --- scanning


def slice_profiles(
    count: int, step_mm: float, points: int, spacing_mm: float, width_mm: float, blur_mm: float
) -> np.ndarray:
    """How much each lattice point counts in each voxel along one axis; (count, points) float32, rows sum to 1.

    The voxels lie about the middle of the lattice; their profile is a box of width `width_mm` blurred by a Gaussian of
    standard deviation `blur_mm`.

    Args:
        count: Number of voxels.
        step_mm: Distance of voxel centres.
        points: Number of lattice points.
        spacing_mm: Distance of lattice points.
        width_mm: Of a voxel, less than `step_mm` where there is a gap.
        blur_mm: Above 0.
    """
    voxels = (np.arange(count) - (count - 1) / 2) * step_mm
    lattice = (np.arange(points) - (points - 1) / 2) * spacing_mm
    away = lattice[None] - voxels[:, None]
    weights = special.ndtr((away + width_mm / 2) / blur_mm) - special.ndtr((away - width_mm / 2) / blur_mm)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def acquire(field: np.ndarray, spacing_mm: float, acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    """Scans a field on the lattice, (Z, Y, X).

    Returns:
        The scan with its axes in the order of the plane, float32, and its affine to RAS mm; the lattice is centred on
        the origin of the world before the head moves.
    """
    order = _PLANES[acquisition.plane]
    thick_axis = order[2]
    scanned, steps = field.T.astype(np.float32), [acquisition.in_plane_mm] * 3
    steps[thick_axis] = acquisition.thickness_mm + acquisition.gap_mm
    for axis in (thick_axis, *order[:2]):
        width = acquisition.thickness_mm if axis == thick_axis else acquisition.in_plane_mm
        points = scanned.shape[axis]
        count = max(3, int(points * spacing_mm / steps[axis]))
        profiles = slice_profiles(count, steps[axis], points, spacing_mm, width, acquisition.blur_mm)
        scanned = np.moveaxis(np.tensordot(profiles, scanned, (1, axis)), 0, axis)
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -middle(scanned.shape) * steps
    voxels = np.ascontiguousarray(scanned.transpose(order))
    return voxels, _matrix(acquisition.moved) @ affine[:, [*order, 3]]


def _matrix(motion: Motion) -> np.ndarray:
    """(4, 4) rigid motion of the world."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(torch.tensor([motion[:3]]).deg2rad())[0].numpy()
    matrix[:3, 3] = motion[3:]
    return matrix


def _disturbed(image: np.ndarray, acquisition: Acquisition, random: np.random.Generator) -> np.ndarray:
    """With a bias field and the noise of a magnitude image (Gudbjartsson & Patz, MRM 1995)."""
    nodes = torch.from_numpy(acquisition.bias * random.standard_normal((1, 1, 4, 4, 4), dtype=np.float32))
    field = F.interpolate(nodes, size=image.shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    real, imaginary = acquisition.noise * random.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image * np.exp(field) + real, imaginary)


# --- real lesion masks


def find_lesion_masks(folder: Path, kind: str) -> list[Path]:
    """Real lesion masks for patients of a kind; none for kinds whose shapes are always grown.

    Only masks with an even number in their name are taken: the others may be learnt from.

    Args:
        folder: Holds the folders of masks in MNI space, ``lesion_masks_stroke*`` and ``lesion_masks_ms*``.
        kind: One of `pathology.KINDS`.

    Raises:
        DisyreError: The folder holds no masks for this kind.
    """
    if kind not in _MASK_FOLDERS:
        return []
    pattern = f"{_MASK_FOLDERS[kind]}/*.nii*"
    paths = [path for path in sorted(folder.glob(pattern)) if _number(path) % 2 == 0]
    if not paths:
        raise DisyreError(f"{folder} holds no lesion masks for '{kind}' ({pattern}); give another folder.")
    return paths


def _number(path: Path) -> int:
    """The digits in a file's name; 1 when there are none."""
    return int("".join(c for c in path.name.partition(".")[0] if c.isdigit()) or 1)


def _some_masks(paths: Sequence[Path], seed: int) -> list[Volume]:
    """A few of the masks, axes R, A, S."""
    order = np.random.default_rng([seed, 3]).permutation(len(paths))[:_CANDIDATES]
    return [replace(to_canonical(read_volume(paths[i])), source=paths[i].name) for i in order]


# --- writing


def write_patients(
    folder: Path,
    labelmaps: Sequence[Path],
    count: int,
    seed: int,
    kinds: Sequence[str] = KINDS,
    lesion_masks: Path | None = None,
    head: bool = False,
) -> None:
    """Writes patients that run through the kinds as folders ``sub-001``, and an index ``dataset.json``.

    A folder holds ``T1``, ``T2``, ``FLAIR``, ``mask`` (everything abnormal), ``brain_mask`` (all .nii.gz) and
    ``patient.json``, which says how the patient was drawn. The masks lie on the grid of the FLAIR; a contrast on a grid
    of its own has ``mask_T1`` and ``brain_mask_T1`` (or T2) beside them.

    Raises:
        DisyreError: Unknown kind, no label maps, no masks in the folder given, or an output that cannot be written.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise DisyreError(f"'{unknown[0]}' is not known; choose from {', '.join(KINDS)}.")
    masks = {kind: find_lesion_masks(lesion_masks, kind) if lesion_masks else [] for kind in kinds}
    bank = load_patient_anatomies(labelmaps, head)
    check_writable(folder)
    cases = []
    for index in range(count):
        parameters = draw_patient(seed * 100_003 + index, kinds[index % len(kinds)], head)
        shapes = _some_masks(masks[parameters.disease.kind], parameters.disease.seed)
        rendered = render_patient(bank, parameters, masks=shapes)
        labelmap = labelmaps[_labelmap_of(rendered.anatomy, len(labelmaps))]
        cases += _write_patient(folder / f"sub-{index + 1:03d}", parameters, rendered, labelmap.name)
    _write_json(folder / "dataset.json", {"seed": seed, "labelmaps": [p.name for p in labelmaps], "cases": cases})


def _write_patient(
    place: Path, parameters: PatientParameters, rendered: RenderedPatient, labelmap: str
) -> list[dict[str, str]]:
    """Writes the files of a patient; returns its entries in the index, which name the images."""
    check_writable(place)
    cases = []
    for contrast, scan in rendered.scans.items():
        own = "" if parameters.one_grid or contrast == "FLAIR" else f"_{contrast}"
        files = {"scan": contrast, "truth": f"mask{own}", "brain_mask": f"brain_mask{own}"}
        for name, volume in zip(files.values(), (scan.image, scan.truth, scan.brain), strict=True):
            write_volume(volume, place / f"{name}.nii.gz")
        case = {"name": f"{place.name}_{contrast}", "subject": place.name, "contrast": contrast}
        case["kind"] = parameters.disease.kind
        cases.append(case | {part: f"{place.name}/{name}" for part, name in files.items()})
    facts = {
        "labelmap": labelmap,
        "lesion_mask": rendered.source,
        "lesion_ml": round(rendered.lesion_ml, 2),
        "largest_displacement_mm": round(rendered.displacement_mm, 1),
    }
    _write_json(place / "patient.json", facts | asdict(parameters))
    return cases


def _labelmap_of(anatomy: int, labelmaps: int) -> int:
    """Which label map an anatomy of the bank comes from: the bank holds the maps, then the widened ones of each."""
    return anatomy if anatomy < labelmaps else (anatomy - labelmaps) // _WIDENED


def _write_json(path: Path, content: dict[str, object]) -> None:
    write_text(json.dumps(content, indent=2) + "\n", path)
