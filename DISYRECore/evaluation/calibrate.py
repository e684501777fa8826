"""What a model finds in healthy scans: the measure of how unusual a finding is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from DISYRECore.detection.detector import Detector
from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings, strongest
from DISYRECore.detection.findings import component_evidence
from DISYRECore.detection.site_calibration import SiteCalibration, SiteContrast, check_name, save_site
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import interval
from DISYRECore.io.read import find_scans, read_mask, read_volume
from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing.prepare import PreparedBrain, prepare
from DISYRECore.version import __version__

LOW_PROBABILITY, LOW_SHARE = 0.5, 0.02
"""Where components begin: at a probability, or, for other scores, where so many healthy voxels are above."""

SHARES = np.geomspace(0.5, 1e-4, 60)
"""Shares of healthy voxels whose scores are kept for scores that are no probabilities."""

FEW_SCANS = 5
OUTLYING, ODD_EVIDENCE = 4.0, 4.0
"""A healthy scan is odd if the evidence of its findings is this many times that of any other scan, and no less than
1 mL at even odds has."""

RESAMPLES = 1000


class HealthyScores:
    """Display scores of healthy scans of one contrast, on disk so that memory does not grow with their number.

    Args:
        folder: Exists; filled.
        probabilities: Whether the scores are probabilities.
        low: Score above which voxels form components, for probabilities.
    """

    def __init__(self, folder: Path, probabilities: bool, low: float = LOW_PROBABILITY) -> None:
        self.folder, self.probabilities, self.low = folder, probabilities, low
        self.affines: list[np.ndarray] = []

    def add(self, score: Volume, brain: np.ndarray) -> None:
        """Keeps one scan: its score and its brain mask, (X, Y, Z).

        Raises:
            DisyreError: The scores contain NaN.
        """
        if not np.isfinite(score.voxels).all():
            raise DisyreError("The anomaly scores are not finite; check the scan and the model.")
        np.savez_compressed(self._path(len(self.affines)), score=score.voxels, brain=brain)
        self.affines.append(score.affine)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.npz"

    def _scans(self) -> Iterator[tuple[Volume, np.ndarray]]:
        for number, affine in enumerate(self.affines):
            with np.load(self._path(number)) as stored:
                yield Volume(stored["score"], affine), stored["brain"]

    def evidence(self) -> tuple[HealthyFindings, list[np.ndarray]]:
        """The findings of all scans, and the evidence of those of each."""
        known = HealthyFindings(self.low, 1, ())
        if not self.probabilities:
            shares = self._shares()
            low = float(np.interp(-LOW_SHARE, [-share for _, share in shares], [score for score, _ in shares]))
            known = HealthyFindings(low, 1, (), tuple(shares))
        by_scan = [component_evidence(score, brain, known)[1][1:] for score, brain in self._scans()]
        pooled = HealthyFindings(known.low, len(by_scan), strongest(by_scan), known.shares)
        return pooled, by_scan

    def _shares(self) -> list[tuple[float, float]]:
        """Scores and the mean share of each scan's voxels above them, rising scores."""
        quantiles = np.mean([np.quantile(score.voxels[brain], 1 - SHARES) for score, brain in self._scans()], axis=0)
        scores, first = np.unique(quantiles, return_index=True)
        return [(float(score), float(SHARES[index])) for score, index in zip(scores, first, strict=True)]


def uncertainty(by_scan: Sequence[np.ndarray], needed: float) -> tuple[float, float]:
    """95 % percentile bootstrap over scans of the number of findings per scan at least as strong as `needed`."""
    counts = np.array([(one >= needed).sum() for one in by_scan])
    draws = np.random.default_rng(0).integers(0, len(counts), (RESAMPLES, len(counts)))
    return interval(counts[draws].mean(1))


def false_findings_elsewhere(
    pooled: HealthyFindings, by_scan: Sequence[np.ndarray], accepted: float = DEFAULT_FALSE_FINDINGS
) -> tuple[float, tuple[float, float]]:
    """Findings in a healthy scan as strong as the other scans say that `accepted` of one are.

    Args:
        pooled: Of all scans.
        by_scan: Evidence of the findings of each of two scans or more.
        accepted: False findings per healthy scan.

    Returns:
        The mean over the scans, each left out in turn, and its 95 % percentile bootstrap.
    """
    counts = np.zeros(len(by_scan))
    for left_out, found in enumerate(by_scan):
        others = [one for number, one in enumerate(by_scan) if number != left_out]
        known = HealthyFindings(pooled.low, len(others), strongest(others), pooled.shares)
        counts[left_out] = (found >= known.needed(accepted)).sum()
    draws = np.random.default_rng(0).integers(0, len(counts), (RESAMPLES, len(counts)))
    return float(counts.mean()), interval(counts[draws].mean(1))


