"""Compares methods on a synthetic scan whose lesion is known: ``python examples/compare_methods.py [METHOD ...]``.

One scan shows how it is done; for figures that mean something see ``disyre evaluate``.
"""

from __future__ import annotations

import argparse

from DISYRECore.detection.detector import Detector
from DISYRECore.evaluation.metrics import average_precision, best_dice, dice
from DISYRECore.io.files import resources
from DISYRECore.methods import method_names
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import SyntheticCase, synthesise_case


def figures(case: SyntheticCase, method: str) -> tuple[float, float, float]:
    """Average precision, best Dice of all thresholds, and Dice of what it draws, over the brain."""
    brain = case.brain_mask.voxels > 0
    detection = Detector(method=method).detect(case.scan, mask=brain, contrast=case.contrast)
    score, truth = detection.score.voxels[brain], case.truth.voxels[brain] > 0
    found = detection.labels.voxels[brain] > 0
    return average_precision(score, truth), best_dice(score, truth)[0], dice(found, truth)


def main() -> None:
    """Prints one line for each method."""
    parser = argparse.ArgumentParser(description="Compares methods on a synthetic scan.")
    usual = ["z-score", "disyre-v2"]
    parser.add_argument("methods", nargs="*", default=usual, help=f"of {', '.join(method_names())}; usually two")
    heads = load_anatomies([resources() / "Anatomy" / "folded_head.nii.gz"])
    case = synthesise_case(heads, index=0, seed=3, contrast="FLAIR", kind="mass")
    print("method      AP     best Dice  Dice as drawn")
    for method in parser.parse_args().methods:
        precision, best, own = figures(case, method)
        print(f"{method:10}  {precision:.3f}  {best:.3f}      {own:.3f}")


if __name__ == "__main__":
    main()
