"""What a run keeps on disk, so that it resumes exactly however it ended.

`CHECKPOINT` is what counts: weights, moments, best weights, and where the run stands, in one file that is replaced in
one go. It is written last; the log, the progress and the model may be ahead of it for a moment, and a run that resumes
brings them back to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import write_text
from DISYRECore.training.config import TrainingConfig

CHECKPOINT, PROGRESS, LOG = "checkpoint.safetensors", "progress.json", "log.jsonl"

COPIES = 12
"""Copies of the weights that a run keeps at most: two checkpoints with five each, two models of half the size."""

FIXED = ("name", "task", "seed", "spacing_mm", "modality", "images", "start", "optimiser")
"""Fields of the config that a run which resumes cannot change."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: Steps done.
        processor_s: Processor time of all processes, in steps and validation.
        best_step, best_score: Of the validation whose weights are kept; the score is None before the first.
    """

    step: int = 0
    processor_s: float = 0.0
    best_step: int = 0
    best_score: float | None = None


@dataclass
class RunState:
    """All that changes from step to step.

    Attributes:
        network: That is trained.
        optimisers: Of its parameters.
        average: Its averaged weights, by name.
        best: Averaged weights of the best validation.
        progress: Where the run stands.
    """

    network: nn.Module
    optimisers: list[Optimizer]
    average: dict[str, Tensor] = field(init=False)
    best: dict[str, Tensor] = field(init=False)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.best = dict(self.average)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """average <- decay average + (1 - decay) weights."""
        for key, value in self.network.state_dict().items():
            self.average[key].lerp_(value, 1 - decay)

    def keep_average(self) -> None:
        """Takes the averaged weights for the best ones."""
        self.best = {k: v.clone() for k, v in self.average.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything but `progress`, on the CPU."""
        parts = {"network": self.network.state_dict(), "average": self.average, "best": self.best}
        state = {f"{part}.{k}": v for part, values in parts.items() for k, v in values.items()}
        for number, optimiser in enumerate(self.optimisers):
            for index, moments in optimiser.state_dict()["state"].items():
                state |= {f"optimiser{number}.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        return {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Takes over what `tensors` gave.

        Raises:
            KeyError, RuntimeError, ValueError: It is of another network or optimiser.
        """
        self.network.load_state_dict(_part(tensors, "network"))
        self.average = {k: v.to(device) for k, v in _part(tensors, "average").items()}
        self.best = {k: v.to(device) for k, v in _part(tensors, "best").items()}
        for number, optimiser in enumerate(self.optimisers):
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in _part(tensors, f"optimiser{number}").items():
                index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
            optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name + "."): value for key, value in tensors.items() if key.startswith(name + ".")}


def check_space(out: Path, network: nn.Module) -> None:
    """Refuses a disk with no room for a checkpoint beside the one before it, and the model.

    Raises:
        DisyreError: There is too little room.
    """
    held = (out / CHECKPOINT).stat().st_size if (out / CHECKPOINT).is_file() else 0
    needed = COPIES * sum(value.nbytes for value in network.state_dict().values()) - held
    free = shutil.disk_usage(out).free
    if free < needed:
        text = f"The run needs {needed >> 20} MB in {out}, but {free >> 20} MB are free there; make room."
        raise DisyreError(text, "output")


def save_checkpoint(out: Path, state: RunState, config: TrainingConfig[Any]) -> None:
    """Replaces the checkpoint in a folder.

    Raises:
        DisyreError: It cannot be written; the one before is whole.
    """
    about = {"progress": json.dumps(asdict(state.progress)), "fixed": json.dumps(_fixed(config))}
    part = out / (CHECKPOINT + ".part")
    with saving(out):
        try:
            save_file(state.tensors(), part, about)
            _flush(part)
            os.replace(part, out / CHECKPOINT)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def load_checkpoint(out: Path, state: RunState, config: TrainingConfig[Any], device: torch.device) -> bool:
    """Brings a run to its checkpoint; False where there is none.

    Raises:
        DisyreError: It is damaged, of another network or of another run.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as stored:
            about = stored.metadata()
            fixed, progress = json.loads(about["fixed"]), Progress(**json.loads(about["progress"]))
            _check_same(fixed, config, out)
            state.load({key: stored.get_tensor(key) for key in stored.keys()}, device)  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        text = f"The checkpoint in {out} is damaged or of another network; choose another output folder."
        raise DisyreError(text, "output") from error
    state.progress = progress
    return True


def _fixed(config: TrainingConfig[Any]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in FIXED}


def _check_same(fixed: dict[str, Any], config: TrainingConfig[Any], out: Path) -> None:
    for name, value in _fixed(config).items():
        if fixed[name] != value:
            raise DisyreError(
                f"The run in {out} has {name} {fixed[name]!r}, but the config says {value!r}; choose another output "
                "folder, or the config that it was begun with.",
                "output",
            )


def append_log(out: Path, record: dict[str, Any]) -> None:
    """Adds a line to the log.

    Raises:
        DisyreError: It cannot be written.
    """
    with saving(out), (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def tidy(out: Path, step: int) -> None:
    """Takes back what a run that was killed left behind: files half written, lines of the log after its checkpoint."""
    for part in out.rglob("*.part"):
        part.unlink()
    path = out / LOG
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        write_text("".join(line + "\n" for line in lines if _step_of(line) <= step), path)


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


@contextlib.contextmanager
def saving(out: Path) -> Iterator[None]:
    """Turns what goes wrong in writing to a folder into a sentence.

    Raises:
        DisyreError: The disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        text = f"The run cannot be saved in {out} ({reason}); make room there and give the command again to resume."
        raise DisyreError(text, "output") from error


def _flush(path: Path) -> None:
    """Makes sure that a file survives a power failure."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
