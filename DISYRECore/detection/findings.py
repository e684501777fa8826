"""Findings: the connected regions of a score map that stand above the threshold."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from DISYRECore.detection.evidence import DEFAULT_FALSE_FINDINGS, HealthyFindings
from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRECore.io.volume import Volume
from DISYRECore.io.files import write_text

MIDLINE_MM = 5.0
TOUCHING = np.ones((3, 3, 3), bool)
MOST_PER_SCAN, ONE_OF_TWO, RAREST = 1.5, 0.66, 100.0
"""Numbers of findings per healthy scan, and of healthy scans per finding, at which the words change."""

_MOST = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Finding:
    """One 26-connected component of a score map, drawn up to its border.

    Attributes:
        label: Its number in the label image, from 1, the most unusual first.
        volume_ml: Volume in mL.
        peak: Highest score inside.
        mean: Mean score inside.
        centroid_ras: Centre of the voxels, RAS in mm.
        side: The patient's ``left`` or ``right``; ``midline`` if the centre is within 5 mm of the brain's.
        peak_ras: Place of the highest score, RAS in mm.
        diameter_mm: Longest extent, between voxel centres.
        evidence: See `evidence`; None where the scores are not calibrated on healthy scans.
        false_findings: How many findings at least so strong are to be expected in a healthy scan; None likewise.
        contrasts: Contrasts that show it, of a study.
    """

    label: int
    volume_ml: float
    peak: float
    mean: float
    centroid_ras: tuple[float, float, float]
    side: str
    peak_ras: tuple[float, float, float]
    diameter_mm: float = 0.0
    evidence: float | None = None
    false_findings: float | None = None
    contrasts: tuple[str, ...] = ()

    @property
    def rarity(self) -> str:
        """In words how often a healthy scan shows so strong a finding; empty where nobody knows."""
        return "" if self.false_findings is None else rarity_in_words(self.false_findings)


def rarity_in_words(false_findings: float) -> str:
    """``seen in one of 20 healthy scans``, from the number expected in one."""
    if false_findings > MOST_PER_SCAN:
        return f"about {false_findings:.0f} so strong in every healthy scan"
    if false_findings > ONE_OF_TWO:
        return "about one so strong in every healthy scan"
    scans = min(1 / max(false_findings, 1e-9), RAREST)
    rounded = float(f"{scans:.1g}") if scans >= 10 else round(scans)
    return f"so strong in {'fewer than ' if scans == RAREST else ''}one of {rounded:.0f} healthy scans"


def label_findings(
    score: Volume,
    border: float,
    brain_mask: np.ndarray,
    smallest_ml: float = 0.1,
    healthy: HealthyFindings | None = None,
    false_findings: float = DEFAULT_FALSE_FINDINGS,
) -> tuple[np.ndarray, list[Finding]]:
    """Separates what stands out inside the brain into findings.

    With what is known of healthy scans, components above a low score are kept that are rarer there than
    `false_findings`, and each is drawn up to the border. Without, components above the border are kept, ordered by
    volume times mean score.

    Args:
        score: Anomaly score.
        border: In the units of the score; voxels with ``score > border`` are drawn.
        brain_mask: (X, Y, Z) on the score's grid, true (non-zero) in the brain.
        smallest_ml: Findings drawn smaller than this are dropped.
        healthy: The components of healthy scans; None where nobody has looked.
        false_findings: Findings per healthy scan that are accepted.

    Returns:
        The label image, uint16 (X, Y, Z), 0 where there is no finding, and the findings in the order of their labels.

    Raises:
        DisyreError: Score and mask differ in shape.
    """
    if score.voxels.shape != brain_mask.shape:
        shapes = f"{brain_mask.shape} and {score.voxels.shape}"
        raise DisyreError(f"Brain mask and score differ in shape, {shapes}; give both on the same grid.")
    brain = np.asarray(brain_mask, bool)
    drawn = (score.voxels > border) & brain
    if healthy is None:
        components, count = ndimage.label(drawn, TOUCHING)
        weight = np.bincount(components[drawn], weights=score.voxels[drawn], minlength=count + 1)
        strength = None
    else:
        components, weight = component_evidence(score, brain, healthy)
        strength = weight
        weight = np.where(weight >= healthy.needed(false_findings), weight, -1.0)
    order = _kept(components, weight, drawn, smallest_ml / score.voxel_ml)
    numbers = np.zeros(len(weight), np.uint16)
    numbers[order] = np.arange(1, order.size + 1)
    labels = np.where(drawn, numbers[components], 0).astype(np.uint16)
    middle_mm = _brain_middle(brain, score.affine)
    regions = enumerate(ndimage.find_objects(labels), start=1)
    findings = [_describe(label, box, labels, score, middle_mm) for label, box in regions]
    if healthy is None or strength is None:
        return labels, findings
    return labels, [_rated(one, float(strength[order[one.label - 1]]), healthy) for one in findings]


def component_evidence(score: Volume, brain: np.ndarray, healthy: HealthyFindings) -> tuple[np.ndarray, np.ndarray]:
    """The components above the low score of `healthy`, int (X, Y, Z), and the evidence of each, that of 0 being 0."""
    components, count = ndimage.label((score.voxels > healthy.low) & brain, TOUCHING)
    inside = components > 0
    odds = healthy.log_odds(score.voxels[inside]) * score.voxel_ml
    return components, np.bincount(components[inside], weights=odds, minlength=count + 1)


def _kept(components: np.ndarray, weight: np.ndarray, drawn: np.ndarray, smallest_voxels: float) -> np.ndarray:
    """Labels of the components that are strong and large enough, by falling weight."""
    sizes = np.bincount(components[drawn], minlength=len(weight))
    sizes[0] = 0
    kept = np.flatnonzero((weight >= 0) & (sizes > 0) & (sizes >= smallest_voxels * (1 - 1e-6)))
    return kept[np.argsort(-weight[kept], kind="stable")][:_MOST]


def _rated(finding: Finding, evidence: float, healthy: HealthyFindings) -> Finding:
    return replace(finding, evidence=evidence, false_findings=healthy.false_findings(evidence))


def write_findings_csv(findings: Sequence[Finding], path: Path | str) -> None:
    """Writes one row per finding; mm in RAS, scores in the units of the score map.

    Raises:
        DisyreError: The file cannot be written; nothing half-written is left.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    axes = ("r", "a", "s")
    writer.writerow(
        [
            "label",
            "side",
            "volume_ml",
            "diameter_mm",
            "evidence",
            "false_findings",
            "contrasts",
            "peak_score",
            "mean_score",
        ]
        + [f"centroid_{axis}_mm" for axis in axes]
        + [f"peak_{axis}_mm" for axis in axes]
    )
    for one in findings:
        rated = ["" if n is None else f"{n:.4g}" for n in (one.evidence, one.false_findings)]
        scores = [f"{n:.4g}" for n in (one.peak, one.mean)]
        places = [f"{p:.1f}" for p in (*one.centroid_ras, *one.peak_ras)]
        sizes = [f"{one.volume_ml:.4g}", f"{one.diameter_mm:.1f}"]
        writer.writerow([one.label, one.side, *sizes, *rated, " ".join(one.contrasts), *scores, *places])
    write_text(text.getvalue(), path)


