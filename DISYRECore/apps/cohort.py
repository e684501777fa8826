"""Detection over one scan or many: one bad case does not stop the others."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from DISYRECore.apps.output import write_detection
from DISYRECore.detection.detector import Detection, Detector
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import IMAGE_SUFFIXES, check_writable, write_text

SUMMARY = "summary.csv"
_COLUMNS = ("case", "status", "findings", "volume_ml", "contrast", "seconds", "message")


def detect_all(detector: Detector, scans: list[Path], output: Path, *, single: bool, **settings: Any) -> int:
    """Detects in every scan and writes the results.

    Args:
        detector: Loaded once for all.
        scans: Files or DICOM folders.
        output: Results of a single scan go here, otherwise into one folder per scan beside `summary.csv`.
        single: Whether INPUT was one scan; then its error is raised.
        settings: For `Detector.detect`.

    Returns:
        Exit code: 0 when every scan succeeded, 2 otherwise.

    Raises:
        DisyreError: The output cannot be written, or the single scan is unusable.
    """
    check_writable(output)
    if single:
        _detect_one(detector, scans[0], output, **settings)
        return 0
    rows = [_try_one(detector, scan, output / name, **settings) for scan, name in _named(scans)]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(text.getvalue(), output / SUMMARY)
    return 0 if all(row["status"] == "ok" for row in rows) else 2


def _try_one(detector: Detector, scan: Path, output: Path, **settings: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"case": output.name, "status": "failed"}
    try:
        detection = _detect_one(detector, scan, output, **settings)
    except DisyreError as error:
        print(f"disyre: {output.name}: {error}", file=sys.stderr)
        return row | {"message": str(error)}
    return row | {
        "status": "ok",
        "findings": len(detection.findings),
        "volume_ml": round(sum(finding.volume_ml for finding in detection.findings), 3),
        "contrast": detection.record["scan"]["contrast"],
        "seconds": round(sum(detection.record["seconds"].values()), 1),
    }


def _detect_one(detector: Detector, scan: Path, output: Path, **settings: Any) -> Detection:
    """Detects in one scan with a bar on stderr and writes the results."""
    with tqdm(total=100, file=sys.stderr, bar_format="{desc:<10} {percentage:3.0f} % |{bar}| {remaining} left") as bar:

        def progress(stage: str, share: float) -> None:
            bar.set_description_str(stage)
            if stage == "restore":
                bar.update(round(100 * share) - bar.n)

        detection = detector.detect(scan, progress=progress, **settings)
        bar.set_description_str("write")
        report = write_detection(detection, output, _title(scan))
    for flag in detection.record["scan"]["flags"]:
        print(f"disyre: {flag}", file=sys.stderr)
    print(report)
    return detection


def _title(scan: Path) -> str:
    return "DICOM series" if scan.is_dir() else scan.name


def _named(scans: list[Path]) -> list[tuple[Path, str]]:
    """A folder name for every scan: its file name without suffix, made unique by a number."""
    names: list[str] = []
    for scan in scans:
        stem = _stem(scan)
        same = sum(name == stem or name.startswith(stem + "~") for name in names)
        names.append(stem if not same else f"{stem}~{same + 1}")
    return list(zip(scans, names, strict=True))


def _stem(scan: Path) -> str:
    for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True):
        if scan.name.lower().endswith(suffix):
            return scan.name[: -len(suffix)]
    return scan.name
