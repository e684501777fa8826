"""What a folder of healthy scans holds, and what should be looked at before a model learns from it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import HealthyFindings
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import short_name
from DISYRECore.io.volume import crop_box
from DISYRECore.preprocessing.contrast import SURE
from DISYRECore.training.patients import ScanFile, find_patients
from DISYRECore.training.prepared import Cache, PreparedScan, Report, silent
from DISYRECore.training.slices import sources

POINTS = 24
"""Of each axis of the brains that are compared."""

ALIKE = 0.96
"""Correlation of two brains from which they are taken for one. Measured on T1 of 12 people (IXI): .91 at most between
two; .98 at least between a scan and the same on another grid or with noise. A head that was turned is not noticed."""

CUT_MM2 = 2000.0
"""Of the brain on the first or last slice from which the scan is taken to end within it."""

FEW_PATIENTS = 10
UNUSUAL_SHARE, TRIALS = 0.05, 20_000
"""Of healthy scans above the limit of the total evidence; drawn to find it."""


@dataclass(frozen=True)
class ScanCheck:
    """One scan.

    Attributes:
        path: Relative to the folder.
        patient: As `patients.find_patients` tells them apart.
        problem: Why it cannot be used, a sentence; then most of the rest is empty.
        contrast, probability, contrast_by: What it is, how likely, and by what.
        spacing_mm, shape: Of its voxels.
        brain_ml, brain_mask: Volume of the brain in mL, and how it was found.
        coverage: ``whole``, or ``cut`` where the scan ends within the brain.
        doubts: Sentences about what should be looked at.
        same_as: Path of a scan with the same voxels.
        similar_to, similarity: Path of the scan whose brain is most like it, where that is suspicious, and how alike.
        evidence, limit: Total evidence of anomalies, and the most that 95 of 100 healthy scans have; None where not
            looked at or not known.
        picture: File with three planes of what was prepared; empty where it is not kept.
    """

    path: str
    patient: str
    problem: str = ""
    contrast: str = ""
    probability: float | None = None
    contrast_by: str = ""
    spacing_mm: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()
    brain_ml: float | None = None
    brain_mask: str = ""
    coverage: str = ""
    doubts: tuple[str, ...] = ()
    same_as: str = ""
    similar_to: str = ""
    similarity: float | None = None
    evidence: float | None = None
    limit: float | None = None
    picture: str = ""

    @property
    def is_unusual(self) -> bool:
        """Whether it looks anomalous to the model."""
        return self.evidence is not None and self.limit is not None and self.evidence > self.limit


@dataclass(frozen=True)
class DatasetCheck:
    """A folder of scans.

    Attributes:
        scans: In the order of their paths.
        problems: Why nothing can be learnt from the folder as it is, sentences.
        advice: What should be looked at first, sentences.
    """

    scans: tuple[ScanCheck, ...]
    problems: tuple[str, ...] = field(default=())
    advice: tuple[str, ...] = field(default=())

    @property
    def usable(self) -> tuple[ScanCheck, ...]:
        """Scans that can be learnt from."""
        return tuple(scan for scan in self.scans if not scan.problem)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, see `docs/file-formats.md`."""
        scans = [{**asdict(scan), "unusual": scan.is_unusual} for scan in self.scans]
        patients = len({scan.patient for scan in self.usable})
        counts = {"scans": len(self.scans), "usable": len(self.usable), "patients": patients}
        return {**counts, "problems": self.problems, "advice": self.advice, "files": scans}


def check_dataset(
    folder: Path, cache: Cache, detector: Detector | None = None, exclude: Sequence[str] = (), report: Report = silent
) -> DatasetCheck:
    """Finds and prepares the scans of a folder, and looks at each and at all.

    Args:
        folder: As for training, see `slices`.
        cache: Prepared scans stay there; a training run with the same cache need not make them again.
        detector: Of the present model, where scans that look anomalous to it are to be found; seconds a scan.
        exclude: Patterns of scans that are left out.
        report: Told how far the preparation is.

    Raises:
        DisyreError: There is no scan in the folder, or the cache cannot be written.
    """
    files = find_patients(folder, exclude)
    made, problems = cache.get_all(sources(folder, [one.path for one in files], "synthetic"), report, needed=0)
    prepared = {one.scan: one for one in made}
    named = {one.path: one.path.relative_to(folder).as_posix() for one in files}
    repeats = find_repeats(made)
    checks = [
        _with_repeat(_check_scan(file, named[file.path], prepared.get(file.path), problems), repeats, named, file.path)
        for file in files
    ]
    if detector is not None:
        checks = [one if one.problem else _with_evidence(one, folder, detector) for one in checks]
    return DatasetCheck(tuple(checks), _problems(checks), _advice(checks))


