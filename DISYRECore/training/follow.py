"""A run as seen from outside, by a front end that may come and go. Light: no torch.

A run that was begun by `disyre train ... --events`, with its output in `EVENTS` in its folder, needs nobody: it goes on
when the front end has ended, and a `Follower` finds it again.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DISYRECore.io.files import write_text
from DISYRECore.training.control import CONTROL, is_locked

CONFIG, EVENTS, OUTPUT = "config.yaml", "events.jsonl", "output.txt"
"""In the folder of a run: what it is, what it tells as lines of JSON, and what else it says."""

CHUNK = 2**17
"""Bytes of events that are read at a time, so that nobody waits."""

MOST_POINTS = 1000
"""Of a curve; beyond them every other point is dropped."""

ENDED = ("finished", "stopped", "patience")


@dataclass
class RunView:
    """What is known of a run.

    Attributes:
        state: ``none``, ``starting``, ``running``, ``paused``; ``finished``, ``stopped`` or ``patience`` at the end; or
            ``failed``, with the problem.
        step, steps: Done and in all.
        left_s: Time left, if it is known.
        images_per_s: Speed.
        losses, scores: Step and values by name of the training and of the validation.
        best_step: Of the validation whose weights are kept.
        sample: Picture of an example; None before the first.
        model: Folder of the model, at the end.
        warnings: Sentences.
        problem: Why it failed, in one sentence.
        measured: Healthy scans that the model has been measured on, and all of them, after the training.
        outcome: What came out, see the event ``outcome`` of `training.events`.
    """

    state: str = "none"
    step: int = 0
    steps: int = 0
    left_s: float | None = None
    images_per_s: float = 0.0
    losses: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    scores: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best_step: int = 0
    sample: Path | None = None
    model: Path | None = None
    warnings: list[str] = field(default_factory=list)
    problem: str = ""
    measured: tuple[int, int] | None = None
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether there is a model to look at."""
        return self.state in ENDED


class Follower:
    """Reads what a run tells, a little at a time.

    Args:
        folder: Of the run.

    Attributes:
        view: What is known so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.view = folder, RunView()
        self._place, self._rest = 0, b""

    def read(self) -> bool:
        """Takes in what is new, at most `CHUNK` bytes; whether there was something."""
        try:
            with (self.folder / EVENTS).open("rb") as file:
                file.seek(self._place)
                block = file.read(CHUNK)
        except OSError:
            return False
        self._place += len(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line))
        return bool(block)

    def is_alive(self) -> bool:
        """Whether a process is at work on the run."""
        return is_locked(self.folder)

    def last_words(self) -> str:
        """The last line of what a run said apart from events; a run that could not begin has told none."""
        with suppress(OSError), (self.folder / OUTPUT).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - CHUNK, 0))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""

    def _take(self, event: dict[str, Any]) -> None:
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_start(self, event: dict[str, Any]) -> None:
        view = self.view
        view.state, view.step, view.steps = "running", event["step"], event["steps"]
        view.problem = ""
        view.losses = [point for point in view.losses if point[0] <= view.step]
        view.scores = [point for point in view.scores if point[0] <= view.step]

    def _on_step(self, event: dict[str, Any]) -> None:
        view = self.view
        view.step, view.left_s, view.images_per_s = event["step"], event["left_s"], event["images_per_s"]
        _add(view.losses, event["step"], event["losses"])

    def _on_validation(self, event: dict[str, Any]) -> None:
        self.view.best_step = event["best_step"]
        _add(self.view.scores, event["step"], event["scores"])

    def _on_sample(self, event: dict[str, Any]) -> None:
        self.view.sample = Path(event["path"])

    def _on_paused(self, event: dict[str, Any]) -> None:
        self.view.state = "paused"

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self.view.state = "running"

    def _on_warning(self, event: dict[str, Any]) -> None:
        self.view.warnings = [*self.view.warnings, event["message"]][-20:]

    def _on_calibration(self, event: dict[str, Any]) -> None:
        self.view.measured = event["scan"], event["scans"]

    def _on_outcome(self, event: dict[str, Any]) -> None:
        self.view.outcome = {name: event[name] for name in ("comparison", "healthy")}

    def _on_end(self, event: dict[str, Any]) -> None:
        view = self.view
        view.state, view.step, view.best_step = event["reason"], event["step"], event["best_step"]
        view.model, view.left_s = Path(event["model"]), None

    def _on_error(self, event: dict[str, Any]) -> None:
        self.view.state, self.view.problem = "failed", event["message"]


def tell(folder: Path, word: str) -> None:
    """Tells a run to ``pause``, ``resume`` or ``stop``."""
    write_text(word, folder / CONTROL)


def _add(points: list[tuple[int, dict[str, float]]], step: int, values: dict[str, float]) -> None:
    """Adds a point to a curve that stays bounded."""
    points.append((step, dict(values)))
    if len(points) > MOST_POINTS:
        del points[1:-1:2]