def _describe(label: int, box: tuple[slice, ...], labels: np.ndarray, score: Volume, middle_mm: float) -> Finding:
    corner = [part.start for part in box]
    places = np.argwhere(labels[box] == label)
    values = score.voxels[box][tuple(places.T)]
    centroid = _to_ras(score.affine, places.mean(axis=0) + corner)
    return Finding(
        label=label,
        volume_ml=len(places) * score.voxel_ml,
        peak=float(values.max()),
        mean=float(values.mean(dtype=np.float64)),
        centroid_ras=centroid,
        side=_side(centroid[0] - middle_mm),
        peak_ras=_to_ras(score.affine, places[values.argmax()] + corner),
        diameter_mm=_longest_mm(_ends(places) @ score.affine[:3, :3].T),
    )


def _ends(places: np.ndarray) -> np.ndarray:
    """First and last voxel of every row of sorted voxel indices (N, 3): the longest extent lies between two of them."""
    new = np.any(np.diff(places[:, :-1], axis=0) != 0, axis=1)
    return places[np.r_[True, new] | np.r_[new, True]]


def _longest_mm(points: np.ndarray) -> float:
    """Longest extent of points (N, 3) in mm, over directions about 13 degrees apart."""
    turns = np.linspace(0, np.pi, 14, endpoint=False)
    polar, azimuth = (a.ravel() for a in np.meshgrid(turns, turns))
    ways = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)])
    return float(np.ptp(points @ ways, axis=0).max())


def _side(rightwards_mm: float) -> str:
    if abs(rightwards_mm) <= MIDLINE_MM:
        return "midline"
    return "right" if rightwards_mm > 0 else "left"


def _brain_middle(brain: np.ndarray, affine: np.ndarray) -> float:
    """RAS x of the brain's centroid in mm."""
    sums = [brain.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    centre = [np.average(np.arange(s.size), weights=s) if s.any() else 0.0 for s in sums]
    return _to_ras(affine, np.asarray(centre))[0]


def _to_ras(affine: np.ndarray, index: np.ndarray) -> tuple[float, float, float]:
    r, a, s = affine[:3, :3] @ index + affine[:3, 3]
    return float(r), float(a), float(s)
