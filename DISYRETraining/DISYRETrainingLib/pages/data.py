"""The scans to learn from."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from DISYRELib.checks import problem_with
from DISYRELib.run import export_volume
from slicer.i18n import tr as _

from DISYRECore.io.files import check_writable
from DISYRETrainingLib.pages.base import Page
from DISYRETrainingLib.places import problem_with_work

RECOMMENDED, FEWEST = 20, 3
"""Healthy scans that are recommended; patients without whom nothing could be learnt, chosen and calibrated."""

COLUMNS = ("Use", "Scan", "Remarks", "Person", "Contrast", "Spacing")


@dataclass(frozen=True)
class ScanRow:
    """What is known of a scan.

    Attributes:
        path: Relative to the folder.
        patient, contrast, spacing: For the table.
        remarks: Sentences.
        doubtful: Whether it should be looked at before it is used.
        usable: Whether it can be used at all.
    """

    path: str
    patient: str
    contrast: str
    spacing: str
    remarks: tuple[str, ...]
    doubtful: bool
    usable: bool


class DataPage(Page):
    """Folders, and a table of what was found."""

    title = _("Data")

    def __init__(self, wizard: Any) -> None:
        super().__init__(wizard)
        self.rows: list[ScanRow] = []
        self._read: tuple[str, float] | None = None
        self._edits = (
            (self.ui.scansEdit, "scansFolder"),
            (self.ui.mapsEdit, "mapsFolder"),
            (self.ui.workEdit, "workFolder"),
        )
        for edit, name in self._edits:
            edit.connect("currentPathChanged(QString)", self._follow(name))
        self.ui.sceneButton.connect("clicked()", lambda: wizard.attempt(self._take_scene))
        self.ui.checkButton.connect("clicked()", lambda: wizard.attempt(self._check))
        table = self.ui.scansTable
        table.setColumnCount(len(COLUMNS))
        table.setHorizontalHeaderLabels([_(name) for name in COLUMNS])
        table.connect("cellChanged(int,int)", self._on_cell)
        table.connect("cellDoubleClicked(int,int)", self._show_scan)

    def _follow(self, name: str) -> Any:
        def changed(path: str) -> None:
            if self.parameters is not None and path != getattr(self.parameters, name):
                setattr(self.parameters, name, path)

        return changed

    @property
    def contrasts(self) -> list[str]:
        """Of the scans that are used."""
        self._load()
        return sorted({row.contrast for row in self._used()})

    def _used(self) -> list[ScanRow]:
        excluded = set(self.parameters.excluded.splitlines())
        return [row for row in self.rows if row.path not in excluded]

    def refresh(self) -> None:
        """Folders, table, and how many scans there are."""
        for edit, name in self._edits:
            if edit.currentPath != getattr(self.parameters, name):
                edit.currentPath = getattr(self.parameters, name)
        problem = self._problem_with_folders()
        self.ui.checkButton.enabled = not problem and not self.wizard.busy
        self.ui.sceneButton.enabled = bool(self.parameters.workFolder) and not self.wizard.busy
        if self._load():
            self._fill()
        self.ui.scansTable.visible = bool(self.rows)
        self.ui.scansLabel.text = self._counted() if self.rows else ""

    def problem(self) -> str:
        """Folders, their check, the number of people, and that they are healthy."""
        if sentence := self._problem_with_folders():
            return sentence
        if not self.rows:
            return _("Check the scans.")
        people = {row.patient for row in self._used()}
        if len(people) < FEWEST:
            return _("{n} of at least {least} people; add healthy scans.").format(n=len(people), least=FEWEST)
        if not self.parameters.healthy:
            return _("Say that all of these people are healthy, or leave out those who are not.")
        return ""

    def _problem_with_folders(self) -> str:
        p = self.parameters
        for folder, what in ((p.scansFolder, _("healthy scans")), (p.mapsFolder, _("label maps"))):
            if folder and not Path(folder).is_dir():
                return _("There is no folder {folder}; choose the one with {what}.").format(folder=folder, what=what)
        if not p.scansFolder:
            return _("Choose the folder with healthy scans.")
        return problem_with_work(p.workFolder, p.scansFolder)

    # --- check

    def _check(self) -> None:
        p, places = self.parameters, self.wizard.places
        values = {"folder": p.scansFolder, "cache": str(places.cache), "anomalies": p.lookForAnomalies}
        self.wizard.ask("check", self._on_checked, output=str(places.check), **values)

    def _on_checked(self, event: dict) -> None:
        self._load()
        doubtful = [row.path for row in self.rows if row.doubtful]
        self.parameters.excluded = "\n".join(doubtful)
        self._fill()

    def _load(self) -> bool:
        """Reads what the check wrote, where that is new; whether it was."""
        file = self.wizard.places.check
        now = (self.parameters.scansFolder, file.stat().st_mtime if file.is_file() else 0.0)
        if now == self._read:
            return False
        self._read = now
        self.rows = read_rows(file, self.parameters.scansFolder)
        return True

    def _fill(self) -> None:
        table, used = self.ui.scansTable, {row.path for row in self._used()}
        blocked = table.blockSignals(True)
        table.setRowCount(len(self.rows))
        for index, row in enumerate(self.rows):
            texts = ("", row.path, " ".join(row.remarks), row.patient, row.contrast, row.spacing)
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip("\n".join((row.path, *row.remarks)))
                table.setItem(index, column, item)
            tick = table.item(index, 0)
            tick.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable if row.usable else qt.Qt.NoItemFlags)
            tick.setCheckState(qt.Qt.Checked if row.path in used else qt.Qt.Unchecked)
        table.resizeColumnsToContents()
        table.blockSignals(blocked)

    def _on_cell(self, row: int, column: int) -> None:
        if column or self.parameters is None:
            return
        excluded = set(self.parameters.excluded.splitlines())
        path, used = self.rows[row].path, self.ui.scansTable.item(row, 0).checkState() == qt.Qt.Checked
        excluded = excluded - {path} if used else excluded | {path}
        self.parameters.excluded = "\n".join(sorted(excluded))

    def _counted(self) -> str:
        used = self._used()
        people, doubtful = len({row.patient for row in used}), [row for row in self.rows if row.doubtful]
        text = _("{n} of {wanted} healthy scans, of {people} people.")
        if len(used) >= RECOMMENDED:
            text = _("{n} healthy scans, of {people} people.")
        text = text.format(n=len(used), wanted=RECOMMENDED, people=people)
        contrasts = Counter(row.contrast for row in used)
        if len(contrasts) > 1:
            listed = ", ".join(f"{count} {contrast}" for contrast, count in sorted(contrasts.items()))
            text += " " + _("{listed}: one model for all of them.").format(listed=listed)
        left_out = sum(row not in used for row in doubtful)
        if left_out:
            more = _("{n} that look doubtful are left out: look at them (double click) and tick what is healthy.")
            text += " " + more.format(n=left_out)
        return text

    def _show_scan(self, row: int, _column: int) -> None:
        """Loads a scan, so that it can be judged."""
        path = Path(self.parameters.scansFolder) / self.rows[row].path
        if path.is_file():
            slicer.util.loadVolume(str(path))

    # --- volumes of the scene

    def _take_scene(self) -> None:
        """Writes the volumes of the scene to the working folder, one after the other, and takes that folder."""
        volumes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if not problem_with(node)]
        if not volumes:
            self.wizard.say(_("The scene holds no MRI volume; load healthy scans first."))
            return
        folder = self.wizard.places.volumes
        shutil.rmtree(folder, ignore_errors=True)
        check_writable(folder)
        self._write_next(volumes, folder)

    def _write_next(self, volumes: list, folder: Path) -> None:
        volume, *others = volumes
        export_volume(volume, _free(folder, volume.GetName()))
        if others:
            qt.QTimer.singleShot(0, lambda: self.wizard.attempt(lambda: self._write_next(others, folder)))
        elif self.parameters is not None:
            self.parameters.scansFolder = str(folder)


def _free(folder: Path, name: str) -> Path:
    """A file in a folder that is named after a volume, and is not there yet."""
    safe = "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name)
    names = itertools.chain([safe], (f"{safe}_{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{one}.nrrd" for one in names) if not path.exists())


def read_rows(file: Path, folder: str) -> list[ScanRow]:
    """Rows of the table from what the check of a folder wrote; none where it was of another folder."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [_row(one) for one in found["files"]] if found["folder"] == folder else []


def _row(one: dict) -> ScanRow:
    doubts = [
        one["problem"],
        _("The same scan as {other}.").format(other=one["same_as"]) if one["same_as"] else "",
        _("Very like {other}: of one person?").format(other=one["similar_to"]) if one["similar_to"] else "",
        _("Looks anomalous to the present model.") if one["unusual"] else "",
    ]
    cut = _("The scan ends within the brain.") if one["coverage"] == "cut" else ""
    remarks = tuple(filter(None, (*doubts, cut, *one["doubts"])))
    spacing = " x ".join(f"{mm:.2g}" for mm in one["spacing_mm"])
    usable = not one["problem"]
    return ScanRow(one["path"], one["patient"], one["contrast"], spacing, remarks, any(doubts), usable)
