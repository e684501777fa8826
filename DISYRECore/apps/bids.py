"""Results of a BIDS dataset as a BIDS derivative dataset, beside the usual ones."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from DISYRECore.apps.cases import Case
from DISYRECore.apps.output import FINDINGS, RECORD, REPORT, read_record
from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable, image_suffix, write_text
from DISYRECore.version import __version__

VERSION = "1.10.0"
_SCAN = re.compile(r"(?P<entities>sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*)_(?P<suffix>[A-Za-z0-9]+)")
_ENDINGS = {
    "score.nii.gz": "desc-{}Anomaly_probseg.nii.gz",
    "anomalies.nii.gz": "desc-{}Anomaly_dseg.nii.gz",
    "brain_mask.nii.gz": "desc-{}Brain_mask.nii.gz",
    RECORD: "desc-{}Anomaly_dseg.json",
    REPORT: "desc-{}Anomaly_report.html",
}
"""Names by those of a result; the braces hold the suffix of the scan, since scans of a subject differ in it."""


def check_bids(cases: Sequence[Case]) -> None:
    """Refuses cases that have no BIDS names.

    Raises:
        DisyreError: There is one.
    """
    for case in cases:
        if _match(case.scans[0]) is None:
            raise DisyreError(f"{case.scans[0].name} is no BIDS name; leave --bids out or give a BIDS dataset.")


def write_derivatives(cases: Sequence[Case], output: Path, folder: Path) -> None:
    """Writes the results of cases under BIDS names; images are second names of the same files where that is possible.

    Args:
        cases: Those without a result are passed over.
        output: Holds the results.
        folder: Of the derivative dataset.

    Raises:
        DisyreError: The folder cannot be written to.
    """
    check_writable(folder)
    description = {
        "Name": "Anomalies found by DISYRE",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "SlicerDISYRE", "Version": __version__}],
    }
    write_text(json.dumps(description, indent=2) + "\n", folder / "dataset_description.json")
    try:
        for case in cases:
            if read_record(output / case.name):
                _write(case, output / case.name, folder)
    except OSError as error:
        raise DisyreError(f"Writing to {folder} failed ({error.strerror}); is the disk full?", "output") from error


def _write(case: Case, result: Path, folder: Path) -> None:
    match = _match(case.scans[0])
    assert match is not None
    levels = re.findall(r"(?:sub|ses)-[A-Za-z0-9]+(?=_|$)", match["entities"])
    place, suffix = folder.joinpath(*levels, "anat"), "Study" if len(case.scans) > 1 else match["suffix"]
    place.mkdir(parents=True, exist_ok=True)
    start = "_".join(levels) if len(case.scans) > 1 else match["entities"]
    for name, ending in _ENDINGS.items():
        _put(result / name, place / f"{start}_{ending.format(suffix)}")
    _put(result / "restored.nii.gz", place / f"{start}_desc-restored_{match['suffix']}.nii.gz")
    write_text(_label_table(result / FINDINGS), place / f"{start}_desc-{suffix}Anomaly_dseg.tsv")


def _label_table(findings: Path) -> str:
    """The findings as BIDS wants the labels of a segmentation: tabs, ``index`` and ``name`` first."""
    with findings.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["index", "name", *head[1:]])
    writer.writerows([label, f"finding {label}", *(value or "n/a" for value in rest)] for label, *rest in rows)
    return text.getvalue()


def _put(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(source, part)
    if not part.exists():
        shutil.copy2(source, part)
    os.replace(part, target)


def _match(scan: Path) -> re.Match[str] | None:
    return _SCAN.fullmatch(scan.name[: len(scan.name) - len(image_suffix(scan))])
