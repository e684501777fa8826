"""What the panel of the module does: parameters in, events out, nothing computed here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRECore.models.description import list_models
from DISYRELib import models, rarity, samples
from DISYRELib.checks import ROLE, hint_about, problem_with, scene_is_busy
from DISYRELib.client import ENDINGS, timer
from DISYRELib.compare import Comparison, Flicker
from DISYRELib.findings_table import FindingsTable
from DISYRELib.follower import Follower
from DISYRELib.install import Installer
from DISYRELib.options import Criteria, MaskMode, Show
from DISYRELib.scene import Note, Result, forget_edits, is_edited, jump_to, keep, note, paint, rows_of
from DISYRELib.study import StudyTable, contrast_of, further_volumes, usable_volumes

if TYPE_CHECKING:
    from DISYRE import DISYRELogic, DISYREParameterNode

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
STAGES = {
    "load": "Loading the model",
    "read": "Reading the scan",
    "prepare": "Finding the brain",
    "restore": "Restoring",
    "map back": "Mapping back",
    "findings": "Collecting findings",
    "write": "Finishing",
    "import": "Adding the result to the scene",
    "synthesise": "Making the demo scan",
}


class Panel:
    """Connects the widgets of `DISYRE.ui` to the parameters of the scene and to the logic.

    Args:
        ui: The widgets by name.
        logic: A `DISYRELogic`.
        installer: Knows what is missing; the real one when None.

    Attributes:
        follower: Has the findings follow the sliders.
        parameters: Of the present scene; None while there is none.
        result: The one that is shown, or None.
    """

    def __init__(self, ui: SimpleNamespace, logic: DISYRELogic, installer: Installer | None = None) -> None:
        self.ui, self.logic = ui, logic
        self.installer = installer or Installer(REQUIREMENTS)
        self.parameters: DISYREParameterNode = None
        self.result: Result | None = None
        self._tag = self._observation = 0
        self._seen: dict[str, object] = {}
        self._shown = Show.OUTLINE
        self._stage = ""
        self.findings = FindingsTable(ui.findingsTable, self._on_go, self._on_keep, self._on_name)
        self.study = StudyTable(ui.studyTable, self._update_buttons)
        self.comparison, self.flicker = Comparison(), Flicker()
        self.follower = Follower(lambda: self._criteria, self._list_findings)
        self._shortcuts: list[qt.QShortcut] = []
        self._look_timer = timer(self._look)
        self._bodies_timer = timer(self._on_bodies)
        self._connect()
        self._offer_samples()
        self._list_models()

    def _connect(self) -> None:
        ui = self.ui
        for button, slot in (
            (ui.detectButton, self._on_detect),
            (ui.sampleButton, self._on_demo),
            (ui.resetBorderButton, self._on_reset),
            (ui.unlockButton, self._on_unlock),
            (ui.editButton, self._on_edit),
            (ui.previousButton, lambda: self.findings.step(-1)),
            (ui.nextButton, lambda: self.findings.step(1)),
            (ui.rejectButton, self._on_reject),
            (ui.compareButton, self._on_compare),
            (ui.copyButton, self._on_copy),
            (ui.reportButton, self._on_report),
            (ui.exportButton, self._on_export),
            (ui.trainButton, lambda: slicer.util.selectModule("DISYRETraining")),
            (ui.releaseButton, self._on_release),
            (ui.checkButton, self._on_check),
            (ui.copyLogButton, lambda: _copy(ui.logText.plainText)),
        ):
            button.connect("clicked()", slot)
        ui.modelSelector.connect("currentIndexChanged(int)", self._on_model)
        ui.show3DButton.connect("toggled(bool)", lambda: self._bodies_timer.start(0))
        ui.raritySlider.maximum = len(rarity.STOPS) - 1
        ui.raritySlider.connect("valueChanged(int)", self._on_rarity)
        for label in (ui.hintLabel, ui.lockLabel):
            label.setBackgroundRole(qt.QPalette.Window)

    def _offer_samples(self) -> None:
        menu = qt.QMenu(self.ui.sampleButton)
        for name in samples.SUGGESTED:
            action = menu.addAction(_("{name} (download)").format(name=name))
            action.connect("triggered()", lambda name=name: self._on_sample(name))
        self.ui.sampleButton.setMenu(menu)

    def _list_models(self) -> None:
        """Lists what is installed; it may have become more since."""
        selector = self.ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        selector.addItem(_("Automatic (by the contrast of the scan)"), models.AUTOMATIC)
        self._add_models(selector)
        selector.blockSignals(blocked)

    def _add_models(self, selector: qt.QComboBox) -> None:
        try:
            listed = list_models()
        except DisyreError as problem:
            self._say(str(problem))
            return
        for model in listed:
            selector.addItem(models.label(model), model.id)
            selector.setItemData(selector.count - 1, models.details(model), qt.Qt.ToolTipRole)

    # --- parameters

    def bind(self, parameters: DISYREParameterNode) -> None:
        """Takes up the parameters of a scene and shows its result, if it has one."""
        self.unbind()
        self.parameters, self._seen = parameters, {}
        self._tag = parameters.connectParametersToGui(self._bound_widgets())
        self.ui.scoreSelector.addAttribute("vtkMRMLScalarVolumeNode", ROLE, "score")
        self._observation = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_parameters)
        self.catch_up()

    def _bound_widgets(self) -> dict:
        """Widgets by the parameter that they show. (`connectGui` would do, but in some versions returns no tag.)"""
        named = [(widget.property("SlicerParameterName"), widget) for widget in vars(self.ui).values()]
        return {name: widget for name, widget in named if name}

    def unbind(self) -> None:
        """Lets go of the scene."""
        self._leave_comparison()
        self._look_timer.stop()
        self._bodies_timer.stop()
        if self.parameters is None:
            return
        self.parameters.disconnectGui(self._tag)
        self.parameters.RemoveObserver(self._observation)
        self.parameters = None
        self._show_result(None)

    def enter(self) -> None:
        """The module was opened: takes the volume that is shown, and listens to its keys."""
        self._list_models()
        if self.parameters is not None:
            self._show_model()
        if self.parameters is not None and self.parameters.inputVolume is None:
            self.parameters.inputVolume = _volume_at_hand()
        if self.result is not None:
            self._paint()
        qt.QTimer.singleShot(0, _warm_up)
        window = slicer.util.mainWindow()
        if window is not None and not self._shortcuts:
            for key, slot in (
                ("H", self.toggle_overlay),
                ("PgUp", lambda: self.findings.step(-1)),
                ("PgDown", lambda: self.findings.step(1)),
                ("C", self.toggle_restored),
            ):
                shortcut = qt.QShortcut(qt.QKeySequence(key), window)
                shortcut.connect("activated()", slot)
                self._shortcuts.append(shortcut)

    def exit(self) -> None:
        """Another module was opened."""
        self._leave_comparison()
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
        self._shortcuts.clear()

    def look_again(self) -> None:
        """Volumes came or went: looks at them once the scene is at rest."""
        if self.parameters is not None:
            self._look_timer.start(0)

    def _look(self) -> None:
        if self.parameters is None or scene_is_busy():
            return
        if self.parameters.inputVolume is None and slicer.modules.disyre.widgetRepresentation().isEntered:
            self.parameters.inputVolume = _volume_at_hand()
        if self.result is not None and not self.result.complete:
            self._drop_result()
        self._list_study()

    def _list_study(self) -> None:
        parameters = self.parameters
        volume, recognised = parameters and parameters.inputVolume, ""
        if self.result is not None and self.result.input is volume:
            recognised = _recognised(self.result.record.get("scan", {}))
        self.study.fill(parameters and parameters.parameterNode, volume, recognised)

    def toggle_overlay(self) -> None:
        """Hides what is drawn over the scan, or shows it again."""
        if self.parameters is None:
            return
        now = self.parameters.show
        if now is not Show.NOTHING:
            self._shown = now
        self.parameters.show = self._shown if now is Show.NOTHING else Show.NOTHING

    def toggle_restored(self) -> None:
        """Shows the restored image in the place of the scan, or the scan again."""
        if self.result is not None and not scene_is_busy():
            self.flicker.toggle(self.result)

    def _on_parameters(self, *_args: object) -> None:
        self.catch_up()

    def catch_up(self) -> None:
        """Does what the parameters that changed ask for; later, when the scene is being loaded, closed or edited."""
        if self.parameters is None or scene_is_busy():
            return
        now = self._snapshot()
        changed = {name for name, value in now.items() if self._seen.get(name, self) != value}
        first, self._seen = not self._seen, now
        if "input" in changed:
            self._say("")
        if changed & {"input", "mask"}:
            self._on_input(first)
        if "model" in changed:
            self._show_model()
        if "score" in changed:
            self._show_result(self.parameters.scoreVolume)
        if changed & {"score", "rarity"}:
            self._show_rarity()
        if self.result is not None and changed & {"border", "opacity", "show"}:
            self._paint()
        if self.result is not None and not first and changed & {"border", "rarity", "smallest"}:
            self.follower.later()

    def _snapshot(self) -> dict:
        p = self.parameters
        return {
            "input": p.inputVolume and p.inputVolume.GetID(),
            "mask": (p.maskMode, p.maskNode and p.maskNode.GetID()),
            "model": p.model,
            "score": p.scoreVolume and p.scoreVolume.GetID(),
            "border": p.border,
            "rarity": p.falseFindings,
            "smallest": p.smallestFinding,
            "opacity": p.heatOpacity,
            "show": p.show,
        }

    def _on_input(self, first: bool) -> None:
        """Shows what there is to say about the input, and its latest result."""
        self.ui.maskSelector.visible = self.parameters.maskMode is MaskMode.GIVEN
        self._list_study()
        self._update_buttons()
        volume = self.parameters.inputVolume
        if first:
            return
        if self.result is not None and self.result.input is volume:
            self._list_findings()
            return
        results = self.logic.results(volume)
        self._take(results[-1] if results else None)

    def _take(self, result: Result | None) -> None:
        with slicer.util.NodeModify(self.parameters.parameterNode):
            self.parameters.scoreVolume = result.score if result else None
            self.parameters.segmentation = result.segmentation if result else None

    def _on_model(self, index: int) -> None:
        if self.parameters is not None and index >= 0:
            self.parameters.model = self.ui.modelSelector.itemData(index)

    def _show_model(self) -> None:
        selector = self.ui.modelSelector
        index = selector.findData(self.parameters.model)
        selector.currentIndex = max(index, 0)
        selector.toolTip = selector.itemData(selector.currentIndex, qt.Qt.ToolTipRole) or _(
            "The model that was made for the contrast of the scan."
        )

    def _on_rarity(self, stop: int) -> None:
        if self.parameters is not None and stop != rarity.nearest_stop(self.parameters.falseFindings):
            self.parameters.falseFindings = rarity.STOPS[stop]

    def _show_rarity(self) -> None:
        """Which findings are shown, or why that cannot be said."""
        from DISYRECore.detection.findings import rarity_in_words

        accepted = self.parameters.falseFindings
        known = self.result is None or self.result.healthy is not None
        slider, label = self.ui.raritySlider, self.ui.rarityLabel
        slider.value = rarity.nearest_stop(accepted)
        slider.enabled = known
        label.text = _("Rarity is not known: everything above the border is shown.")
        label.toolTip = _("This model or method was not calibrated on healthy scans of this contrast.")
        if known:
            label.text = _("Show findings rarer than <b>{rarity}</b>").format(rarity=rarity.in_healthy_scans(accepted))
            label.toolTip = _("Healthy scans have findings too. Left out: {words}.").format(
                words=rarity_in_words(accepted)
            )
        slider.toolTip = label.toolTip

    @property
    def _criteria(self) -> Criteria:
        """What counts as a finding."""
        return Criteria(self.parameters.border, self.parameters.smallestFinding, self.parameters.falseFindings)

    # --- running

    def _update_buttons(self) -> None:
        """Each button can be clicked when there is what it needs."""
        idle, result = not self._busy, self.result
        for name in ("sampleButton", "checkButton", "releaseButton"):
            getattr(self.ui, name).enabled = idle
        for name in ("resetBorderButton", "editButton", "copyButton", "exportButton"):
            getattr(self.ui, name).enabled = result is not None
        with_scan = result is not None and result.input is not None
        self.ui.reportButton.enabled = idle and with_scan
        self.ui.compareButton.enabled = result is not None and None not in (result.input, result.restored)
        for name in ("previousButton", "nextButton", "rejectButton"):
            getattr(self.ui, name).enabled = result is not None and self.ui.findingsTable.rowCount > 0
        self._update_detect_button()

    def _update_detect_button(self) -> None:
        running = self._busy
        problem = self._problem()
        button = self.ui.detectButton
        count = 1 + len(self._further)
        button.text = _("Detect anomalies in {count} scans").format(count=count) if count > 1 else _("Detect anomalies")
        button.text = _("Cancel") if running else button.text
        button.enabled = running or not problem
        button.toolTip = _("Stops what is running.") if running else problem or _("Takes seconds to minutes.")
        volume = self.parameters.inputVolume if self.parameters else None
        hint = (problem or hint_about(volume)) if volume is not None else ""
        self.ui.hintLabel.text, self.ui.hintLabel.visible = hint, bool(hint)

    @property
    def _further(self) -> list[slicer.vtkMRMLScalarVolumeNode]:
        """The volumes that are taken together with the input."""
        p = self.parameters
        return further_volumes(p.parameterNode, p.inputVolume) if p is not None and p.inputVolume is not None else []

    def _problem(self) -> str:
        if self.parameters is None:
            return _("Select an MRI volume.")
        if self.parameters.maskMode is MaskMode.GIVEN and self.parameters.maskNode is None:
            return _("Select a brain mask, or set it to Automatic.")
        return problem_with(self.parameters.inputVolume)

    def _on_detect(self) -> None:
        if self.installer.running:
            self.installer.cancel()
        elif self.logic.running:
            self.ui.progressBar.format = _("Cancelling...")
            self.logic.cancel()
        else:
            self._attempt(self._detect)

    def _attempt(self, action: Callable[[], object]) -> None:
        """Does something; a problem becomes a sentence in the panel."""
        try:
            action()
        except DisyreError as problem:
            self._say(str(problem))
        self._update_buttons()

    def _detect(self) -> None:
        self._install()
        p = self.parameters
        self.logic.detect(
            p.inputVolume,
            model=p.model,
            wait=False,
            onEvent=self._on_event,
            method=p.method.word(),
            contrast=contrast_of(p.inputVolume).word(),
            further=tuple(self._further),
            mask={MaskMode.AUTOMATIC: None, MaskMode.STRIPPED: "stripped"}.get(p.maskMode, p.maskNode),
            device=p.device.word(),
            batch=p.batchSize or 16,
            smallestFinding=p.smallestFinding,
            falseFindings=p.falseFindings,
            score=p.scoreVolume,
            segmentation=p.segmentation,
            withRestored=p.withRestored,
        )
        self._begin()

    def _install(self) -> None:
        if self.installer.missing():
            self._say(_("Installing what is missing; this takes some minutes."))
            self.installer.install(self._on_installing)

    def _on_installing(self, log: str) -> None:
        self.ui.logText.setPlainText(log)
        self._update_buttons()

    @property
    def _busy(self) -> bool:
        """Whether something is detected or installed."""
        return self.logic.running or self.installer.running

    def _begin(self) -> None:
        self.logic.client.keep_ms = 60_000 * self.parameters.keepMinutes
        self._say("")
        self._stage = _("Starting")
        self._progress(0, None)
        self.ui.progressBar.visible = True

    def _on_event(self, event: dict) -> None:
        """Shows what the worker tells."""
        kind = event["event"]
        if kind == "stage":
            self._stage = _(STAGES.get(event["name"], event["name"]))
            self._progress(self.ui.progressBar.value / 100, None)
        elif kind == "progress":
            self._progress(event["value"], event["left_s"])
        elif kind == "device":
            self.ui.deviceLabel.text, self.ui.deviceLabel.visible = _device_line(event), True
        elif kind in ENDINGS:
            self._end(event)

    def _progress(self, value: float, left_s: float | None) -> None:
        bar = self.ui.progressBar
        bar.value = round(100 * value)
        left = _(", about {seconds:.0f} s left").format(seconds=max(left_s, 1)) if left_s is not None else ""
        bar.format = f"{self._stage} %p %{left}"

    def _end(self, event: dict) -> None:
        self.ui.progressBar.visible = False
        self._write_log()
        if event["event"] == "result" and "result" in event:
            self._show_outcome(event)
        elif event["event"] != "result":
            self._say(event.get("message") or _("Cancelled."))
        self._update_buttons()

    def _show_outcome(self, event: dict) -> None:
        p, result = self.parameters, event["result"]
        if p is None:
            return
        self._seen = {}  # everything is new, but the findings are there already
        with slicer.util.NodeModify(p.parameterNode):
            p.border = event["used_border"]
            p.scoreVolume, p.segmentation = result.score, result.segmentation
        self.catch_up()

    def _say(self, sentence: str) -> None:
        self.ui.statusLabel.text, self.ui.statusLabel.visible = sentence, bool(sentence)

    def _write_log(self) -> None:
        self.ui.logText.setPlainText("\n".join(self.logic.client.log))

    # --- reviewing

    def _show_result(self, score: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        self._leave_comparison()
        self.result = Result(score) if score is not None and Result(score).complete else None
        self.follower.watch(self.result)
        if self.result is not None:
            self.ui.reviewCollapsibleButton.collapsed = False
        self.ui.show3DButton.setSegmentationNode(self.result.segmentation if self.result else None)
        self._list_study()
        self._list_findings()

    @property
    def _reviewed(self) -> Result:
        """The result that is shown; only for what cannot be clicked without one."""
        assert self.result is not None
        return self.result

    def _list_findings(self) -> None:
        """Lists the findings of the result that is shown and says how many there are."""
        result = self.result
        rows = rows_of(result) if result else []
        self.findings.fill(rows)
        self.ui.emptyLabel.visible = result is not None and not rows
        self.ui.lockWidget.visible = result is not None and is_edited(result.segmentation)
        self._say(_outcome_line(result, len(rows), self._criteria) if result else "")
        self._update_buttons()

    def _paint(self) -> None:
        p = self.parameters
        if not self._reviewed.complete:
            self._drop_result()
            return
        paint(self._reviewed, p.border, p.heatOpacity, p.show)

    def _drop_result(self) -> None:
        self._show_result(None)
        self._say(_("A part of the result was deleted; detect again."))

    def _on_bodies(self) -> None:
        """The bodies were shown or hidden, and their numbers go with them."""
        if self.result is not None and not scene_is_busy():
            self._paint()

    def _on_reset(self) -> None:
        self.parameters.border = self._reviewed.default_border

    def _on_unlock(self) -> None:
        forget_edits(self._reviewed.segmentation)
        self.follower.now()

    def _on_go(self, number: int) -> None:
        jump_to(self._reviewed, next(row.place for row in rows_of(self._reviewed) if row.number == number))

    def _on_name(self, number: int, name: str) -> None:
        row = next(row for row in rows_of(self._reviewed) if row.number == number)
        note(self._reviewed, number, Note(name, row.rejected))
        self._list_findings()

    def _on_reject(self) -> None:
        row = self.findings.current
        if row is not None:
            note(self._reviewed, row.number, Note(row.name, not row.rejected))
            self.follower.now()

    def _on_compare(self) -> None:
        if self.ui.compareButton.checked:
            self.comparison.show(self._reviewed)
        else:
            self._leave_comparison()

    def _leave_comparison(self) -> None:
        self.ui.compareButton.checked = False
        self.comparison.leave()
        self.flicker.leave()

    def _on_keep(self, number: int, kept: bool) -> None:
        keep(self._reviewed, number, kept)
        self.follower.now()

    def _on_edit(self) -> None:
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(self._reviewed.segmentation)
        editor.setSourceVolumeNode(self._reviewed.input)
        self._paint()  # the editor takes the heat map out of the views

    def _on_copy(self) -> None:
        _copy(self.findings.text())

    # --- files and the rest

    def _on_report(self) -> None:
        from DISYRELib.export import save_report

        result = self._reviewed
        proposed = f"{result.input.GetName() if result.input else 'DISYRE'}-report.html"
        kinds = "HTML (*.html);;PDF (*.pdf)"
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Save report"), proposed, kinds)
        if path:
            self.follower.now()  # the report holds what is listed
            self._attempt(lambda: save_report(self.logic, result, path, self._criteria))

    def _on_export(self) -> None:
        from DISYRELib.export import export_images

        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Export files"))
        if folder:
            self._attempt(lambda: self._say(_("Written: {names}.").format(names=export_images(self._reviewed, folder))))

    def _on_demo(self) -> None:
        def make() -> None:
            self._install()
            self._say(_("Making the demo scan; some seconds."))
            self.parameters.inputVolume = self.logic.makeDemo()
            self._say("")

        self._attempt(make)

    def _on_sample(self, name: str) -> None:
        def load() -> None:
            self.parameters.inputVolume = samples.download(name)

        self._attempt(load)

    def _on_release(self) -> None:
        self.logic.close()
        self._say(_("The model is no longer kept in memory."))

    def _on_check(self) -> None:
        def check() -> None:
            missing = self.installer.missing()
            lines = {"missing": ", ".join(missing)} if missing else self.logic.request({"command": "check"})["versions"]
            self.ui.logText.setPlainText("\n".join(f"{name}: {version}" for name, version in lines.items()))

        self._attempt(check)


def _warm_up() -> None:
    """Imports what reviewing needs, so that the first result does not have to wait for it."""
    import DISYRECore.detection.findings  # noqa: F401


def _copy(text: str) -> None:
    qt.QApplication.clipboard().setText(text)


def _volume_at_hand() -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume in the background of the Red view, else the only one in the scene."""
    composite = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    shown = slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID() or "") if composite else None
    volumes = usable_volumes()
    if shown in volumes:
        return shown
    return volumes[0] if len(volumes) == 1 else None


