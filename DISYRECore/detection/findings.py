"""Findings: the connected regions of a score map that stand above the threshold."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
    return find_components(score, border, brain_mask, healthy).findings(border, smallest_ml, false_findings)


@dataclass(frozen=True)
class Components:
    """What stands out inside the brain: the 26-connected components above a score, of which findings are drawn.

    Without the voxels between them, so that other borders are drawn within milliseconds.

    Attributes:
        score: Anomaly score.
        healthy: The components of healthy scans; None where nobody has looked.
        middle_mm: RAS x of the middle of the brain.
        places: (N,) voxels inside the components, indices into the flattened grid, rising.
        owners: (N,) component of each voxel, from 1.
        values: (N,) score of each voxel.
        weights: (components + 1,) evidence of each component, that of 0 being 0; the sum of its scores where there is
            nothing known of healthy scans.
    """

    score: Volume
    healthy: HealthyFindings | None
    middle_mm: float
    places: np.ndarray
    owners: np.ndarray
    values: np.ndarray
    weights: np.ndarray

    def findings(self, border: float, smallest_ml: float, false_findings: float) -> tuple[np.ndarray, list[Finding]]:
        """Label image and findings as `label_findings` returns them; `border` not below that of the components."""
        drawn = self.values > border
        order = self._kept(drawn, smallest_ml / self.score.voxel_ml, false_findings)
        numbers = np.zeros(len(self.weights), np.uint16)
        numbers[order] = np.arange(1, order.size + 1)
        labels = np.zeros(self.score.voxels.shape, np.uint16)
        number = np.where(drawn, numbers[self.owners], 0)
        labels.reshape(-1)[self.places] = number
        sorted_by_number = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=order.size + 1))
        of_each = np.split(sorted_by_number, ends[:-1])[1:]
        return labels, [self._describe(label, voxels) for label, voxels in enumerate(of_each, start=1)]

    def _kept(self, drawn: np.ndarray, smallest_voxels: float, false_findings: float) -> np.ndarray:
        """The components that are unusual and large enough, by falling weight."""
        sizes = np.bincount(self.owners[drawn], minlength=len(self.weights))
        needed = self.healthy.needed(false_findings) if self.healthy else -np.inf
        kept = (self.weights >= needed) & (sizes > 0) & (sizes >= smallest_voxels * (1 - 1e-6))
        chosen = np.flatnonzero(kept)
        return chosen[np.argsort(-self.weights[chosen], kind="stable")][:_MOST]

    def _describe(self, label: int, voxels: np.ndarray) -> Finding:
        """The finding of some of the components' voxels."""
        places = np.stack(np.unravel_index(self.places[voxels], self.score.voxels.shape), axis=1)
        values, affine = self.values[voxels], self.score.affine
        centroid = _to_ras(affine, places.mean(axis=0))
        finding = Finding(
            label=label,
            volume_ml=len(places) * self.score.voxel_ml,
            peak=float(values.max()),
            mean=float(values.mean(dtype=np.float64)),
            centroid_ras=centroid,
            side=_side(centroid[0] - self.middle_mm),
            peak_ras=_to_ras(affine, places[values.argmax()]),
            diameter_mm=_longest_mm(_corners(places) @ affine[:3, :3].T),
        )
        if self.healthy is None:
            return finding
        evidence = float(self.weights[self.owners[voxels[0]]])
        return replace(finding, evidence=evidence, false_findings=self.healthy.false_findings(evidence))


def find_components(
    score: Volume, border: float, brain_mask: np.ndarray, healthy: HealthyFindings | None = None
) -> Components:
    """The components above the low score of `healthy`, or above the border where nothing is known of healthy scans.

    Arguments are those of `label_findings`.

    Raises:
        DisyreError: Score and mask differ in shape.
    """
    if score.voxels.shape != brain_mask.shape:
        shapes = f"{brain_mask.shape} and {score.voxels.shape}"
        raise DisyreError(f"Brain mask and score differ in shape, {shapes}; give both on the same grid.")
    brain = np.asarray(brain_mask, bool)
    low = border if healthy is None else healthy.low
    components, count = ndimage.label((score.voxels > low) & brain, TOUCHING)
    places = np.flatnonzero(components)
    owners, values = components.reshape(-1)[places], score.voxels.reshape(-1)[places]
    shares = values if healthy is None else healthy.log_odds(values) * score.voxel_ml
    weights = np.bincount(owners, weights=shares, minlength=count + 1)
    return Components(score, healthy, _brain_middle(brain, score.affine), places, owners, values, weights)


def component_evidence(score: Volume, brain: np.ndarray, healthy: HealthyFindings) -> tuple[np.ndarray, np.ndarray]:
    """The components above the low score of `healthy`, int (X, Y, Z), and the evidence of each, that of 0 being 0."""
    components, count = ndimage.label((score.voxels > healthy.low) & brain, TOUCHING)
    inside = components > 0
    odds = healthy.log_odds(score.voxels[inside]) * score.voxel_ml
    return components, np.bincount(components[inside], weights=odds, minlength=count + 1)


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


def write_findings_json(findings: Sequence[Finding], path: Path | str) -> None:
    """Writes a list with the attributes of each finding and its rarity in words; what nobody knows is null.

    Raises:
        DisyreError: The file cannot be written; nothing half-written is left.
    """
    told = [{**asdict(finding), "rarity": finding.rarity} for finding in findings]
    write_text(json.dumps(told, indent=2) + "\n", path)


def _corners(places: np.ndarray) -> np.ndarray:
    """Those of sorted voxel indices (N, 3) that end their row along every axis; the farthest two are among them."""
    ends = places[_ends_of_rows(places[:, :2])]
    for along, first, second in ((1, 0, 2), (0, 1, 2)):
        ends = ends[np.lexsort((ends[:, along], ends[:, second], ends[:, first]))]
        ends = ends[_ends_of_rows(ends[:, (first, second)])]
    return ends


def _ends_of_rows(rows: np.ndarray) -> np.ndarray:
    """Whether each of sorted voxels (N,) is the first or the last of its row (N, 2)."""
    new = np.any(rows[1:] != rows[:-1], axis=1)
    return np.r_[True, new] | np.r_[new, True]


def _longest_mm(points: np.ndarray) -> float:
    """Longest extent of points (N, 3) in mm, over directions about 13 degrees apart."""
    turns = np.linspace(0, np.pi, 14, endpoint=False)
    polar, azimuth = (a.ravel() for a in np.meshgrid(turns, turns))
    ways = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)])
    return float(np.ptp(points @ ways, axis=0).max())


def side_of(right_mm: float, brain: np.ndarray, affine: np.ndarray) -> str:
    """Side of a place at RAS x in mm, see `Finding`; the brain mask (X, Y, Z) lies on the grid of `affine`."""
    return _side(right_mm - _brain_middle(brain, affine))


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
