"""Training step by step: one loop for all tasks that learn so.

Every step's data follow from the seed, the step and the rank alone, so a run that is killed and resumed sees
exactly what an uninterrupted one would have seen. Under `torchrun` the batch is shared among the processes.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable
from DISYRECore.models.device import pick_device
from DISYRECore.models.store import load_model, save_model
from DISYRECore.training.ahead import Ahead
from DISYRECore.training.checkpoint import (
    CHECKPOINT,
    RunState,
    check_space,
    load_checkpoint,
    save_checkpoint,
    saving,
    tidy,
)
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.control import PAUSE, RESUME, STOP, Control
from DISYRECore.training.data import TrainingData
from DISYRECore.training.events import Emit, Reporter, silent
from DISYRECore.training.optimiser import make_optimisers
from DISYRECore.training.schedule import LossWatch, learning_rate
from DISYRECore.training.tasks import find_task
from DISYRECore.training.tasks.base import Task
from DISYRECore.training.tasks.base.sources import check_data

LOOK_S = 0.2
"""Between two looks for the user's wish in a run that is paused."""

PREPARED = "prepared"
"""Where a run keeps prepared scans, unless its data say where."""


class Trainer:
    """One run: what it learns from, its state, and where it is kept.

    Args:
        config: Of the run; of a task that is learnt step by step.
        data: Folders of scans and label maps.
        out: Checkpoint, log and model go here; a run that was stopped resumes from it.
        device: ``auto``, ``cpu`` or ``cuda``.
        emit: Takes the events of the run.

    Attributes:
        task: Of the config as a whole: validates, and describes the model. Each stage has a task of its own.
        reporter: Tells how the run goes; None in all processes but the first.

    Raises:
        DisyreError: Data, device, checkpoint, start model or task that cannot be used.
    """

    def __init__(
        self, config: TrainingConfig[Any], data: TrainingData, out: Path, device: str = "auto", emit: Emit = silent
    ) -> None:
        self.config, self.data, self.out = config, data.cached_in(out / PREPARED), out
        self.device = pick_device(device)
        self.rank, self.world = _process_group(self.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        self.spec = find_task(config.task)
        check_shares(config, self.world)
        for stage in config.stages:
            check_data(stage, data)
        check_writable(out)
        self.task = self._make_task(config, validates=self.rank == 0)
        self.stage, self.stage_task, self.watch = config, self.task, LossWatch()
        torch.manual_seed(config.seed)
        network = self.task.network()
        if self.rank == 0:
            check_space(out, network)
        self.state = RunState(network, make_optimisers(network, config))
        if not load_checkpoint(out, self.state, config, self.device) and config.start:
            self._start_from(config.start)
        if self.rank == 0:
            tidy(out, self.step)
        self.parallel = DistributedDataParallel(network) if self.world > 1 else network
        self.ahead = Ahead(self.world)
        self.control = Control(out)
        self.reporter = Reporter(config, out, emit) if self.rank == 0 else None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state.progress.step

    def run(self, until: int | None = None) -> str:
        """Trains to the end (or to step `until`), with validation and checkpoints on the way.

        Returns:
            Why it ended: ``finished``; ``stopped`` by its user; or ``patience``, as validation did not get better.

        Raises:
            DisyreError: The run diverges, or cannot be saved.
        """
        steps = min(until or self.config.steps, self.config.steps)
        if self.reporter is not None:
            self.reporter.starts(self.state.progress, str(self.device))
        try:
            with self.control.listening():
                reason = self._loop(steps)
        except DisyreError as error:
            if self.reporter is not None:
                self.reporter.fails(self.state.progress, error)
            raise
        if self.world > 1:
            dist.barrier()
        return reason

    def _loop(self, steps: int) -> str:
        while self.step < steps:
            if self._shared(float(self._is_out_of_patience())):
                return "patience"
            wish = self._wish()
            if wish == PAUSE:
                wish = self._hold()
            if wish == STOP:
                self.checkpoint({})
                return "stopped"
            parts = self.train_step()
            if self.reporter is not None:
                self.reporter.steps(self.state.progress, parts, self.stage.batch)
            if self.step == steps or (self.step % self.config.every == 0 and not self.watch.suspects):
                self.checkpoint(parts)
        return "finished"

    def close(self) -> None:
        """Leaves the group of processes, where there is one, and makes no more batches; the trained network stays."""
        self.ahead.close()
        self.parallel = self.state.network
        if dist.is_initialized():
            dist.destroy_process_group()

    def train_step(self) -> dict[str, float]:
        """One optimiser step; deterministic given the step number.

        Raises:
            DisyreError: The run diverges; this step has changed nothing.
        """
        began, config = time.process_time(), self.config
        task = self._task_at(self.step)
        seed = config.seed + self.step * self.world + self.rank + 1
        batch = self.ahead.take(task, self.stage.batch // self.world, seed)
        self.state.network.zero_grad(set_to_none=True)
        loss, parts = task.loss(self.parallel, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.state.network.parameters(), config.clip)
        mean = self._shared(float(loss.detach())) / self.world
        if self.watch.diverges(mean, float(norm)):
            raise self._diverged(mean)
        for optimiser in self.state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self.step, config)
            optimiser.step()
        done = self.state.progress
        spent = done.processor_s + self._shared(time.process_time() - began)
        self.state.progress = replace(done, step=done.step + 1, processor_s=spent)
        self.state.update_average(min(config.ema, (1 + self.step) / (10 + self.step)))
        return parts

    def checkpoint(self, parts: dict[str, float]) -> None:
        """Validates the averaged weights, keeps them where they are the best, logs, and saves everything."""
        if self.reporter is None:
            return
        began, network = time.process_time(), self.averaged_network()
        scores, example = self.task.validate(network), self.task.example(network)
        done = self.state.progress
        self.state.progress = replace(done, processor_s=done.processor_s + time.process_time() - began)
        self._keep_best(scores)
        self.reporter.validated(self.state.progress, parts, scores)
        if example is not None:
            self.reporter.shows(self.step, example.cpu().numpy())
        self.save()

    def averaged_network(self) -> nn.Module:
        """A copy of the network with the averaged weights."""
        network = self.task.network()
        network.load_state_dict(self.state.average)
        return network.eval()

    def save(self) -> None:
        """Writes the model, if it is new, and the checkpoint, which is last; each replaces the one before in one go."""
        c, done = self.config, self.state.progress
        if done.best_step == done.step:
            with saving(self.out):
                save_model(self.out / c.name, self.task.describe(done.step), self.state.best, c.weight_bits)
        save_checkpoint(self.out, self.state, c)
        if self.reporter is not None:
            self.reporter.emit("checkpoint", step=self.step, path=str(self.out / CHECKPOINT))

    def _make_task(self, config: TrainingConfig[Any], validates: bool) -> Task:
        if self.spec.make is None:
            raise DisyreError(f"The task {config.task} is not learnt step by step; use training.train.")
        return self.spec.make(config, self.data, self.device, validates)

    def _task_at(self, step: int) -> Task:
        """The task of the stage that a step belongs to."""
        stage = self.config.at(step)
        if stage is not self.stage:
            self.stage, self.stage_task, self.watch = stage, self._make_task(stage, validates=False), LossWatch()
        return self.stage_task

    def _start_from(self, name: str) -> None:
        """Takes over the weights of a model.

        Raises:
            DisyreError: There is no such model, or its network is another.
        """
        weights = load_model(name).network.state_dict()
        try:
            self.state.network.load_state_dict(weights)
        except RuntimeError as error:
            text = f"The network of {name} is not that of the config; leave 'network' out of its settings."
            raise DisyreError(text) from error
        self.state = RunState(self.state.network, self.state.optimisers)

    def _keep_best(self, scores: dict[str, float]) -> None:
        """Keeps the averaged weights if no validation was better; without one the latest are kept."""
        score = next((scores[name] for name in self.spec.judged_by if name in scores), None)
        best = self.state.progress.best_score
        if score is None or best is None or score > best:
            self.state.keep_average()
            self.state.progress = replace(self.state.progress, best_step=self.step, best_score=score)

    def _is_out_of_patience(self) -> bool:
        done, c = self.state.progress, self.config
        return self.rank == 0 and 0 < c.patience * c.every <= done.step - done.best_step

    def _hold(self) -> str:
        """Waits, with everything saved, until the run is to go on or to stop; returns which."""
        if self.reporter is not None:
            self.save()
            self.reporter.holds(self.state.progress)
        while (wish := self._wish()) == PAUSE:
            time.sleep(LOOK_S)
        if self.reporter is not None:
            self.reporter.goes_on(self.state.progress)
        return wish

    def _wish(self) -> str:
        """What the user wants, the same in all processes."""
        words = (RESUME, PAUSE, STOP)
        return words[int(self._shared(words.index(self.control.look()) if self.rank == 0 else 0))]

    def _shared(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor(float(value), device=self.device)
        dist.all_reduce(total)
        return float(total)

    def _diverged(self, loss: float) -> DisyreError:
        what, kept = f"Training diverged at step {self.step + 1} (loss {loss:.3g})", self.state.progress.best_step
        if not (self.out / CHECKPOINT).is_file():
            return DisyreError(f"{what}, before its first checkpoint; give a lower learning_rate.", "diverged")
        return DisyreError(
            f"{what}; it stopped at its last checkpoint, and the model is that of step {kept}. Give a lower "
            "learning_rate to go on from there.",
            "diverged",
        )


def check_shares(config: TrainingConfig[Any], processes: int) -> None:
    """Refuses batches that cannot be shared equally among the processes.

    Raises:
        DisyreError: There is one in some stage.
    """
    for stage in config.stages or (config,):
        if stage.batch % processes:
            text = f"A batch of {stage.batch} cannot be shared among {processes} processes; give a multiple of that."
            raise DisyreError(text)


def _process_group(device: torch.device) -> tuple[int, int]:
    """Rank and number of processes; joins the group that `torchrun` announces."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()
