"""Measures methods side by side on a dataset with known truth; the ruler is always among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from DISYRECore.errors import DisyreError
from DISYRECore.files import check_writable
from DISYRECore.findings import write_text
from DISYRECore.metrics import (
    average_precision,
    best_dice,
    bootstrap_interval,
    dice,
    froc,
    lesion_recall_fp,
    pooled_ap_bootstrap,
)
from DISYRECore.pipeline import SMALLEST_ML, Detector
from DISYRECore.prepare import prepare
from DISYRECore.volume import Volume, read_mask, read_volume

SMALLEST_LESION_MM3 = 100.0
FALSE_POSITIVE_RATES = (0.5, 1.0, 2.0, 4.0, 8.0)
THRESHOLDS = 24


@dataclass(frozen=True)
class Case:
    """One case of a dataset on disk."""

    name: str
    contrast: str
    folder: Path

    def load(self) -> tuple[Volume, np.ndarray, np.ndarray]:
        """Scan, truth and brain mask, the masks bool on the scan's grid."""
        scan = read_volume(self.folder / "scan.nii.gz")
        brain = read_mask(self.folder / "brain_mask.nii.gz", scan.grid)
        truth = read_mask(self.folder / "truth.nii.gz", scan.grid, allow_empty=True)
        return scan, truth & brain, brain


@dataclass(frozen=True)
class ScoredCase:
    """What one method made of one case.

    Attributes:
        score: Score before it is clipped for display, native grid, float32.
        truth, brain: Bool, same grid.
        voxel_ml: Volume of a voxel.
        threshold: Default threshold in units of `score`.
    """

    score: np.ndarray
    truth: np.ndarray
    brain: np.ndarray
    voxel_ml: float
    threshold: float


def read_dataset(folder: Path) -> list[Case]:
    """Cases of a folder written by `testset.write_test_set`.

    Raises:
        DisyreError: The folder has no readable index.
    """
    try:
        index = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return [Case(c["name"], c["contrast"], folder / c["name"]) for c in index["cases"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DisyreError(f"{folder} has no readable dataset.json; make a dataset with 'disyre synthesize'.") from error


def score_cases(detector: Detector, cases: list[Case]) -> Iterator[ScoredCase]:
    """Runs a detector over cases, with the brain masks and contrasts that the dataset gives."""
    for case in cases:
        scan, truth, mask = case.load()
        brain = prepare(scan, detector.spacing_mm, mask, case.contrast)
        made, _ = detector.restoration(brain)
        scale, threshold = detector.shown(case.contrast)
        score = brain.to_native(made.score).voxels
        yield ScoredCase(score, truth, mask, scan.voxel_ml, scale * threshold)


def measure(scored: list[ScoredCase]) -> dict[str, Any]:
    """All figures of one method on one set of cases.

    AP and Dice count every brain voxel of every case, healthy ones included. Lesions below
    `SMALLEST_LESION_MM3` and findings below `SMALLEST_ML` are ignored when lesions are counted; a lesion is
    found when a tenth of it is above the threshold. Intervals are 95 % bootstrap over cases.
    """
    scores = [case.score[case.brain] for case in scored]
    labels = [case.truth[case.brain] for case in scored]
    pooled, truth = np.concatenate(scores), np.concatenate(labels)
    oracle, at = best_dice(pooled, truth)
    shipped = [dice((s > c.threshold), t) for s, t, c in zip(scores, labels, scored, strict=True)]
    healthy = [s[~t] > c.threshold for s, t, c in zip(scores, labels, scored, strict=True)]
    sick = np.array([bool(t.any()) for t in labels])
    return {
        "cases": len(scored),
        "prevalence": float(truth.mean()),
        "ap": average_precision(pooled, truth),
        "ap_interval": pooled_ap_bootstrap(scores, labels),
        "oracle_dice": oracle,
        "oracle_threshold": at,
        "mean_dice_at_oracle": _mean([dice(s > at, t) for s, t in zip(scores, labels, strict=True)], sick),
        "mean_dice_at_default": _mean(shipped, sick),
        "mean_dice_at_default_interval": _interval(np.array(shipped)[sick]),
        "false_positive_rate": float(np.concatenate(healthy).mean()),
        "lesions": _lesions(scored, pooled),
    }


def _mean(values: list[float], chosen: np.ndarray) -> float:
    return float(np.array(values)[chosen].mean()) if chosen.any() else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float]:
    return bootstrap_interval(lambda draw: float(values[draw].mean()), len(values))


def _lesions(scored: list[ScoredCase], pooled: np.ndarray) -> dict[str, Any]:
    """Recall at fixed numbers of false positives per volume, and at the default threshold."""
    sizes = {"smallest_lesion_mm3": SMALLEST_LESION_MM3, "smallest_finding_mm3": 1000 * SMALLEST_ML}
    levels = np.unique(np.quantile(pooled, 1 - np.geomspace(2e-5, 0.15, THRESHOLDS)))
    curve = froc(((c.score, c.truth, c.voxel_ml) for c in scored), levels, FALSE_POSITIVE_RATES, **sizes)
    counts = [lesion_recall_fp(c.score, c.truth, c.threshold, c.voxel_ml, **sizes) for c in scored]
    total = sum(count.lesions for count in counts)
    return {
        "total": total,
        "recall_at_false_positives": dict(
            zip(map(str, FALSE_POSITIVE_RATES), map(float, curve.recall_at), strict=True)
        ),
        "recall_at_default": sum(c.detected for c in counts) / total if total else float("nan"),
        "false_positives_at_default": sum(c.false_positives for c in counts) / len(counts),
    }


def evaluate(folder: Path, model: str, methods: list[str], report: Path, device: str = "auto") -> str:
    """Measures methods and the ruler per contrast; writes `metrics.json` and `table.md`, returns the table.

    Raises:
        DisyreError: Unusable dataset, model, method or output.
    """
    cases = read_dataset(folder)
    check_writable(report)
    results: dict[str, dict[str, Any]] = {}
    for contrast in sorted({case.contrast for case in cases}):
        chosen = [case for case in cases if case.contrast == contrast]
        for method in dict.fromkeys([*methods, "ruler"]):
            scored = list(score_cases(Detector(model, method, device), chosen))
            results.setdefault(contrast, {})[method] = measure(scored)
    write_text(json.dumps({"model": model, "results": results}, indent=2) + "\n", report / "metrics.json")
    table = as_table(results)
    write_text(table, report / "table.md")
    return table


def as_table(results: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, one row per contrast and method."""
    rows = [
        "| contrast | method | cases | prevalence | AP (95 %) | oracle Dice | Dice at default | healthy voxels above "
        "| recall at 1 FP | recall / FP at default |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for contrast, by_method in results.items():
        for method, m in by_method.items():
            low, high = m["ap_interval"]
            lesions = m["lesions"]
            rows.append(
                f"| {contrast} | {method} | {m['cases']} | {m['prevalence']:.4f} "
                f"| {m['ap']:.3f} ({low:.2f} to {high:.2f}) | {m['oracle_dice']:.3f} "
                f"| {m['mean_dice_at_default']:.3f} | {m['false_positive_rate']:.4f} "
                f"| {lesions['recall_at_false_positives']['1.0']:.2f} "
                f"| {lesions['recall_at_default']:.2f} / {lesions['false_positives_at_default']:.2f} |"
            )
    return "\n".join(rows) + "\n"
