"""Thresholds that mean something: the score that a stated share of healthy voxels exceeds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from DISYRECore.detection.detector import Detector
from DISYRECore.detection.site_calibration import SiteCalibration, SiteThreshold, check_name, display_scale, save_site
from DISYRECore.errors import DisyreError
from DISYRECore.evaluation.metrics import interval
from DISYRECore.io.files import write_text
from DISYRECore.io.read import find_scans, read_mask, read_volume
from DISYRECore.methods.base.score import PROBABILITIES
from DISYRECore.models.description import DESCRIPTION, read_description
from DISYRECore.preprocessing.prepare import PreparedBrain, prepare
from DISYRECore.version import __version__

EVEN = 0.5
"""Probability from which on a voxel is rather anomalous than not."""

QUANTILES = 1 - np.concatenate([np.linspace(1, 0.2, 81)[:-1], np.geomspace(0.2, 1e-5, 2000), [0.0]])
"""Shares of a scan's voxels below its quantiles: what is kept of a scan."""

FEW_SCANS = 5
OUTLYING, OUTLYING_FACTOR = 3.0, 3.0
RESAMPLES = 1000


def score_quantiles(detector: Detector, brain: PreparedBrain) -> np.ndarray:
    """Quantiles of a scan's scores at `QUANTILES`, rising.

    Raises:
        DisyreError: The scores contain NaN.
    """
    made, _ = detector.restoration(brain)
    scores = made.score.numpy()[np.ascontiguousarray(brain.mask.T)]
    if not np.isfinite(scores).all():
        raise DisyreError("The anomaly scores are not finite; check the scan and the model.")
    return np.quantile(scores, QUANTILES)


