"""The scans of one patient together: each contrast restored on its own grid, their log odds fused on that of the
first.

One contrast leads, the others support it where they see something large:

    l(v) = l_lead(v) + sum_c max(mean of l_c over a neighbourhood of 8 mm, 0)

over those that have a finding of their own which hardly any healthy scan has: a contrast that sees nothing, or errs in
small things, does not drown one that sees. Log odds are 0 at the
border of findings of each contrast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from DISYRECore.detection.detector import Clock, Detection, Detector, Prepared, Reading, restored_scan, sigmoid
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings
from DISYRECore.detection.findings import Finding, component_evidence
from DISYRECore.detection.runner import Progress, silent
from DISYRECore.errors import DisyreError
from DISYRECore.io.grid import Grid
from DISYRECore.io.volume import Volume
from DISYRECore.methods.base.score import log_odds
from DISYRECore.preprocessing.prepare import LOWEST_ODDS, within_brain
from DISYRECore.preprocessing.registration import Registration, register

LEAST_AGREEMENT = 0.58
"""Agreement of edges, see `registration`, below which two scans are taken for those of different patients: half way
between pairs of one patient (.70 to .85 on those tried) and of two (.41 to .48)."""

LEAST_COVER = 0.7
"""Share of the reference brain that a scan covers without being named for it."""

LEADING = ("FLAIR", "T2", "T1", "T1C")
"""Which contrast leads a study: the first of these that it has."""

RARE = 0.05
"""A contrast supports another only if it has a finding of its own so rare in healthy scans."""

SUPPORT_MM, LEAST_ODDS = 8.0, -4.0
"""Width of the neighbourhood over which a contrast supports another, and the least that a voxel counts in its mean."""

SHOWN = 0.25
"""A contrast shows a finding if so much of it lies above the border of that contrast."""


@dataclass(frozen=True, eq=False)
class StudyScan:
    """A scan of a study, placed on the grid of the reference.

    Attributes:
        name: Of its file.
        reading: The scan, restored.
        registration: To the reference.
        odds: Log odds (X, Y, Z) on the reference grid, `LOWEST_ODDS` where it has no brain.
        covered: (X, Y, Z) bool, where it has.
    """

    name: str
    reading: Reading
    registration: Registration
    odds: np.ndarray
    covered: np.ndarray

    @property
    def contrast(self) -> str:
        """Its contrast."""
        return self.reading.brain.named_contrast


def set_name(contrasts: Sequence[str]) -> str:
    """Name of a set of contrasts, under which settings are kept: ``FLAIR+T1``."""
    return "+".join(sorted(contrasts))


def fuse(
    odds: Mapping[str, np.ndarray],
    covered: Mapping[str, np.ndarray],
    affine: np.ndarray,
    healthy: Mapping[str, HealthyFindings | None],
) -> np.ndarray:
    """Log odds of a study, `LOWEST_ODDS` where no contrast has a brain; see the module's equation.

    Args:
        odds: Log odds (X, Y, Z) of each contrast.
        covered: (X, Y, Z) bool, where each has a brain; where the leading one has none, the next leads.
        affine: Of the grid.
        healthy: The findings of healthy scans of each contrast, see `sees_something`.
    """
    ranked = sorted(odds, key=LEADING.index)
    fused = np.full(odds[ranked[0]].shape, LOWEST_ODDS, np.float32)
    led = np.zeros(fused.shape, bool)
    for contrast in ranked:
        leads = covered[contrast] & ~led
        fused[leads] = odds[contrast][leads]
        supports = covered[contrast] & led
        if supports.any() and sees_something(odds[contrast], covered[contrast], affine, healthy.get(contrast)):
            mean = _mean_around(odds[contrast], covered[contrast], np.linalg.norm(affine[:3, :3], axis=0).tolist())
            fused += np.maximum(mean, 0) * supports
        led |= covered[contrast]
    return fused


def sees_something(odds: np.ndarray, covered: np.ndarray, affine: np.ndarray, healthy: HealthyFindings | None) -> bool:
    """Whether a contrast has a finding of its own that hardly any healthy scan has; true where nobody has measured."""
    if healthy is None:
        return True
    score = Volume((sigmoid(odds) * covered).astype(np.float32), affine)
    return healthy.false_findings(float(component_evidence(score, covered, healthy)[1].max())) <= RARE


def _mean_around(odds: np.ndarray, covered: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Mean of log odds, from `LEAST_ODDS` on, over a Gaussian neighbourhood within what is covered."""
    sigma = [SUPPORT_MM / spacing for spacing in spacing_mm]
    weight = ndimage.gaussian_filter(covered.astype(np.float32), sigma)
    above = np.where(covered, np.maximum(odds, LEAST_ODDS) - LEAST_ODDS, 0).astype(np.float32)
    return ndimage.gaussian_filter(above, sigma) / np.maximum(weight, 0.05) + LEAST_ODDS


