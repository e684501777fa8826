"""The files of one result: written all or none, found again, moved and removed without touching anything else."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from DISYRECore.detection.detector import Detection
from DISYRECore.detection.findings import write_findings_csv, write_findings_json
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import DICOM_RESULTS, check_writable
from DISYRECore.io.write import write_volume
from DISYRECore.preprocessing.modalities import find_modality
from DISYRECore.reports.scan import write_report, write_thumbnail

RECORD, FINDINGS, REPORT, THUMBNAIL = "run.json", "findings.csv", "report.html", "thumbnail.png"
FINDINGS_LIST = "findings.json"
IMAGES = ("score.nii.gz", "anomalies.nii.gz", "restored.nii.gz", "brain_mask.nii.gz")
ALWAYS = (*IMAGES, FINDINGS, FINDINGS_LIST, REPORT, THUMBNAIL, RECORD)
"""What every result has. A folder without a record holds no result."""

_HALF = ".run.json"
"""Marks a folder with half a result."""

PATTERNS = (*ALWAYS, "score_*.nii.gz", *DICOM_RESULTS)
"""Every file of ours."""


def write_detection(detection: Detection, folder: Path, title: str, dicom: bool = False) -> Path:
    """Writes images, table, report and record; returns the path of the report.

    Files are made in a hidden folder beside their places and moved there once all are complete.

    Args:
        detection: What to write.
        folder: Made when missing; an earlier result is replaced.
        title: Heading of the report.
        dicom: Whether to write DICOM objects too; the scan was read from a DICOM series.

    Raises:
        DisyreError: The folder cannot be written to.
    """
    check_writable(folder)
    check_free(folder)
    made = folder / f".disyre-{uuid.uuid4().hex}"
    try:
        write_result(detection, made, title, dicom)
        remove_result(folder)
        move_result(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder / REPORT


def write_result(detection: Detection, folder: Path, title: str, dicom: bool = False) -> None:
    """Writes a result into a folder that does not exist yet, down to the disk; see `write_detection`.

    Raises:
        DisyreError: Of kind ``output``: it cannot be written.
    """
    try:
        folder.mkdir(parents=True)
        _write_all(detection, folder, title)
        if dicom:
            _write_dicom(detection, folder)
        for path in folder.iterdir():
            _flush(path)
    except OSError as error:
        raise DisyreError(f"Writing a result failed ({error.strerror}); is the disk full?", "output") from error


def read_record(folder: Path) -> dict[str, Any]:
    """The record of the result in a folder; empty where there is none, or not all of it."""
    return _record(folder) if all((folder / name).is_file() for name in ALWAYS) else {}


def holds_result(folder: Path) -> bool:
    """Whether the files in a folder that are called like those of a result are ours, also half a result."""
    return bool(_record(folder)) or (folder / _HALF).exists()


def result_files(folder: Path) -> list[Path]:
    """The files in a folder that are called like those of a result."""
    return sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})


def check_free(folder: Path) -> None:
    """Refuses a folder in which files of somebody else would be overwritten.

    Raises:
        DisyreError: Of kind ``output``.
    """
    taken = result_files(folder)
    if taken and not holds_result(folder):
        raise DisyreError(f"{taken[0]} is no result of disyre; choose another output folder.", "output")


def move_result(source: Path, target: Path) -> None:
    """Moves a result, and nothing that lies beside it, to a folder without one.

    In one go where nothing lies beside it. Otherwise file by file, while the target is marked as holding half a result;
    the source is whole until the target is.

    Raises:
        DisyreError: Of kind ``output``: there is a result already, or the files cannot be moved.
    """
    if (target / RECORD).exists():
        raise DisyreError(f"There is a result in {target} already; choose another output folder.", "output")
    try:
        with suppress(OSError):
            target.rmdir()
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() and len(result_files(source)) == len(os.listdir(source)):
            os.rename(source, target)
        else:
            _move_files(source, target)
    except OSError as error:
        raise DisyreError(f"Writing to {target} failed ({error.strerror}); is the disk full?", "output") from error


def _move_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    (target / _HALF).touch()
    for path in sorted(result_files(source), key=lambda path: path.name == RECORD):
        _copy(path, target / path.name)
    (target / _HALF).unlink()
    remove_result(source)


def _copy(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def remove_result(folder: Path) -> None:
    """Removes a result, or what there is of one, and the folder if nothing is left in it."""
    if not holds_result(folder):
        return
    (folder / _HALF).touch()
    for path in (folder / RECORD, *result_files(folder), folder / _HALF):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and "disyre" in record else {}


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _write_all(detection: Detection, folder: Path, title: str) -> None:
    volumes = detection.score, detection.labels, detection.restored, detection.brain_mask
    for name, volume in zip(IMAGES, volumes, strict=True):
        write_volume(volume, folder / name)
    for contrast, part in detection.parts.items():
        write_volume(part, folder / f"score_{contrast}.nii.gz")
    write_findings_csv(detection.findings, folder / FINDINGS)
    write_findings_json(detection.findings, folder / FINDINGS_LIST)
    record = detection.record
    pictured: dict[str, Any] = {
        "image": detection.scan,
        "score": detection.score,
        "brain_mask": detection.brain_mask.voxels,
        "labels": detection.labels.voxels,
        "findings": detection.findings,
        "border": detection.border,
    }
    write_thumbnail(folder / THUMBNAIL, **pictured)
    write_report(
        folder / REPORT,
        title=title,
        restored=detection.restored,
        score_scale=1.0,
        settings=_settings(record),
        quality=doubts(record),
        frames=not find_modality(record["modality"]).has_depth,
        **pictured,
    )
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _write_dicom(detection: Detection, folder: Path) -> None:
    from DISYRECore.reports.dicom import write_dicom_results

    write_dicom_results(detection, Path(detection.scan.source), folder)


def doubts(record: dict[str, Any]) -> list[str]:
    """What a reader of a result should know: sentences about the scan and the run."""
    return [*record.get("scan", {}).get("flags", []), *record.get("warnings", [])]


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """The record flattened to one level, for the report's table; without the scan's path, which may name somebody."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key}: {inner}": v for inner, v in value.items()}
        elif key != "input":
            flat[key] = value
    return flat
