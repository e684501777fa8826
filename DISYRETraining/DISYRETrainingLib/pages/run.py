"""The training, which goes on by itself; this page looks at it and tells it what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from DISYRECore.training.control import PAUSE, RESUME, STOP
from DISYRECore.training.follow import CONFIG, Follower, RunView, tell
from DISYRETrainingLib.pages.base import Page
from DISYRETrainingLib.pictures import show_picture
from DISYRETrainingLib.places import write_begun
from DISYRETrainingLib.plots import Chart, Curve
from DISYRETrainingLib.words import duration

if TYPE_CHECKING:
    import subprocess

LOOK_MS, BLOCKS = 500, 4
"""Between two looks at the run; blocks of its events that are taken in at each."""

KEPT = ("scansFolder", "mapsFolder", "excluded")
"""Parameters that a run is taken up with."""

TAKE_UP = (
    "This training was begun and is not at its end; Go on takes it up where it was, as it was begun. "
    "To begin another one, give the model another name."
)

REASONS = {
    "finished": "Finished; the best weights are those of step {best}.",
    "stopped": "Stopped; the best weights, of step {best}, are kept.",
    "patience": "Ended, since it did not get better any more; the best weights are those of step {best}.",
}


class RunPage(Page):
    """Start, pause and stop; progress, curves and an example."""

    title = _("Training")

    def __init__(self, wizard: Any) -> None:
        super().__init__(wizard)
        self.follower: Follower | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.alive = False
        self._sample: tuple[Path, float] | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(LOOK_MS)
        self._timer.connect("timeout()", self._look)
        ui = self.ui
        self.curves = Chart(ui.curvesPlace, _("Training"), _("step"), "")
        for button, slot in (
            (ui.startButton, self._start),
            (ui.pauseButton, self._pause),
            (ui.stopButton, lambda: tell(wizard.places.run, STOP)),
        ):
            button.connect("clicked()", self._attempting(slot))

    def _attempting(self, slot: Any) -> Any:
        return lambda: self.wizard.attempt(slot)

    @property
    def view(self) -> RunView:
        """What is known of the run."""
        return self.follower.view if self.follower else RunView()

    def enter(self) -> None:
        """Follows the run, whoever began it."""
        if self.follower is None or self.follower.folder != self.wizard.places.run:
            self.follower, self._sample = Follower(self.wizard.places.run), None
            self.curves.remove()
            show_picture(self.ui.samplePicture, None)
        self._timer.start()
        self._look()

    def leave(self) -> None:
        """Looks no more; the run goes on."""
        self._timer.stop()

    def problem(self) -> str:
        """A training that has ended."""
        if self.view.ended:
            return ""
        if self.view.state in ("failed", "starting") and not self.alive and self.follower is not None:
            last = self.follower.last_words() or _("it said nothing")
            return self.view.problem or _("The training could not begin: {last}").format(last=last)
        return _("The training is not finished.") if self.alive else _("Start the training.")

    def _look(self) -> None:
        """Takes in what the run has told."""
        assert self.follower is not None
        news = [self.follower.read() for _block in range(BLOCKS)]
        starting = self.process is not None and self.process.poll() is None
        alive = starting or self.follower.is_alive()
        if any(news) or alive != self.alive:
            self.alive = alive
            self.wizard.refresh()

    def refresh(self) -> None:
        """Buttons, progress, curves and the example."""
        view, alive, ui = self.view, self.alive, self.ui
        begun = (self.wizard.places.run / CONFIG).is_file()
        ui.startButton.visible = not alive and not view.ended
        ui.startButton.enabled = not self.wizard.busy
        ui.startButton.text = _("Go on") if begun else _("Start")
        ui.pauseButton.visible = ui.stopButton.visible = alive
        ui.pauseButton.enabled = alive and view.state in ("running", "paused") and view.step < view.steps
        ui.pauseButton.text = _("Go on") if view.state == "paused" else _("Pause")
        ui.stopButton.enabled = ui.pauseButton.enabled
        ui.runBar.value = round(1000 * view.step / view.steps) if view.steps else 0
        ui.runBar.format = _("step {step} of {steps}").format(step=view.step, steps=view.steps) if view.steps else ""
        ui.runLabel.text = self._in_words()
        self._draw()

    def _in_words(self) -> str:
        view = self.view
        if view.ended:
            return _(REASONS[view.state]).format(best=view.best_step)
        if not self.alive:
            begun = (self.wizard.places.run / CONFIG).is_file()
            return _(TAKE_UP) if begun else ""
        if view.state == "paused":
            return _("Paused; everything is saved.")
        if view.state != "running":
            return _("Starting: reading the scans and the anatomies takes a minute or two.")
        if view.step >= view.steps:
            done, total = view.measured or (0, 0)
            counted = _(" ({done} of {total})").format(done=done, total=total) if total else ""
            return _("Measuring what it finds in healthy scans that it has not seen{counted}.").format(counted=counted)
        left = _("about {time} left, ").format(time=duration(view.left_s)) if view.left_s is not None else ""
        return left + _("{n:.1f} slices a second.").format(n=view.images_per_s)

    def _draw(self) -> None:
        view = self.view
        losses = [(float(step), sum(values.values())) for step, values in view.losses]
        curves = [Curve(_("training loss"), losses)] if losses else []
        for name, text in (("removed", _("anomalies undone")), ("ap_region", _("precision"))):
            points = [(float(step), values[name]) for step, values in view.scores if name in values]
            curves += [Curve(text, points)] if points else []
        self.ui.curvesPlace.visible = bool(curves)
        if curves:
            self.curves.show(curves)
        self._show_sample()

    def _show_sample(self) -> None:
        path = self.view.sample
        now = (path, path.stat().st_mtime) if path is not None and path.is_file() else None
        if now != self._sample:
            self._sample = now
            show_picture(self.ui.samplePicture, path)
        self.ui.sampleLabel.text = _("With anomalies, restored, healthy:") if now else ""

    # --- what the user wants

    def _start(self) -> None:
        """Begins the run, or takes it up where it was; its config is written once."""
        places = self.wizard.places
        if (places.run / CONFIG).is_file():
            self._begin()
            return
        output = str(places.run / CONFIG)
        self.wizard.ask(
            "config", lambda _event: self._attempting(self._begin)(), choices=self.wizard.choices, output=output
        )

    def _begin(self) -> None:
        p, places = self.parameters, self.wizard.places
        maps = Path(p.mapsFolder) if p.mapsFolder else None
        scans = Path(p.scansFolder)
        write_begun(places.run, {name: getattr(p, name) for name in KEPT})
        self.process = self.wizard.logic.train(places.run, scans, maps, places.cache, p.device.word())
        self.wizard.remember_run(places.run)
        self.view.state, self.view.problem, self.alive = "starting", "", True

    def _pause(self) -> None:
        tell(self.wizard.places.run, RESUME if self.view.state == "paused" else PAUSE)
