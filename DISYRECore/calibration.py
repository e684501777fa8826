"""Thresholds that mean something: the score that a stated share of healthy voxels exceeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from DISYRECore.errors import DisyreError
from DISYRECore.model import DESCRIPTION, read_description
from DISYRECore.pipeline import Detector
from DISYRECore.prepare import PreparedBrain

SHOWN_THRESHOLD = 0.25
"""Where the calibrated threshold of a residual or fused score lies on the score shown; fixes its scale."""


def healthy_threshold(detector: Detector, brains: Iterable[PreparedBrain], rate: float) -> float:
    """The score above which a share `rate` of healthy voxels lies, every scan weighing the same.

    Args:
        detector: Model and method.
        brains: Healthy scans, prepared.
        rate: False-positive rate, in (0, 1).

    Raises:
        DisyreError: There are no scans.
    """
    ladders = []
    for brain in brains:
        made, _ = detector.restoration(brain)
        scores = made.score.numpy()[np.ascontiguousarray(brain.mask.T)]
        ladders.append(np.quantile(scores, np.linspace(0, 1, 20_001)))
    if not ladders:
        raise DisyreError("There are no healthy scans to calibrate on; give at least one.")
    return float(np.quantile(np.concatenate(ladders), 1 - rate))


def write_thresholds(folder: Path, thresholds: dict[str, float], rate: float, source: str) -> None:
    """Stores calibrated thresholds (per contrast, raw score) in a model's description.

    A region score is a probability and shown as it is; others are scaled so that every threshold is shown at
    `SHOWN_THRESHOLD`.
    """
    description = read_description(folder)
    as_it_is = description.settings.get("score") == "region"
    scale = {c: 1.0 if as_it_is else round(t / SHOWN_THRESHOLD, 6) for c, t in thresholds.items()}
    scaled = replace(
        description,
        score_scale=scale,
        thresholds={c: round(t / scale[c], 4) for c, t in thresholds.items()},
        false_positive_rate=rate,
        training={**description.training, "calibration": source},
    )
    (folder / DESCRIPTION).write_text(scaled.to_json(), encoding="utf-8")
