"""A detection as scripts and the panel ask for it: run, import, find, show."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import qt
import slicer
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRELib.checks import scene_is_busy
from DISYRELib.client import ENDINGS, WorkerClient, wait_until
from DISYRELib.options import Criteria, Show
from DISYRELib.run import Run, Settings

if TYPE_CHECKING:
    from DISYRELib.scene import Result

SMALLEST_ML, FALSE_FINDINGS = 0.1, 0.5
HEAT_OPACITY = 0.4
BUSY_MS = 50


class Detection:
    """Goes from a volume to a result in the scene.

    The import is done in small steps, between which the application answers.

    Args:
        client: Runs the worker.
        volume: The input.
        model: Id or folder, or ``auto``.
        border: The model's own when None.
        listener: Gets every event, or None.
        options: See `DISYRELogic.detect`.

    Attributes:
        last: The event that ended it; empty as long as it runs.
    """

    def __init__(
        self,
        client: WorkerClient,
        volume: slicer.vtkMRMLScalarVolumeNode,
        model: str,
        border: float | None,
        listener: Callable[[dict], None] | None,
        options: dict,
    ) -> None:
        self.volume, self.border, self.listener = volume, border, listener
        self.smallest_ml = options.pop("smallestFinding", SMALLEST_ML)
        self.false_findings = options.pop("falseFindings", FALSE_FINDINGS)
        self.score, self.segmentation = options.pop("score", None), options.pop("segmentation", None)
        self.with_restored = bool(options.pop("withRestored", False))
        self.last: dict = {}
        self._steps: Generator[None, None, dict] | None = None
        settings = Settings(model=model, false_findings=self.false_findings, **options)
        self.run = Run(client, volume, settings, self._on_event)

    @property
    def running(self) -> bool:
        """Whether it is not over yet."""
        return not self.last

    def cancel(self) -> None:
        """Stops it within three seconds; the scene stays as it was."""
        self.run.stop()

    def close(self) -> None:
        """Ends it at once, for an application that quits; the scene stays as it was."""
        if self.running:
            self.cancel()
            self._finish({"event": "cancelled", "message": self.run.reason})

    def wait(self) -> Result:
        """Returns the result once it is there, while the application stays alive.

        Raises:
            DisyreError: It failed or was cancelled.
        """
        wait_until(lambda: self.last)
        result: Result = _or_raise(self.last)["result"]
        return result

    def _on_event(self, event: dict) -> None:
        if event["event"] == "result":
            self._tell({"event": "stage", "name": "import"})
            self._steps = self._import(event)
            self._step()
        elif event["event"] in ENDINGS:
            self._finish(event)
        else:
            self._tell(event)

    def _tell(self, event: dict) -> None:
        if self.listener is not None:
            self.listener(event)

    def _finish(self, event: dict) -> None:
        if self._steps is not None:
            self._steps.close()
        self.run.close()
        self.last = event
        self._tell(event)

    def _step(self) -> None:
        """Takes one step of the import and lets the application work before the next."""
        if self._steps is None or self.last:
            return None
        if scene_is_busy():
            return qt.QTimer.singleShot(BUSY_MS, self._step)
        if self.run.reason:
            return self._finish({"event": "cancelled", "message": self.run.reason})
        try:
            next(self._steps)
        except StopIteration as stop:
            return self._finish(stop.value)
        except (OSError, ValueError, MemoryError, RuntimeError) as error:
            sentence = _("The result cannot be added to the scene ({reason}); free memory and detect again.")
            return self._finish({"event": "error", "kind": "internal", "message": sentence.format(reason=error)})
        return qt.QTimer.singleShot(0, self._step)

    def _import(self, event: dict) -> Generator[None, None, dict]:
        from DISYRELib import scene
        from DISYRELib.search import Search

        made: list[slicer.vtkMRMLNode] = []
        try:
            yield
            outcome = (self.volume, event, self.score, self.segmentation, self.with_restored)
            result = yield from scene.import_steps(*outcome, made)
            border = result.default_border if self.border is None else self.border
            yield from Search(result).steps(Criteria(border, self.smallest_ml, self.false_findings))
            yield
            scene.show_in_views(result)
            scene.paint(result, border, HEAT_OPACITY, Show.OUTLINE)
            return {**event, "result": result, "used_border": border}
        except BaseException:
            scene.remove(made)
            raise


def ask(client: WorkerClient, request: dict) -> dict:
    """Sends a request and waits for its last event, while the application stays alive.

    Raises:
        DisyreError: It failed or was cancelled, or another one is running.
    """
    if client.busy:
        raise DisyreError(_("A detection is running; wait for it or cancel it."), "busy")
    endings: list[dict] = []
    client.request(request, lambda event: endings.append(event) if event["event"] in ENDINGS else None)
    wait_until(lambda: endings or not client.busy)
    return _or_raise(endings[0] if endings else {"event": "cancelled"})


def _or_raise(event: dict) -> dict:
    if event["event"] != "result":
        raise DisyreError(event.get("message", _("Cancelled.")), event.get("kind", "cancelled"))
    return event
