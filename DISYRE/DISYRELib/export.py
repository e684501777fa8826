"""Takes a result out of the scene: images and report."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRELib.options import Criteria
from DISYRELib.run import export_volume
from DISYRELib.scene import SEGMENT_ID, Result, rows_of

if TYPE_CHECKING:
    from DISYRE import DISYRELogic


def export_images(result: Result, folder: str) -> str:
    """Writes score and segment as NIfTI files and the findings as CSV; returns their names.

    Raises:
        DisyreError: They cannot be written.
    """
    score, mask = Path(folder) / "score.nii.gz", Path(folder) / "anomalies.nii.gz"
    _write(result.score, score)
    inside = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentation, SEGMENT_ID, result.score)
    copy = slicer.vtkMRMLScalarVolumeNode()
    slicer.util.updateVolumeFromArray(copy, inside.astype(np.uint8))
    copy.CopyOrientation(result.score)
    _write(copy, mask)
    table = Path(folder) / "findings.csv"
    storage = slicer.vtkMRMLTableStorageNode()
    storage.SetFileName(str(table))
    if not storage.WriteData(result.table):
        raise DisyreError(_("Nothing can be written to {folder}; choose another folder.").format(folder=folder))
    return f"{score.name}, {mask.name}, {table.name}"


def _write(volume: slicer.vtkMRMLScalarVolumeNode, path: Path) -> None:
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    if not storage.WriteData(volume) or not path.is_file():
        raise DisyreError(_("Nothing can be written to {folder}; choose another folder.").format(folder=path.parent))


def save_report(logic: DISYRELogic, result: Result, path: str, criteria: Criteria) -> None:
    """Has the worker write the report of what counts as a finding and is kept; as PDF where the path says so.

    Raises:
        DisyreError: It could not be made or written.
    """
    if result.input is None:
        raise DisyreError(_("The volume of this result is no longer in the scene; the report needs it."))
    with tempfile.TemporaryDirectory(prefix="disyre-", ignore_cleanup_errors=True) as scratch:
        request = _report_request(result, Path(scratch), criteria)
        report = logic.request(request)["report"]
        try:
            if path.lower().endswith(".pdf"):
                _print(Path(report), Path(scratch) / "report.pdf")
                report = Path(scratch) / "report.pdf"
            shutil.copyfile(report, path)
        except OSError as error:
            raise DisyreError(
                _("The report cannot be written to {path}; choose another place.").format(path=path)
            ) from error


def _print(page: Path, pdf: Path) -> None:
    """Prints a HTML file into a PDF file."""
    printer_class = getattr(qt, "QPdfWriter", None) or getattr(qt, "QPrinter", None)
    if printer_class is None:
        raise DisyreError(_("This version of Slicer cannot write PDF; save HTML and print it from a browser."))
    printer = printer_class(str(pdf)) if printer_class.__name__ == "QPdfWriter" else printer_class()
    if printer_class.__name__ == "QPrinter":
        printer.setOutputFormat(printer_class.PdfFormat)
        printer.setOutputFileName(str(pdf))
    document = qt.QTextDocument()
    document.setHtml(page.read_text(encoding="utf-8"))
    write = getattr(document, "print", None) or document.print_
    write(printer)


def _report_request(result: Result, folder: Path, criteria: Criteria) -> dict:
    export_volume(result.input, folder / "scan.nrrd")
    arrays = {"score": result.score, "brain": result.levels, "restored": result.restored}
    paths = {name: folder / f"{name}.npy" for name, node in arrays.items() if node is not None}
    for name, path in paths.items():
        np.save(path, slicer.util.arrayFromVolume(arrays[name]), allow_pickle=False)
    record = result.record
    scan = record.get("scan", {})
    return {
        "command": "report",
        "input": str(folder / "scan.nrrd"),
        "output": str(folder),
        "title": "MRI",
        **asdict(criteria),
        "healthy": record.get("healthy"),
        "keep": [row.number for row in rows_of(result) if row.kept],
        "settings": {key: record.get(key) for key in ("disyre", "model", "model_version", "model_sha256", "method")},
        "quality": [*scan.get("flags", []), *record.get("warnings", [])],
        **{name: str(path) for name, path in paths.items()},
    }
