"""Training step by step: one loop for all tasks that learn so.

Every step's data follow from the seed, the step and the rank alone, so a run that is killed and resumed sees
exactly what an uninterrupted one would have seen. Under `torchrun` the batch is shared among the processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable, write_text
from DISYRECore.models.device import pick_device
from DISYRECore.models.store import load_model, save_model
from DISYRECore.training.checkpoint import (
    PROGRESS,
    RunState,
    append_log,
    load_checkpoint,
    save_checkpoint,
    saving,
    trim_log,
)
from DISYRECore.training.config import TrainingConfig
from DISYRECore.training.optimiser import make_optimisers
from DISYRECore.training.schedule import LossWatch, learning_rate
from DISYRECore.training.tasks import find_task
from DISYRECore.training.tasks.base import Task


class Trainer:
    """One run: what it learns from, its state, and where it is kept.

    Args:
        config: Of the run; of a task that is learnt step by step.
        data: Folder of label maps, or of scans where the config says so.
        out: Checkpoint, log and model go here; a run that was stopped resumes from it.
        device: ``auto``, ``cpu`` or ``cuda``.

    Attributes:
        task: Of the config as a whole: validates, and describes the model. Each stage has a task of its own.

    Raises:
        DisyreError: Data, device, checkpoint, start model or task that cannot be used.
    """

    def __init__(self, config: TrainingConfig[Any], data: Path, out: Path, device: str = "auto") -> None:
        self.config, self.data, self.out = config, data, out
        self.device = pick_device(device)
        self.rank, self.world = _process_group(self.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        self.spec = find_task(config.task)
        check_writable(out)
        self.task = self._make_task(config, validates=self.rank == 0)
        self.stage, self.stage_task, self.watch = config, self.task, LossWatch()
        torch.manual_seed(config.seed)
        network = self.task.network()
        self.state = RunState(network, make_optimisers(network, config))
        if load_checkpoint(out, self.state, config, self.device):
            trim_log(out, self.step)
        elif config.start:
            self._start_from(config.start)
        self.parallel = DistributedDataParallel(network) if self.world > 1 else network

    @property
    def step(self) -> int:
        """Steps done."""
        return self.state.progress.step

    def run(self, until: int | None = None) -> None:
        """Trains to the end (or to step `until`), with validation and checkpoints on the way.

        Raises:
            DisyreError: The run diverges, or cannot be saved.
        """
        steps = min(until or self.config.steps, self.config.steps)
        board = _tensorboard(self.out) if self.rank == 0 else None
        bar = tqdm(total=steps, initial=self.step, disable=self.rank > 0, file=sys.stderr, mininterval=10)
        while self.step < steps:
            parts = self.train_step()
            bar.update()
            bar.set_postfix({k: f"{v:.4f}" for k, v in parts.items()}, refresh=False)
            if self.step == steps or (self.step % self.config.every == 0 and not self.watch.suspects):
                self.checkpoint(board, parts)
        if self.world > 1:
            dist.barrier()

    def close(self) -> None:
        """Leaves the group of processes, where there is one; the trained network stays."""
        self.parallel = self.state.network
        if dist.is_initialized():
            dist.destroy_process_group()

    def train_step(self) -> dict[str, float]:
        """One optimiser step; deterministic given the step number.

        Raises:
            DisyreError: The run diverges; nothing has been changed by this step.
        """
        began, config = time.process_time(), self.config
        task = self._task_at(self.step)
        batch = task.make(self.stage.batch // self.world, config.seed + self.step * self.world + self.rank + 1)
        self.state.network.zero_grad(set_to_none=True)
        loss, parts = task.loss(self.parallel, batch)
        loss.backward()
        mean = self._mean(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.state.network.parameters(), config.clip)
        if self.watch.diverges(mean, float(norm)):
            raise self._diverged(mean)
        for optimiser in self.state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(self.step, config)
            optimiser.step()
        self._advance(time.process_time() - began)
        return parts

    def _advance(self, processor_s: float) -> None:
        done = self.state.progress
        step, spent = done.step + 1, done.processor_s + processor_s * self.world
        self.state.progress = replace(done, step=step, processor_s=spent)
        self.state.update_average(min(self.config.ema, (1 + step) / (10 + step)))

    def _task_at(self, step: int) -> Task:
        """The task of the stage that a step belongs to."""
        stage = self.config.at(step)
        if stage is not self.stage:
            self.stage, self.stage_task, self.watch = stage, self._make_task(stage, validates=False), LossWatch()
        return self.stage_task

    def _make_task(self, config: TrainingConfig[Any], validates: bool) -> Task:
        if self.spec.make is None:
            raise DisyreError(f"The task {config.task} is not learnt step by step; use training.train.")
        return self.spec.make(config, self.data, self.device, validates)

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

    def _mean(self, loss: Tensor) -> float:
        """The mean loss of all processes."""
        if self.world > 1:
            dist.all_reduce(loss)
        return float(loss) / self.world

    def _diverged(self, loss: float) -> DisyreError:
        kept = self.state.progress.best_step
        return DisyreError(
            f"Training diverged at step {self.step + 1} (loss {loss:.3g}); it stopped at its last checkpoint, and the "
            f"model is that of step {kept}. Give a lower learning_rate to go on from there.",
            "diverged",
        )

    def checkpoint(self, board: Any, parts: dict[str, float]) -> None:
        """Validates the averaged weights, keeps them where they are the best, saves everything, and logs."""
        if self.rank > 0:
            return
        began = time.process_time()
        scores = self.task.validate(self.averaged_network())
        progress = self.state.progress
        self.state.progress = replace(progress, processor_s=progress.processor_s + time.process_time() - began)
        self._keep_best(scores)
        for key, value in {**parts, **scores}.items():
            if board is not None:
                board.add_scalar(key, value, self.step)
        spent = round(self.state.progress.processor_s, 1)
        append_log(self.out, {"step": self.step, "time": round(time.time()), "processor_s": spent, **parts, **scores})
        self.save()

    def _keep_best(self, scores: dict[str, float]) -> None:
        """Keeps the averaged weights if no validation was better; without one the latest are kept."""
        score = next((scores[name] for name in self.spec.judged_by if name in scores), None)
        best = self.state.progress.best_score
        if score is None or best is None or score > best:
            self.state.keep_average()
            self.state.progress = replace(self.state.progress, best_step=self.step, best_score=score)

    def averaged_network(self) -> nn.Module:
        """A copy of the network with the averaged weights."""
        network = self.task.network()
        network.load_state_dict(self.state.average)
        return network.eval()

    def save(self) -> None:
        """Writes model, progress and checkpoint; each replaces its predecessor in one go, the checkpoint last."""
        c, progress = self.config, self.state.progress
        if progress.best_step == progress.step:
            with saving(self.out):
                save_model(self.out / c.name, self.task.describe(self.step), self.state.best, c.weight_bits)
        write_text(json.dumps({**asdict(progress), "config": asdict(c)}, indent=2), self.out / PROGRESS)
        save_checkpoint(self.out, self.state, c)


def _process_group(device: torch.device) -> tuple[int, int]:
    """Rank and number of processes; joins the group that `torchrun` announces."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"))
