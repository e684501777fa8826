"""Finds anomalies in one scan: ``python examples/detect_one.py [SCAN] [-o FOLDER]``.

Without a scan, one with a synthetic lesion is made from the bundled head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from DISYRECore import load_volume
from DISYRECore.apps.output import write_detection
from DISYRECore.detection.detector import Detector
from DISYRECore.io.files import resources
from DISYRECore.io.volume import Volume
from DISYRECore.models.description import list_models
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case


def synthetic_scan() -> Volume:
    """A FLAIR of 1 mm with a mass."""
    heads = load_anatomies([resources() / "Anatomy" / "folded_head.nii.gz"])
    return synthesise_case(heads, index=0, seed=3, contrast="FLAIR", kind="mass").scan


def main() -> None:
    """Prints the models that are installed and the findings of the scan; writes the results into a folder."""
    parser = argparse.ArgumentParser(description="Finds anomalies in one scan.")
    parser.add_argument("scan", nargs="?", help="NIfTI, NRRD or MHA file, or DICOM folder; a synthetic one if none")
    parser.add_argument("-o", "--output", default="demo/example", help="where the results go (default demo/example)")
    options = parser.parse_args()
    for model in list_models():
        print(f"{model.id}: {model.title}")
    scan = load_volume(options.scan) if options.scan else synthetic_scan()
    detection = Detector().detect(scan)
    print(f"{len(detection.findings)} findings, drawn where the score is above {detection.border:.2f}")
    for finding in detection.findings:
        place = ", ".join(f"{mm:.0f}" for mm in finding.centroid_ras)
        print(
            f"{finding.label}: {finding.side}, {finding.volume_ml:.1f} mL, at RAS {place} mm, "
            f"{finding.rarity or 'nobody knows how unusual'}"
        )
    print(write_detection(detection, Path(options.output), title="Example"))


if __name__ == "__main__":
    main()
