"""Two scans of a patient in, what changed out."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from DISYRECore.detection.comparison import Change, Comparison, compare
from DISYRECore.detection.detector import Detection, Detector
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import all_or_none, check_exists, check_writable, short_name
from DISYRECore.io.write import write_volume
from DISYRECore.reports.comparison import write_comparison_report

REPORT, TABLE, RECORD = "comparison.html", "changes.csv", "changes.json"


def compare_scans(
    before: Path, after: Path, output: Path, contrast: str | None = None, device: str = "auto"
) -> Comparison:
    """Looks for anomalies in both scans, compares them and writes what changed.

    Args:
        before: The earlier scan, or a folder with its result.
        after: The later one, likewise.
        output: Folder, made when missing.
        contrast: Of both scans; recognised when None.
        device: As for `Detector`.

    Raises:
        DisyreError: A scan cannot be used, the two cannot be compared, or the output cannot be written.
    """
    for path in (before, after):
        check_exists(path)
    check_writable(output)
    detector = Detector(device=device)
    comparison = compare(*(detected(detector, path, contrast) for path in (before, after)))
    with all_or_none(output) as folder:
        _write(comparison, folder, f"{short_name(before)} and {short_name(after)}")
    return comparison


def detected(detector: Detector, path: Path, contrast: str | None) -> Detection:
    """A detection in a scan, or in the scan of a result with the mask and contrast of that result."""
    record = path / "run.json"
    if not record.is_file():
        return detector.detect(path, contrast=contrast)
    told = json.loads(record.read_text(encoding="utf-8"))
    if not told.get("input"):
        raise DisyreError(f"The result {short_name(path)} does not say of which scan it is; give the scan itself.")
    named = contrast or told["scan"]["contrast"]
    return detector.detect(told["input"][0], mask=path / "brain_mask.nii.gz", contrast=named)


def _write(comparison: Comparison, folder: Path, title: str) -> None:
    volumes = {
        "before": comparison.before,
        "after": comparison.after,
        "evidence": comparison.evidence,
        "changes": comparison.labels,
    }
    for name, volume in volumes.items():
        write_volume(volume, folder / f"{name}.nii.gz")
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _columns(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(change) for change in comparison.changes)
    told = {
        "changes": [asdict(change) for change in comparison.changes],
        "steady_ml": comparison.steady,
        "doubts": comparison.doubts,
        **comparison.record,
    }
    (folder / RECORD).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    write_comparison_report(comparison, folder / REPORT, title)


def _columns() -> list[str]:
    names = [field.name for field in fields(Change) if field.name != "centroid_ras"]
    return [*names, "centroid_r_mm", "centroid_a_mm", "centroid_s_mm"]


def _row(change: Change) -> dict[str, Any]:
    values = asdict(change)
    place = dict(zip(_columns()[-3:], (f"{one:.1f}" for one in values.pop("centroid_ras")), strict=True))
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in values.items()} | place
