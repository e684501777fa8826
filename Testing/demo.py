"""Makes a demo scan with a lesion, detects it with the bundled model, and prints where the report is.

The anatomy is the bundled average head with a folded cortex, so nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from DISYRECore.apps.cli import main
from DISYRECore.io.files import resources
from DISYRECore.io.write import write_volume
from DISYRECore.synthesis.anatomy import load_anatomies
from DISYRECore.synthesis.test_set import synthesise_case

ROOT = Path(__file__).resolve().parent.parent
SEED = 3


def make_scan(folder: Path, contrast: str = "FLAIR", kind: str = "mass") -> Path:
    """Writes `scan.nii.gz` and its `truth.nii.gz`; returns the path of the scan."""
    bank = load_anatomies([resources() / "Anatomy" / "folded_head.nii.gz"])
    case = synthesise_case(bank, 0, SEED, contrast=contrast, kind=kind)
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(case.scan, folder / "scan.nii.gz")
    write_volume(case.truth, folder / "truth.nii.gz")
    return folder / "scan.nii.gz"


if __name__ == "__main__":
    out = ROOT / "demo"
    sys.exit(main(["detect", str(make_scan(out)), "-o", str(out / "result")]))
