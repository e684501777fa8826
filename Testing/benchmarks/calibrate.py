"""Sets the thresholds of a trained model from healthy scans.

    python Testing/benchmarks/calibrate.py MODEL LABELMAPS --t1 DIR [--rate 0.005] [--normalise T1=robust ...]

T1: stripped real scans in DIR (every second one; the others stay for checking). T2 and FLAIR, of which too few real
healthy scans are at hand: synthetic healthy volumes of the validation maps 15-17. What a method itself does not
take for anomalous lies below every threshold, but for standardised scores, which have a scale of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from DISYRECore.detection.detector import Detector
from DISYRECore.detection.scale import NORMALISATIONS
from DISYRECore.evaluation.calibrate import healthy_threshold, own_threshold, write_thresholds
from DISYRECore.io.read import find_scans, read_volume
from DISYRECore.models.description import read_description
from DISYRECore.preprocessing.prepare import PreparedBrain, prepare
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case

VALIDATION = ("training_seg_15.nii.gz", "training_seg_16.nii.gz", "training_seg_17.nii.gz")
CASES, SEED = 9, 23


def real(folder: Path, spacing_mm: float) -> Iterator[PreparedBrain]:
    """Every second scan of a folder."""
    for path in find_scans(folder)[::2]:
        yield prepare(read_volume(path), spacing_mm, contrast="T1")


def synthetic(labelmaps: Path, contrast: str, spacing_mm: float) -> Iterator[PreparedBrain]:
    """Healthy volumes of the validation anatomies."""
    bank = load_anatomies([labelmaps / name for name in VALIDATION])
    for index in range(CASES):
        case = synthesise_case(bank, index, SEED, contrast=contrast, kind="none")
        yield prepare(case.scan, spacing_mm, case.brain_mask.voxels > 0, contrast)


def main() -> None:
    """Measures the thresholds and writes them into the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("labelmaps", type=Path)
    parser.add_argument("--t1", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=0.005)
    how = f"CONTRAST=NAME, names: {', '.join(NORMALISATIONS)}; the model's own when not given"
    parser.add_argument("--normalise", nargs="+", metavar="CONTRAST=NAME", help=how)
    options = parser.parse_args()
    description = read_description(options.model)
    how = dict(one.split("=", 1) for one in options.normalise) if options.normalise else description.detection.normalise
    detector = Detector(str(options.model), device="cpu")
    assert detector.model
    detection = replace(description.detection, normalise=how)
    detector.model = replace(detector.model, description=replace(description, detection=detection))
    brains = {"T1": real(options.t1, detector.spacing_mm)}
    for contrast in ("T2", "FLAIR"):
        brains[contrast] = synthetic(options.labelmaps, contrast, detector.spacing_mm)
    brains = {contrast: scans for contrast, scans in brains.items() if contrast in description.contrasts}
    thresholds = {name: healthy_threshold(detector, scans, options.rate) for name, scans in brains.items()}
    for name in thresholds.keys() - {name for name, kind in how.items() if kind != "none"}:
        thresholds[name] = max(thresholds[name], own_threshold(detector.settings_for(name)))
    write_thresholds(options.model, thresholds, options.rate, "T1: real healthy scans; T2, FLAIR: synthetic", how)
    print(thresholds)


if __name__ == "__main__":
    main()