def doubts(by_scan: Sequence[np.ndarray], needed: float) -> list[str]:
    """What a user should know: few scans, and scans that look anomalous."""
    found = []
    if len(by_scan) < FEW_SCANS:
        scans = "Only one healthy scan was" if len(by_scan) == 1 else f"Only {len(by_scan)} healthy scans were"
        found.append(f"{scans} used: how rare a finding is, is uncertain; give {FEW_SCANS} or more.")
    totals = np.array([one[one >= needed].sum() for one in by_scan])
    if len(totals) > 2 and totals.max() >= max(OUTLYING * np.sort(totals)[-2], ODD_EVIDENCE):
        found.append(f"Healthy scan {totals.argmax() + 1} has by far the strongest findings: look at it.")
    return found


def calibrate_contrasts(
    detector: Detector, brains: Iterable[PreparedBrain]
) -> dict[str, tuple[SiteContrast, list[np.ndarray]]]:
    """The findings of healthy scans, for every contrast among them; with the evidence of each scan's.

    Args:
        detector: Model and method.
        brains: Prepared; gone through once.

    Raises:
        DisyreError: No scans, or scores with NaN.
    """
    with TemporaryDirectory() as scratch:
        scores: dict[str, HealthyScores] = {}
        for brain in brains:
            if brain.contrast not in scores:
                folder = Path(scratch) / brain.contrast
                folder.mkdir()
                known = detector.usage.healthy.get(brain.contrast, {})
                low = float(known.get("low", LOW_PROBABILITY))
                scores[brain.contrast] = HealthyScores(folder, detector.gives_probabilities, low)
            made, _ = detector.restoration(brain)
            scores[brain.contrast].add(detector.native_score(brain, made.score), brain.native_mask)
        if not scores:
            raise DisyreError("There are no healthy scans to calibrate on; give at least one.")
        return {contrast: _calibrated(*one.evidence()) for contrast, one in scores.items()}


def _calibrated(pooled: HealthyFindings, by_scan: list[np.ndarray]) -> tuple[SiteContrast, list[np.ndarray]]:
    warnings = doubts(by_scan, pooled.needed(DEFAULT_FALSE_FINDINGS))
    return SiteContrast(pooled, tuple(warnings)), by_scan


def calibrate_site(
    detector: Detector,
    healthy: Path,
    site: str,
    *,
    mask: str | None = None,
    contrast: str | None = None,
) -> str:
    """Makes and stores the calibration of a site from a folder of healthy scans.

    A scan that cannot be used is left out with a sentence on stderr.

    Args:
        detector: Model and method.
        healthy: Scan or folder of scans.
        site: Its name.
        mask: Folder of brain masks with the file names of the scans, or the mask of a single scan; found when None.
        contrast: Of all scans; recognised when None.

    Returns:
        What was found, for people.

    Raises:
        DisyreError: No scan can be used, a method without a model, or the calibration cannot be written.
    """
    check_name(site)
    if detector.model is None:
        raise DisyreError(f"The method {detector.method} has no model to calibrate; choose another method.")
    brains = _usable(find_scans(healthy), detector.spacing_mm, mask, contrast)
    found = calibrate_contrasts(detector, brains)
    calibration = SiteCalibration(
        site=site,
        model=detector.model.description.id,
        **detector.basis(),
        healthy={name: one for name, (one, _) in found.items()},
        disyre=__version__,
    )
    path = save_site(calibration, str(detector.model.folder))
    told = [_in_words(detector, name, one, by_scan) for name, (one, by_scan) in found.items()]
    return "\n".join([*told, str(path)])


def _usable(scans: list[Path], spacing_mm: float, mask: str | None, contrast: str | None) -> Iterator[PreparedBrain]:
    for number, path in enumerate(scans, start=1):
        try:
            scan = read_volume(path)
            own = None if mask is None else read_mask(_mask_of(path, Path(mask)), scan.grid)
            yield prepare(scan, spacing_mm, own, contrast)
        except DisyreError as error:
            print(f"disyre: scan {number} ({path.name}) is left out: {error}", file=sys.stderr)


def _mask_of(scan: Path, mask: Path) -> Path:
    return mask / scan.name if mask.is_dir() else mask


def _in_words(detector: Detector, contrast: str, one: SiteContrast, by_scan: list[np.ndarray]) -> str:
    needed = one.findings.needed(DEFAULT_FALSE_FINDINGS)
    low, high = uncertainty(by_scan, needed)
    lines = [
        f"{contrast}: {len(by_scan)} healthy scans; {DEFAULT_FALSE_FINDINGS:g} findings a scan (95 % {low:.2g} to "
        f"{high:.2g}) have an evidence of {needed:.3g} or more"
    ]
    if known := detector.usage.healthy.get(contrast):
        usual = HealthyFindings(**known).needed(DEFAULT_FALSE_FINDINGS)
        before = np.mean([(evidence >= usual).sum() for evidence in by_scan])
        lines.append(f"{contrast}: the model's own calibration would give {before:.2g} findings a scan here")
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in one.warnings)])
