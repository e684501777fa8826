"""Display scores of three small synthetic scans are what they were when they were last recorded.

A change that is meant to move scores records them anew::

    python Testing/detection/test_reference_scores.py --record
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from DISYRECore.detection.detector import Detector
from DISYRECore.io.average_head import AVERAGE_HEAD
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import SyntheticCase, synthesise_case

RECORD = Path(__file__).with_name("reference_scores.json")
CONTRASTS, METHODS = ("T1", "T2", "FLAIR"), ("z-score", "disyre-v2", "synomaly")
SEED, SPACING_MM, SLICES = 7, 4.0, 6
TOLERANCE = 1e-3

SHARES = np.linspace(0.05, 1, 20)


@lru_cache
def case_of(contrast: str) -> SyntheticCase:
    """The average head with a mass."""
    heads = load_anatomies([AVERAGE_HEAD])
    return synthesise_case(
        heads, CONTRASTS.index(contrast), SEED, contrast=contrast, kind="mass", spacing_mm=SPACING_MM
    )


def slices_with_the_mass(case: SyntheticCase) -> np.ndarray:
    """The brain in a few slices around the largest one of the mass, (X, Y, Z) bool."""
    largest = int(np.argmax(case.truth.voxels.sum((0, 1))))
    brain = case.brain_mask.voxels > 0
    brain[..., : largest - SLICES // 2] = brain[..., largest + SLICES // 2 :] = False
    return brain


def summary(score: np.ndarray, brain: np.ndarray) -> dict[str, list[float]]:
    """Quantiles of a score (X, Y, Z) in the brain, and its mean over the first half of the brain along each axis."""
    where = np.argwhere(brain)
    values = score[brain]
    halves = [values[along <= np.median(along)].mean() for along in where.T]
    return {"quantiles": np.quantile(values, SHARES).tolist(), "halves": [float(half) for half in halves]}


def score_summary(contrast: str, method: str) -> dict[str, list[float]]:
    """Of the method with its bundled model, in single precision whatever the processor could do."""
    case = case_of(contrast)
    brain = slices_with_the_mass(case)
    with patch("DISYRECore.models.device.has_bfloat16", return_value=False):
        detection = Detector(method=method, device="cpu").detect(case.scan, mask=brain, contrast=contrast)
    return summary(detection.score.voxels, brain)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_on_record(contrast: str, method: str) -> None:
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[contrast][method]
    for part, values in score_summary(contrast, method).items():
        assert values == pytest.approx(recorded[part], abs=TOLERANCE), part


def record_lines() -> Iterator[str]:
    """One line of JSON a method, so that a change shows what it moved."""
    for contrast in CONTRASTS:
        rows = {method: score_summary(contrast, method) for method in METHODS}
        short = {
            method: {part: [round(value, 5) for value in values] for part, values in row.items()}
            for method, row in rows.items()
        }
        lines = ",\n".join(f"    {json.dumps(method)}: {json.dumps(row)}" for method, row in short.items())
        yield f"  {json.dumps(contrast)}: {{\n{lines}\n  }}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Records the scores that the tests compare with.")
    parser.add_argument("--record", action="store_true", required=True, help=f"write {RECORD.name}")
    parser.parse_args()
    RECORD.write_text("{\n" + ",\n".join(record_lines()) + "\n}\n", encoding="utf-8")
