"""Detection over one scan or many: one bad case does not stop the others."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from DISYRECore.apps.output import write_detection
from DISYRECore.detection.detector import Detection, Detector
from DISYRECore.detection.study import detect_study
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import IMAGE_SUFFIXES, check_writable, write_text
from DISYRECore.io.read import find_scans

SUMMARY = "summary.csv"
Case = tuple[Callable[..., Detection], str]
"""What detects, told the progress, and the title of its report."""

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
    cases: dict[str, Case] = {
        name: (partial(detector.detect, scan, **settings), _title(scan)) for scan, name in _named(scans)
    }
    return _run(cases, output, single=single)


def detect_studies(detector: Detector, paths: list[Path], output: Path, **settings: Any) -> int:
    """Detects in every study and writes the results, as `detect_all` does.

    Args:
        detector: Loaded once for all.
        paths: The scans of one patient, or one folder: of the scans of a patient, or of several subjects.
        output: See `detect_all`.
        settings: For `study.detect_study`.
    """
    studies = find_studies(paths)
    cases: dict[str, Case] = {
        name: (partial(detect_study, detector, scans, **settings), f"Study of {len(scans)} scans")
        for name, scans in studies.items()
    }
    return _run(cases, output, single=len(studies) == 1)


def find_studies(paths: list[Path]) -> dict[str, list[Path]]:
    """The studies that paths stand for: their scans by the name of the case.

    Several paths are one study. In a folder, scans that lie side by side are one, and those of a BIDS subject and
    session are one wherever they lie.

    Raises:
        DisyreError: There is no scan.
    """
    scans = [scan for path in paths for scan in find_scans(path)]
    if len(paths) > 1 or paths[0].is_file():
        return {"study": scans}
    studies: dict[str, list[Path]] = {}
    for scan in scans:
        studies.setdefault(_study_of(scan, paths[0]), []).append(scan)
    return studies


def _study_of(scan: Path, root: Path) -> str:
    """``sub-01_ses-1`` of a BIDS scan, otherwise the folders between a root and a scan."""
    entities = [f"{key}-{value}" for key, value in re.findall(r"(sub|ses)-([A-Za-z0-9]+)", scan.name)]
    folders = scan.relative_to(root).parts[:-1]
    return "_".join(entities) or "_".join(folders) or "study"


def _run(cases: dict[str, Case], output: Path, *, single: bool) -> int:
    """Runs cases by name; one bad case does not stop the others."""
    check_writable(output)
    if single:
        _write_one(*next(iter(cases.values())), output)
        return 0
    rows = [_try_one(*case, output / name) for name, case in cases.items()]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text(text.getvalue(), output / SUMMARY)
    return 0 if all(row["status"] == "ok" for row in rows) else 2


def _try_one(detect: Callable[..., Detection], title: str, output: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"case": output.name, "status": "failed"}
    try:
        detection = _write_one(detect, title, output)
    except DisyreError as error:
        print(f"disyre: {output.name}: {error}", file=sys.stderr)
        return row | {"message": str(error)}
    return row | {
        "status": "ok",
        "findings": len(detection.findings),
        "volume_ml": round(sum(finding.volume_ml for finding in detection.findings), 3),
        "contrast": " ".join(detection.parts) or detection.record["scan"]["contrast"],
        "seconds": round(sum(detection.record["seconds"].values()), 1),
    }


def _write_one(detect: Callable[..., Detection], title: str, output: Path) -> Detection:
    """Detects with a bar on stderr and writes the results."""
    with tqdm(total=100, file=sys.stderr, bar_format="{desc:<10} {percentage:3.0f} % |{bar}| {remaining} left") as bar:

        def progress(stage: str, share: float) -> None:
            bar.set_description_str(stage)
            if stage == "restore":
                bar.update(round(100 * share) - bar.n)

        detection = detect(progress=progress)
        bar.set_description_str("write")
        report = write_detection(detection, output, title)
    for flag in [*detection.record["scan"]["flags"], *(detection.record["warnings"] if detection.parts else [])]:
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