def _check_scan(file: ScanFile, name: str, made: PreparedScan | None, problems: dict[Path, str]) -> ScanCheck:
    if made is None:
        return ScanCheck(name, file.patient, problem=problems[file.path])
    record = made.record
    ends_mm2 = max(made.inside[0], made.inside[-1]) * record["model_spacing_mm"][0] ** 2
    return ScanCheck(
        path=name,
        patient=file.patient,
        contrast=record["contrast"],
        probability=record.get("contrast_probability"),
        contrast_by=record.get("contrast_by", ""),
        spacing_mm=tuple(record["spacing_mm"]),
        shape=tuple(record["shape"]),
        brain_ml=record["brain_volume_ml"],
        brain_mask=record["brain_mask"],
        coverage="cut" if ends_mm2 > CUT_MM2 else "whole",
        doubts=tuple(record["flags"]),
        picture=str(made.picture),
    )


# Duplicates


@dataclass(frozen=True)
class Repeat:
    """A scan that is like an earlier one.

    Attributes:
        other: The earlier one.
        similarity: Correlation of their brains; 1 for the same voxels.
    """

    other: Path
    similarity: float


def find_repeats(scans: Sequence[PreparedScan]) -> dict[Path, Repeat]:
    """For each scan the earlier one that it is the same as, or most like, from `ALIKE` on."""
    shapes = [(scan, *_small_brain(scan)) for scan in scans]
    found = dict[Path, Repeat]()
    for (one, *before), (other, *after) in itertools.combinations(shapes, 2):
        if one.contrast != other.contrast:
            continue
        similarity = 1.0 if one.content == other.content else min(_correlation(*before, *after), 0.9999)
        if similarity >= max(ALIKE, found[other.scan].similarity if other.scan in found else 0):
            found[other.scan] = Repeat(one.scan, similarity)
    return found


def _small_brain(scan: PreparedScan) -> tuple[np.ndarray, np.ndarray]:
    """The brain in its box at few points a side, and which of them are brain."""
    mask = scan.open("mask")
    box = crop_box(np.asarray(mask), margin=0)
    image = np.where(mask[box], scan.open("image")[box], 0).astype(np.float32)
    parts = (torch.from_numpy(part)[None, None] for part in (image, np.array(mask[box], np.float32)))
    small, inside = (F.adaptive_avg_pool3d(part, POINTS)[0, 0].numpy() for part in parts)
    return small, inside > 0.5


def _correlation(one: np.ndarray, inside: np.ndarray, other: np.ndarray, others_inside: np.ndarray) -> float:
    both = inside & others_inside
    return float(np.corrcoef(one[both], other[both])[0, 1]) if both.sum() > 1 else 0.0


def _with_repeat(check: ScanCheck, repeats: dict[Path, Repeat], named: dict[Path, str], path: Path) -> ScanCheck:
    repeat = repeats.get(path)
    if repeat is None:
        return check
    if repeat.similarity == 1:
        return replace(check, same_as=named[repeat.other])
    return replace(check, similar_to=named[repeat.other], similarity=round(repeat.similarity, 3))


# Scans that look anomalous


def _with_evidence(check: ScanCheck, folder: Path, detector: Detector) -> ScanCheck:
    """With the total evidence of the findings that a healthy scan has no more than one of, on average."""
    try:
        found = detector.detect(folder / check.path, false_findings=1.0)
    except DisyreError as error:
        return replace(check, doubts=(*check.doubts, str(error)))
    healthy = detector.healthy(found.record["scan"].get("read_as", check.contrast))
    if healthy is None:
        return check
    total = sum(finding.evidence or 0.0 for finding in found.findings)
    return replace(check, evidence=round(total, 2), limit=round(evidence_limit(healthy), 2))