@dataclass(frozen=True)
class PreparedStudy:
    """The scans of a study that no network has seen yet.

    Attributes:
        scans: By the names of their files.
        warnings: Which were left out, and why.
    """

    scans: tuple[tuple[str, Prepared], ...]
    warnings: tuple[str, ...]


def prepare_study(detector: Detector, scans: Sequence[Path | str], progress: Progress = silent) -> PreparedStudy:
    """Reads and prepares the scans of one patient, which may go on in a thread beside `detect_study`; see there.

    Raises:
        DisyreError: No scan can be used, or the method gives no probabilities.
    """
    if not detector.gives_probabilities:
        raise DisyreError("A study needs a method whose scores are probabilities; use the default method.")
    usable, warnings = list[tuple[str, Prepared]](), list[str]()
    for path in scans:
        name = Path(path).name
        try:
            usable.append((name, detector.prepare(path, progress=progress)))
        except DisyreError as error:
            warnings.append(f"{name} was left out: {error}")
    if not usable:
        raise DisyreError(" ".join(["No scan of the study can be used.", *warnings]))
    return PreparedStudy(tuple(usable), tuple(warnings))


def detect_study(
    detector: Detector,
    scans: Sequence[Path | str] | PreparedStudy,
    *,
    border: float | None = None,
    false_findings: float = DEFAULT_FALSE_FINDINGS,
    smallest_ml: float | None = None,
    progress: Progress = silent,
) -> Detection:
    """Finds anomalies in the scans of one patient together, on the grid of the first.

    Args:
        detector: With a method whose scores are probabilities.
        scans: Files of one patient, or what `prepare_study` made of them; of two scans of one contrast the finer one
            counts.
        border, false_findings, smallest_ml, progress: As for `Detector.detect`.

    Returns:
        One set of findings, each saying which contrasts show it; `Detection.parts` holds the score of each contrast.

    Raises:
        DisyreError: No scan can be used, or the method gives no probabilities.
    """
    study = scans if isinstance(scans, PreparedStudy) else prepare_study(detector, scans, progress)
    clock, warnings = Clock(progress), list(study.warnings)
    readings = [(name, detector.read(scan, clock)) for name, scan in study.scans]
    reference = readings[0][1]
    with clock("register"):
        placed = [scan for name, one in readings if (scan := _placed(reference, name, one, warnings)) is not None]
        placed = _finest(_weighty(placed, warnings), warnings)
    with clock("map back"):
        odds = {scan.contrast: scan.odds for scan in placed}
        covered = {scan.contrast: scan.covered for scan in placed}
        grid = reference.brain.native
        score = _display(
            fuse(odds, covered, grid.affine, {contrast: detector.healthy(contrast) for contrast in odds}), reference
        )
        parts = {scan.contrast: _display(scan.odds, reference) for scan in placed}
        restored = restored_scan(reference)
    told = [f"{scan.name}: {flag}" for scan in placed if scan.reading is not reference for flag in _told(scan)]
    together = replace(reference, warnings=list(dict.fromkeys([*warnings, *reference.warnings, *told])))
    made = detector.conclude(
        together, score, restored, set_name(list(odds)), clock, border, false_findings, smallest_ml
    )
    findings = [replace(f, contrasts=_showing(f, made.labels, parts, detector)) for f in made.findings]
    record = made.record | {"study": [_record(scan) for scan in placed]}
    return replace(made, findings=findings, record=record, parts=parts)