def share_above(quantiles: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Share of each scan's voxels above thresholds, (scans, ...)."""
    return np.stack([1 - np.interp(threshold, *_rising(one)) for one in quantiles])


def _rising(quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct scores and the share of voxels at most as high."""
    last = np.flatnonzero(np.diff(quantiles, append=np.inf))
    return quantiles[last], QUANTILES[last]


def site_threshold(quantiles: Sequence[np.ndarray], rate: float) -> SiteThreshold:
    """The score above which a share `rate` of healthy voxels lies, every scan weighing the same.

    The interval is a percentile bootstrap over scans. By exchangeability a further scan of the same kind exceeds
    the highest of the n shares of `scan_rates` with a probability of at most about 1 / (n + 1).

    Args:
        quantiles: Of the scans, see `score_quantiles`.
        rate: False-positive rate, in (0, 1).

    Raises:
        DisyreError: There are no scans, or the rate is not a share.
    """
    if not len(quantiles):
        raise DisyreError("There are no healthy scans to calibrate on; give at least one.")
    if not 0 < rate < 1:
        raise DisyreError(f"A false-positive rate of {rate} is no share; give one between 0 and 1, such as 0.005.")
    candidates = np.unique(np.concatenate(quantiles))
    shares = share_above(np.stack(quantiles), candidates)
    threshold = _threshold(candidates, shares.mean(0), rate)
    rates = np.sort(share_above(np.stack(quantiles), threshold))
    return SiteThreshold(
        threshold=threshold,
        interval=_bootstrap(candidates, shares, rate),
        scans=len(quantiles),
        scan_rates=tuple(round(float(one), 6) for one in rates),
        warnings=tuple(_doubts(np.stack(quantiles), rate)),
    )


def _threshold(candidates: np.ndarray, shares: np.ndarray, rate: float) -> float:
    return float(np.interp(-rate, -shares, candidates))


def _bootstrap(candidates: np.ndarray, shares: np.ndarray, rate: float) -> tuple[float, float] | None:
    thin = slice(None, None, max(1, len(candidates) // 4000))
    candidates, shares, scans = candidates[thin], shares[:, thin], len(shares)
    if scans < 2:
        return None
    weights = np.random.default_rng(0).multinomial(scans, np.full(scans, 1 / scans), RESAMPLES) / scans
    return interval(np.array([_threshold(candidates, drawn @ shares, rate) for drawn in weights]))


def _doubts(quantiles: np.ndarray, rate: float) -> list[str]:
    """Warnings about a set of scans."""
    doubts = []
    if len(quantiles) < FEW_SCANS:
        scans = "Only one healthy scan was" if len(quantiles) == 1 else f"Only {len(quantiles)} healthy scans were"
        doubts.append(f"{scans} given: the threshold is uncertain; use at least {FEW_SCANS}.")
    if odd := abnormal_scans(quantiles, rate):
        scans = "Scan {} looks" if len(odd) == 1 else "Scans {} look"
        numbers = ", ".join(str(index + 1) for index in odd)
        doubts.append(f"{scans.format(numbers)} abnormal beside the others; check and calibrate again without.")
    return doubts


def abnormal_scans(quantiles: np.ndarray, rate: float) -> list[int]:
    """Indices of scans with far more voxels above the threshold of all others than these have themselves.

    That is a share above `OUTLYING_FACTOR` times the rate, and `OUTLYING` robust standard deviations (median
    absolute deviation, of the logarithm) above the median of the shares. Needs three scans.
    """
    if len(quantiles) < 3:
        return []
    shares = np.array([_share_by_others(quantiles, index, rate) for index in range(len(quantiles))])
    logs = np.log(np.maximum(shares, 1e-5))
    spread = max(1.4826 * float(np.median(np.abs(logs - np.median(logs)))), 0.3)
    odd = (shares > OUTLYING_FACTOR * rate) & (logs > np.median(logs) + OUTLYING * spread)
    return np.flatnonzero(odd).tolist()


def _share_by_others(quantiles: np.ndarray, index: int, rate: float) -> float:
    others = np.delete(quantiles, index, axis=0)
    candidates = np.unique(others)[:: max(1, others.size // 4000)]
    threshold = _threshold(candidates, share_above(others, candidates).mean(0), rate)
    return float(share_above(quantiles[index : index + 1], threshold)[0])


def own_threshold(settings: dict[str, Any]) -> float:
    """What a method itself takes for anomalous: above one half, or a change above its setting `threshold`."""
    return EVEN if settings.get("score") in (*PROBABILITIES, "dynamic") else float(settings.get("threshold", 0.0))


def healthy_threshold(detector: Detector, brains: Iterable[PreparedBrain], rate: float) -> float:
    """The threshold of `site_threshold` for scans that are prepared already.

    Raises:
        DisyreError: There are no scans.
    """
    return site_threshold([score_quantiles(detector, brain) for brain in brains], rate).threshold


def make_site_calibration(
    detector: Detector, site: str, brains: Iterable[PreparedBrain], rate: float
) -> SiteCalibration:
    """Measures thresholds on healthy scans, one for every contrast among them.

    Args:
        detector: Model and method.
        site: Name of the site.
        brains: Healthy scans, prepared; gone through once.
        rate: Share of healthy voxels above the threshold, in (0, 1).

    Raises:
        DisyreError: No scans, or a method without a model.
    """
    if detector.model is None:
        raise DisyreError("The z-score has no model to calibrate; choose another method.")
    quantiles: dict[str, list[np.ndarray]] = {}
    for brain in brains:
        quantiles.setdefault(brain.contrast, []).append(score_quantiles(detector, brain))
    if not quantiles:
        raise DisyreError("There are no healthy scans to calibrate on; give at least one.")
    return SiteCalibration(
        site=site,
        model=detector.model.description.id,
        **detector.basis(),
        rate=rate,
        thresholds={name: _checked(site_threshold(some, rate), name, detector) for name, some in quantiles.items()},
        disyre=__version__,
    )


def _checked(one: SiteThreshold, contrast: str, detector: Detector) -> SiteThreshold:
    """With a warning where the threshold marks what the method itself takes for healthy; not on standardised scores."""
    least = own_threshold(detector.settings_for(contrast))
    model = detector.model
    if one.threshold >= least or (model and model.description.detection.normalise.get(contrast, "none") != "none"):
        return one
    share = f"{contrast}: the threshold is below {least:g}, from which on the method takes a voxel for anomalous"
    return replace(one, warnings=(*one.warnings, f"{share}; a lower rate than the one given may mark less in vain."))


def calibrate_site(
    detector: Detector,
    model: str,
    healthy: Path,
    site: str,
    rate: float,
    *,
    mask: str | None = None,
    contrast: str | None = None,
) -> str:
    """Makes and stores the calibration of a site from a folder of healthy scans.

    A scan that cannot be used is left out with a sentence on stderr.

    Args:
        detector: Model and method.
        model: Id or folder of its model.
        healthy: Scan or folder of scans.
        site: Name of the site.
        rate: Share of healthy voxels above the threshold.
        mask: Folder of brain masks with the file names of the scans, or the mask of a single scan; found when None.
        contrast: Of all scans; guessed when None.

    Returns:
        What was found, for people.

    Raises:
        DisyreError: No scan can be used, or the calibration cannot be written.
    """
    check_name(site)
    brains = _usable(find_scans(healthy), detector.spacing_mm, mask, contrast)
    calibration = make_site_calibration(detector, site, brains, rate)
    path = save_site(calibration, model)
    return "\n".join([*(_described(name, one, rate) for name, one in calibration.thresholds.items()), str(path)])


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


def _described(contrast: str, one: SiteThreshold, rate: float) -> str:
    between = "" if one.interval is None else " (95 % {:.4g} to {:.4g})".format(*one.interval)
    scans = "scan" if one.scans == 1 else "scans"
    spread = f"{one.scan_rates[0]:.4f} to {one.scan_rates[-1]:.4f}"
    lines = [
        f"{contrast}: threshold {one.threshold:.4g}{between} at a rate of {rate:g}, {one.scans} {scans} "
        f"with {spread} of their voxels above it"
    ]
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in one.warnings)])


def write_thresholds(
    folder: Path, thresholds: dict[str, float], rate: float, source: str, normalise: dict[str, str] | None = None
) -> None:
    """Stores calibrated thresholds (per contrast, score before it is scaled for display) in a model's description.

    Region and fused scores are probabilities and displayed as they are; others are scaled so that every threshold is
    displayed at `site_calibration.DISPLAY_THRESHOLD`. `normalise` is what the scores were standardised with.
    Thresholds are rounded to the step of the panel's slider, so that panel and command line agree.
    """
    description = read_description(folder)
    kind = str(description.detection.settings.get("score", "residual"))
    scale = {contrast: round(display_scale(kind, value), 6) for contrast, value in thresholds.items()}
    detection = replace(
        description.detection,
        score_scale=scale,
        thresholds={contrast: round(value / scale[contrast], 2) for contrast, value in thresholds.items()},
        false_positive_rate=rate,
        normalise=normalise or {},
    )
    training = {**description.training, "calibration": source}
    scaled = replace(description, detection=detection, training=training)
    write_text(scaled.to_json(), folder / DESCRIPTION)