def _device_line(event: dict) -> str:
    if "free_gb" in event:
        return _("GPU: {title}, {free:.0f} GB free").format(title=event["title"], free=event["free_gb"])
    return _("No GPU in use: {title}").format(title=event["title"])


def _recognised(scan: dict) -> str:
    """The contrast that was recognised and how probable that is; empty when it was said by hand."""
    name, probability = scan.get("contrast"), scan.get("contrast_probability")
    return _("{contrast} ({probability:.2f})").format(contrast=name, probability=probability) if probability else ""


def _outcome_line(result: Result, count: int, criteria: Criteria) -> str:
    """How many findings, why these, which contrast was assumed, which model and why, and what the reader should know.

    Args:
        result: The one that is shown.
        count: Of the findings that are listed.
        criteria: What counts as a finding.
    """
    record = result.record
    found = _("{count} findings.").format(count=count) if count != 1 else _("1 finding.")
    model = _("Method: z-score baseline, without a model.")
    if record.get("model"):
        why = record["why"] and f", {record['why']}"
        model = _("Model: {title}{why}.").format(title=record["model_title"], why=why)
    scan = record.get("scan", {})
    told = [
        found,
        _threshold_line(result, criteria),
        _contrast_line(scan, record.get("contrast")),
        *scan.get("flags", []),
        model,
    ]
    return " ".join([*filter(None, told), *record.get("warnings", [])])