def evidence_limit(healthy: HealthyFindings) -> float:
    """Total evidence that 95 of 100 healthy scans stay below.

    Drawn from the findings of the healthy scans as if each came about by itself: as many of the strongest as there were
    scans, one a scan on average. Findings of one scan go together a little, so somewhat more than 5 of 100 are above.
    """
    strongest = np.array(healthy.evidence[: healthy.scans])
    if not len(strongest):
        return 0.0
    random = np.random.default_rng(0)
    counts = random.poisson(len(strongest) / healthy.scans, TRIALS)
    drawn = random.choice(strongest, counts.sum())
    totals = np.bincount(np.repeat(np.arange(TRIALS), counts), drawn, TRIALS)
    return float(np.quantile(totals, 1 - UNUSUAL_SHARE))


# Sentences


def _problems(checks: Sequence[ScanCheck]) -> tuple[str, ...]:
    usable = [check for check in checks if not check.problem]
    patients = {check.patient for check in usable}
    if not usable:
        return ("No scan can be used; see what is said of each.",)
    if len(patients) < 2:
        return ("All scans are of one patient; give healthy scans of two patients or more.",)
    return tuple(
        f"{check.path} and {check.same_as} are the same scan; leave one of them out."
        for check in usable
        if check.same_as and check.patient != _patient_of(check.same_as, checks)
    )


def _patient_of(path: str, checks: Sequence[ScanCheck]) -> str:
    return next(check.patient for check in checks if check.path == path)


def _advice(checks: Sequence[ScanCheck]) -> tuple[str, ...]:
    usable = [check for check in checks if not check.problem]
    patients = len({check.patient for check in usable})
    contrasts = sorted({check.contrast for check in usable})
    unsure = sum(check.probability is not None and check.probability < SURE for check in usable)
    told = (
        (len(checks) - len(usable), "Scans that cannot be used and are left out: {}."),
        (
            patients if 1 < patients < FEW_PATIENTS else 0,
            "There are {} patients; ten or more give a better model.",
        ),
        (
            len(contrasts) if len(contrasts) > 1 else 0,
            f"The contrasts are mixed ({', '.join(contrasts)}); those that the config does not name are left out.",
        ),
        (unsure, "Scans whose contrast is not sure: {}; say it in their file names."),
        (sum(check.coverage == "cut" for check in usable), "Scans that end within the brain: {}."),
        (sum(bool(check.doubts) for check in usable), "Scans with doubts: {}; look at their pictures."),
        (sum(bool(check.similar_to) for check in usable), "Scans so like another that they may be of one person: {}."),
        (
            sum(check.is_unusual for check in usable),
            "Scans that look anomalous to the model: {}; leave out those of patients.",
        ),
    )
    return tuple(sentence.format(count) for count, sentence in told if count)


COLUMNS = ("scan", "patient", "contrast", "spacing mm", "brain", "to look at")


def to_table(check: DatasetCheck) -> str:
    """The check for people: a line a scan, then problems and advice."""
    rows = [COLUMNS, *(_row(scan) for scan in check.scans)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    lines = ["  ".join([*(cell.ljust(n) for cell, n in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    patients = len({scan.patient for scan in check.usable})
    summary = f"{len(check.usable)} of {len(check.scans)} scans can be used, of {patients} patients."
    return "\n".join([*(line.rstrip() for line in lines), "", summary, *check.problems, *check.advice])


def _row(scan: ScanCheck) -> tuple[str, ...]:
    if scan.problem:
        return scan.path, scan.patient, "", "", "", scan.problem
    sure = "" if scan.probability is None else f" ({scan.probability:.2f})"
    spacing = " x ".join(f"{value:.3g}" for value in scan.spacing_mm)
    notes = [
        f"The same scan as {scan.same_as}." if scan.same_as else "",
        f"Very like {short_name(scan.similar_to)} ({scan.similarity})." if scan.similar_to else "",
        f"Looks anomalous (evidence {scan.evidence}, limit {scan.limit})." if scan.is_unusual else "",
        "The scan ends within the brain." if scan.coverage == "cut" else "",
        *scan.doubts,
    ]
    brain = f"{scan.brain_ml:.0f} mL, {scan.brain_mask}"
    return scan.path, scan.patient, f"{scan.contrast}{sure}", spacing, brain, " ".join(filter(None, notes))
