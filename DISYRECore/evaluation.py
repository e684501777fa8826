"""Measures methods side by side on a dataset with known truth; the ruler is always among them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from DISYRECore.datasets import Case, read_dataset
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

SMALLEST_LESION_MM3 = 100.0
FALSE_POSITIVE_RATES = (0.5, 1.0, 2.0, 4.0, 8.0)
THRESHOLDS = 24
KNOWN_CONTRASTS = ("T1", "T2", "FLAIR")


@dataclass(frozen=True)
class ScoredCase:
    """What one method made of one case.

    Attributes:
        subject: Of the dataset.
        score: Score before it is clipped for display, native grid, float32.
        truth, brain: Bool, same grid.
        voxel_ml: Volume of a voxel.
        threshold: Default threshold in units of `score`.
    """

    subject: str
    score: np.ndarray
    truth: np.ndarray
    brain: np.ndarray
    voxel_ml: float
    threshold: float


def score_cases(detector: Detector, cases: list[Case]) -> Iterator[ScoredCase]:
    """Runs a detector over cases, with the brain masks and contrasts that the dataset gives."""
    for case in cases:
        scan, truth, mask = case.load()
        brain = prepare(scan, detector.spacing_mm, mask, case.contrast if case.contrast in KNOWN_CONTRASTS else None)
        made, _ = detector.restoration(brain)
        scale, threshold = detector.shown(brain.contrast)
        score = brain.to_native(made.score).voxels
        inside = brain.native_mask
        yield ScoredCase(case.subject, score, truth & inside, inside, scan.voxel_ml, scale * threshold)


def measure(scored: list[ScoredCase]) -> dict[str, Any]:
    """All figures of one method on one set of cases.

    AP and Dice count every brain voxel of every case, healthy ones included. Lesions below
    `SMALLEST_LESION_MM3` and findings below `SMALLEST_ML` are ignored when lesions are counted; a lesion is
    found when a tenth of it is above the threshold. Intervals are 95 % bootstrap over subjects.
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
        "ap_interval": pooled_ap_bootstrap(_by_subject(scored, scores), _by_subject(scored, labels)),
        "oracle_dice": oracle,
        "oracle_threshold": at,
        "mean_dice_at_oracle": _mean([dice(s > at, t) for s, t in zip(scores, labels, strict=True)], sick),
        "mean_dice_at_default": _mean(shipped, sick),
        "mean_dice_at_default_interval": _interval(np.array(shipped)[sick]),
        "false_positive_rate": float(np.concatenate(healthy).mean()),
        "lesions": _lesions(scored, pooled),
    }


def _by_subject(scored: list[ScoredCase], values: list[np.ndarray]) -> list[np.ndarray]:
    """Voxels of all cases of a subject in one array, so that a bootstrap draws subjects."""
    subjects = dict.fromkeys(case.subject for case in scored)
    pairs = list(zip(scored, values, strict=True))
    return [np.concatenate([v for case, v in pairs if case.subject == subject]) for subject in subjects]


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
    dataset = read_dataset(folder)
    check_writable(report)
    for warning in dataset.warnings:
        print(f"disyre: {warning}", file=sys.stderr)
    cases = dataset.cases
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