def _threshold_line(result: Result, criteria: Criteria) -> str:
    """Which findings are shown, and what that rests on."""
    healthy, contrast = result.healthy, result.record.get("contrast") or _("contrast unknown")
    if healthy is not None:
        return _("Shown: what is rarer than {rarity}, measured on {count} healthy scans ({contrast}).").format(
            rarity=rarity.in_healthy_scans(criteria.false_findings), count=healthy.scans, contrast=contrast
        )
    border = _("the border of {border:.2f} chosen by hand")
    if criteria.border == result.default_border:
        border = _("the border of the model, {border:.2f}") if result.record.get("model") else _("border {border:.2f}")
    return _("Not calibrated on healthy scans ({contrast}); shown: everything above {border}.").format(
        contrast=contrast, border=border.format(border=criteria.border)
    )


def _contrast_line(scan: dict, contrast: str | None) -> str:
    """The contrast that was assumed, with its probability where it is in doubt; the doubt itself is a flag."""
    from DISYRECore.preprocessing.contrast import SURE

    name, probability = scan.get("contrast", contrast), scan.get("contrast_probability", 1.0)
    if not name:
        return ""
    if probability >= SURE:
        return _("Contrast: {contrast}.").format(contrast=name)
    return _("Contrast assumed: {contrast}, probability {probability:.2f} (correct it above).").format(
        contrast=name, probability=probability
    )