def _placed(reference: Reading, name: str, reading: Reading, warnings: list[str]) -> StudyScan | None:
    """A scan on the grid of the reference; None, with a warning, for what seems to be another patient."""
    registration = Registration(np.eye(4), 0.0, 1.0)
    if reading is not reference:
        one, other = reference.brain, reading.brain
        registration = register(one.image, one.mask, other.image, other.mask)
        if registration.agreement < LEAST_AGREEMENT:
            warnings.append(f"{name} does not fit the first scan and was left out: are they of one patient?")
            return None
    odds, covered = _odds_on(reference.brain.native, reading, registration)
    covered = reference.brain.native_mask if reading is reference else covered & reference.brain.native_mask
    odds = np.where(covered, odds, LOWEST_ODDS).astype(np.float32)
    if (share := covered.sum() / reference.brain.native_mask.sum()) < LEAST_COVER:
        warnings.append(f"{name} covers {100 * share:.0f} % of the brain in the first scan.")
    return StudyScan(name, reading, registration, odds, covered)


def _odds_on(grid: Grid, reading: Reading, registration: Registration) -> tuple[np.ndarray, np.ndarray]:
    mask = reading.brain.tensors()[1]
    odds = torch.where(mask, log_odds(reading.made.score) - LOWEST_ODDS, 0.0)
    voxels = np.ascontiguousarray(odds.numpy().T)
    affine = registration.to_fixed @ reading.brain.image.affine
    above, covered = within_brain(Volume(voxels, affine), reading.brain.mask, grid)
    return above + LOWEST_ODDS, covered


def _weighty(placed: list[StudyScan], warnings: list[str]) -> list[StudyScan]:
    """Without contrasts that have no weight beside others."""
    kept = [scan for scan in placed if scan.contrast == scan.reading.brain.contrast]
    if not kept:
        return placed
    warnings += [
        f"{scan.name} is {scan.contrast} and counts nothing beside the others." for scan in placed if scan not in kept
    ]
    return kept


def _finest(placed: list[StudyScan], warnings: list[str]) -> list[StudyScan]:
    """One scan of each contrast: that with the smallest voxels."""
    kept: dict[str, StudyScan] = {}
    for scan in placed:
        other = kept.get(scan.contrast)
        if other is None:
            kept[scan.contrast] = scan
            continue
        finer = min((other, scan), key=lambda one: one.reading.brain.native.voxel_ml)
        kept[scan.contrast] = finer
        warnings.append(f"{other.name} and {scan.name} are both {scan.contrast}: {finer.name} counts, being finer.")
    return list(kept.values())


def _told(scan: StudyScan) -> list[str]:
    return [*scan.reading.brain.flags, *scan.reading.warnings]


def _display(odds: np.ndarray, reference: Reading) -> Volume:
    voxels = sigmoid(odds) * reference.brain.native_mask
    return replace(reference.scan, voxels=voxels.astype(np.float32))


def _showing(finding: Finding, labels: Volume, parts: Mapping[str, Volume], detector: Detector) -> tuple[str, ...]:
    """The contrasts above whose own border much of a finding lies; that with the highest scores where there is none."""
    inside = labels.voxels == finding.label
    shares = {c: float((part.voxels[inside] > detector.border(c)).mean()) for c, part in parts.items()}
    most = max(parts, key=lambda c: float(parts[c].voxels[inside].mean()))
    return tuple(c for c, share in shares.items() if share >= SHOWN) or (most,)


def _record(scan: StudyScan) -> dict[str, Any]:
    return {
        "name": scan.name,
        "moved_mm": round(scan.registration.moved_mm, 2),
        "agreement": round(scan.registration.agreement, 3),
        **scan.reading.brain.record(),
    }
