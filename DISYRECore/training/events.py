"""What a run tells while it goes on: events for front ends, a log, and a file that says how far it is.

Events are named and carry plain values; `to_stdout` writes each as a line of JSON, ``{"event": NAME, ...}``:

    ``start`` name, step, steps, device; ``step`` step, stage (counted from 1), losses, learning_rate, images_per_s,
    left_s; ``validation`` step, scores, best_step, best_score; ``sample`` step, path of a PNG; ``checkpoint`` step,
    path; ``paused``, ``resumed`` step; ``warning`` message; ``calibration`` scan, scans;
    ``outcome`` comparison, healthy, card, see `outcome`; ``end`` reason (``finished``, ``stopped`` or
    ``patience``), step, model, best_step, best_score, processor_s; ``error`` kind, message.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import write_text
from DISYRECore.training.checkpoint import PROGRESS, Progress, append_log, saving
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.schedule import learning_rate, work_left

SAMPLE = "sample.png"
OFTEN_S = 1.0
"""Least time between two events of steps."""


class Emit(Protocol):
    """Takes events."""

    def __call__(self, event: str, **values: Any) -> None:
        """One event with its values, which JSON can hold."""


def silent(event: str, **values: Any) -> None:
    """Tells nobody."""


def to_stdout(event: str, **values: Any) -> None:
    """Writes an event as a line of JSON; a run goes on though its listener has gone."""
    try:
        print(json.dumps({"event": event, **values}), flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


class Reporter:
    """Tells how one run goes.

    Args:
        config: Of the run.
        out: Its folder, for the log, the progress and a picture.
        emit: Takes the events.
    """

    def __init__(self, config: TrainingConfig[Any], out: Path, emit: Emit) -> None:
        self.config, self.out, self.emit = config, out, emit
        self.board = _tensorboard(out)

    def starts(self, progress: Progress, device: str) -> None:
        """A run starts or resumes."""
        c = self.config
        self.emit("start", name=c.name, step=progress.step, steps=c.steps, device=device)
        self.bar = tqdm(total=c.steps, initial=progress.step, file=sys.stderr, mininterval=10)
        self.began, self.told_at, self.first = time.monotonic(), 0.0, progress.step
        self.images = 0

    def steps(self, progress: Progress, parts: Mapping[str, float], images: int) -> None:
        """A step has been done on so many images; told no more than every `OFTEN_S`."""
        self.bar.update()
        self.bar.set_postfix({k: f"{v:.4f}" for k, v in parts.items()}, refresh=False)
        self.images += images
        now = time.monotonic()
        if now - self.told_at < OFTEN_S:
            return
        self.told_at, passed = now, now - self.began
        done = work_left(self.config, self.first) - work_left(self.config, progress.step)
        told = {
            "step": progress.step,
            "stage": self.config.stage_number(progress.step - 1),
            "losses": {k: round(v, 6) for k, v in parts.items()},
            "learning_rate": learning_rate(progress.step - 1, self.config),
            "images_per_s": round(self.images / passed, 2),
            "left_s": round(passed * work_left(self.config, progress.step) / done),
        }
        self.emit("step", **told)
        self.write_progress(progress, "running", told)

    def validated(self, progress: Progress, parts: Mapping[str, float], scores: Mapping[str, float]) -> None:
        """The averaged weights have been validated."""
        for key, value in {**parts, **scores}.items():
            if self.board is not None:
                self.board.add_scalar(key, value, progress.step)
        spent = round(progress.processor_s, 1)
        record = {"step": progress.step, "time": round(time.time()), "processor_s": spent, **parts, **scores}
        append_log(self.out, record)
        best = {"best_step": progress.best_step, "best_score": progress.best_score}
        self.emit("validation", step=progress.step, scores=dict(scores), **best)

    def shows(self, step: int, picture: np.ndarray) -> None:
        """Keeps a picture (Y, X) in [0, 1] as the one sample of the run."""
        part = self.out / (SAMPLE + ".part")
        with saving(self.out):
            Image.fromarray((255 * picture.clip(0, 1)).round().astype(np.uint8)).save(part, "PNG")
            os.replace(part, self.out / SAMPLE)
        self.emit("sample", step=step, path=str(self.out / SAMPLE))

    def holds(self, progress: Progress) -> None:
        """The run waits for its user."""
        self.write_progress(progress, "paused")
        self.emit("paused", step=progress.step)

    def goes_on(self, progress: Progress) -> None:
        """The run does not wait any longer; the time that it did is not counted."""
        self.began, self.images, self.first = time.monotonic(), 0, progress.step
        self.emit("resumed", step=progress.step)

    def fails(self, progress: Progress, error: DisyreError) -> None:
        """The run cannot go on."""
        self.bar.close()
        with contextlib.suppress(DisyreError):
            self.write_progress(progress, error.kind, {"message": str(error)})

    def measures(self, progress: Progress) -> None:
        """Training is over, and the model is being measured."""
        self.bar.close()
        self.write_progress(progress, "measuring")

    def ends(self, progress: Progress, reason: str) -> None:
        """The run is over; the model is that of the best validation."""
        self.write_progress(progress, reason)
        self.emit("end", reason=reason, model=str(self.out / self.config.name), **asdict(progress))

    def write_progress(self, progress: Progress, state: str, told: Mapping[str, Any] | None = None) -> None:
        """Says in `PROGRESS` how far the run is.

        Args:
            progress: Of the run.
            state: ``running``, ``paused``, ``measuring``, why it ended, or the kind of error.
            told: More of the last step.
        """
        values = {
            "state": state,
            "process": os.getpid(),
            "steps": self.config.steps,
            **asdict(progress),
            **(told or {}),
        }
        write_text(json.dumps(values, indent=2) + "\n", self.out / PROGRESS)


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
