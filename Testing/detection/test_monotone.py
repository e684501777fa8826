"""A lesion that grows or becomes stronger is found no less than before: nothing takes it for the norm of its scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from support import ROOT

from DISYRECore.detection.detector import Detector
from DISYRECore.preprocessing.prepare import prepare
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import SyntheticCase, synthesise_case

SPACING_MM = 2.0
VOLUMES_ML = (1, 10, 60, 250)
STEPS = (0.15, 0.5, 1.5)
LESION = {"FLAIR": 280.0, "T1": -180.0}
"""Intensity above that of the brain, whose median is about 450."""

TEXTURE = 0.2
"""Of the tissue, what shows through the lesion that replaces it."""

CORE_MM, USUAL_ML = 5.0, 40.0
LOWER, LESS = 0.1, 0.02
"""What the score at the core, and the share above the border, may lose."""


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(device="cpu")


@pytest.fixture(scope="module", params=["FLAIR", "T1"])
def healthy(request: pytest.FixtureRequest) -> SyntheticCase:
    bank = load_anatomies([ROOT / "Resources" / "Anatomy" / "folded_head.nii.gz"])
    return synthesise_case(bank, 1, 3, contrast=request.param, kind="none", spacing_mm=SPACING_MM)


def distance_mm(case: SyntheticCase) -> np.ndarray:
    """From the middle of the right half of the brain."""
    brain = case.brain_mask.voxels > 0
    places = np.moveaxis(np.indices(brain.shape), 0, -1) * SPACING_MM
    middle = np.array(ndimage.center_of_mass(brain)) * SPACING_MM + [30.0, 0.0, 8.0]
    return np.linalg.norm(places - middle, axis=-1)


def found(detector: Detector, case: SyntheticCase, volume_ml: float, strength: float) -> tuple[float, float]:
    """Mean display score at the core of a ball, and the share of the ball that is above the border."""
    away, brain = distance_mm(case), case.brain_mask.voxels > 0
    radius_mm = np.cbrt(volume_ml * 750 / np.pi)
    soft = np.clip((radius_mm - away) / SPACING_MM + 0.5, 0, 1) * brain
    tissue, median = case.scan.voxels, np.median(case.scan.voxels[brain])
    lesion = np.maximum(median + strength * LESION[case.contrast] + TEXTURE * (tissue - median), 0)
    voxels = (tissue + soft * (lesion - tissue)).astype(np.float32)
    prepared = prepare(replace(case.scan, voxels=voxels), SPACING_MM, brain, case.contrast)
    score = detector.native_score(prepared, detector.restoration(prepared)[0].score).voxels
    core = score[(away < min(CORE_MM, radius_mm)) & brain].mean()
    return float(core), float((score[(away < radius_mm) & brain] > detector.border(case.contrast)).mean())


def check_rising(values: list[float], loss: float) -> None:
    """No value is lower than any before it by more than `loss`."""
    assert all(value >= before - loss for value, before in zip(values, np.maximum.accumulate(values), strict=True)), (
        f"falls: {np.round(values, 3).tolist()}"
    )


def test_a_lesion_that_grows_is_not_lost(detector: Detector, healthy: SyntheticCase) -> None:
    cores, shares = zip(*(found(detector, healthy, ml, 1.0) for ml in VOLUMES_ML), strict=True)
    check_rising(list(cores), LOWER)
    check_rising(list(shares), LESS)
    assert cores[-1] > 0.5


def test_a_lesion_that_becomes_stronger_is_not_lost(detector: Detector, healthy: SyntheticCase) -> None:
    cores = [found(detector, healthy, USUAL_ML, strength)[0] for strength in STEPS]
    check_rising(cores, LOWER)
    assert cores[-1] > 0.5
