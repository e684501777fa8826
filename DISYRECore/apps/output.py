"""Writes a detection into a folder: all of it or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from DISYRECore.detection.detector import Detection
from DISYRECore.detection.findings import write_findings_csv
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable
from DISYRECore.io.write import write_volume
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.reports.scan import write_report


def write_detection(detection: Detection, folder: Path, title: str) -> Path:
    """Writes images, table, report and record; returns the path of the report.

    Files are made in a hidden folder beside their places and moved there once all are complete.

    Args:
        detection: What to write.
        folder: Made when missing; files of an earlier detection are replaced.
        title: Heading of the report.

    Raises:
        DisyreError: The folder cannot be written to.
    """
    check_writable(folder)
    made = Path(tempfile.mkdtemp(prefix=".disyre-", dir=folder))
    try:
        _write_all(detection, made, title)
        for path in sorted(made.iterdir()):
            os.replace(path, folder / path.name)
    except OSError as error:
        raise DisyreError(f"Writing to {folder} failed ({error.strerror}); is the disk full?", "output") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder / "report.html"


def _write_all(detection: Detection, folder: Path, title: str) -> None:
    write_volume(detection.score, folder / "score.nii.gz")
    for contrast, part in detection.parts.items():
        write_volume(part, folder / f"score_{contrast}.nii.gz")
    write_volume(detection.labels, folder / "anomalies.nii.gz")
    write_volume(detection.restored, folder / "restored.nii.gz")
    write_volume(detection.brain_mask, folder / "brain_mask.nii.gz")
    write_findings_csv(detection.findings, folder / "findings.csv")
    record = detection.record
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_report(
        folder / "report.html",
        title=title,
        image=detection.scan,
        score=detection.score,
        restored=detection.restored,
        brain_mask=detection.brain_mask.voxels,
        labels=detection.labels.voxels,
        findings=detection.findings,
        border=detection.border,
        score_scale=1.0,
        settings=_settings(record),
        quality=[*record.get("scan", {}).get("flags", []), *record.get("warnings", [])],
        frames=not find_modality(record["modality"]).has_depth,
    )


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """The record flattened to one level, for the report's table."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key}: {inner}": v for inner, v in value.items()}
        else:
            flat[key] = value
    return flat
