"""Training step by step: one loop for all tasks that learn so.

Every step's data follow from the seed, the step and the rank alone, so a run that is killed and resumed sees
exactly what an uninterrupted one would have seen. Under `torchrun` the batch is shared among the processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from DISYRECore.errors import DisyreError
from DISYRECore.models.device import pick_device
from DISYRECore.models.store import save_model
from DISYRECore.training.config import TrainingConfig, learning_rate
from DISYRECore.training.tasks import find_task

CHECKPOINT, PROGRESS = "checkpoint.safetensors", "progress.json"


class Trainer:
    """One run: network, averaged weights, optimiser, and where they are kept.

    Args:
        config: Of the run; of a task that is learnt step by step.
        data: Folder of label maps, or of scans where the config says so.
        out: Checkpoint, log and model go here; a run that was stopped resumes from it.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        DisyreError: Data, device, checkpoint or task that cannot be used.
    """

    def __init__(self, config: TrainingConfig[Any], data: Path, out: Path, device: str = "auto") -> None:
        self.config, self.out = config, out
        self.device = pick_device(device)
        self.rank, self.world = _process_group(self.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        make = find_task(config.task).make
        if make is None:
            raise DisyreError(f"The task {config.task} is not learnt step by step; use training.train.")
        self.task = make(config, data, self.device, self.rank == 0)
        torch.manual_seed(config.seed)
        self.network = self.task.network()
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.step = 0
        self.resume()
        self.parallel = DistributedDataParallel(self.network) if self.world > 1 else self.network

    def run(self, until: int | None = None) -> None:
        """Trains to the end (or to step `until`), with validation and checkpoints on the way."""
        steps = min(until or self.config.steps, self.config.steps)
        log = _tensorboard(self.out) if self.rank == 0 else None
        bar = tqdm(total=steps, initial=self.step, disable=self.rank > 0, file=sys.stderr, mininterval=10)
        while self.step < steps:
            parts = self.train_step()
            bar.update()
            bar.set_postfix({k: f"{v:.4f}" for k, v in parts.items()}, refresh=False)
            if self.step % self.config.every == 0 or self.step == steps:
                self.checkpoint(log, parts)
        if self.world > 1:
            dist.barrier()

    def close(self) -> None:
        """Leaves the group of processes, where there is one; the trained network stays."""
        self.parallel = self.network
        if dist.is_initialized():
            dist.destroy_process_group()

    def train_step(self) -> dict[str, float]:
        """One optimiser step; deterministic given the step number."""
        share = self.config.batch // self.world
        batch = self.task.make(share, self.config.seed + self.step * self.world + self.rank + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        loss, parts = self.task.loss(self.parallel, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return parts

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.network.state_dict().items():
            self.average[key].lerp_(value, 1 - decay)

    def checkpoint(self, log: Any, parts: dict[str, float]) -> None:
        """Validates the averaged weights, saves everything, and logs."""
        if self.rank > 0:
            return
        scores = self.task.validate(self.averaged_network())
        record = {"step": self.step, "time": round(time.time()), **parts, **scores}
        for key, value in {**parts, **scores}.items():
            if log is not None:
                log.add_scalar(key, value, self.step)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.save()

    def averaged_network(self) -> nn.Module:
        """A copy of the network with the averaged weights."""
        network = self.task.network()
        network.load_state_dict(self.average)
        return network.eval()

    def save(self) -> None:
        """Writes checkpoint, progress and model folder; each replaces its predecessor in one go."""
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / (CHECKPOINT + ".part")
        save_file(self._state(), temporary)
        os.replace(temporary, self.out / CHECKPOINT)
        (self.out / PROGRESS).write_text(json.dumps({"step": self.step, **asdict(self.config)}, indent=2))
        c = self.config
        save_model(self.out / c.name, self.task.describe(self.step), self.average, c.weight_bits)

    def _state(self) -> dict[str, Tensor]:
        state = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        state |= {f"average.{k}": v for k, v in self.average.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        state["step"] = torch.tensor(self.step)
        return {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}

    def resume(self) -> None:
        """Resumes from the checkpoint in the output folder, where there is one.

        Raises:
            DisyreError: It is damaged, or of another network.
        """
        path = self.out / CHECKPOINT
        if not path.is_file():
            self.out.mkdir(parents=True, exist_ok=True)
            return
        try:
            self._load_state(load_file(path))
        except (SafetensorError, RuntimeError, KeyError) as error:
            text = f"The checkpoint in {self.out} is damaged or of another network; choose another output folder."
            raise DisyreError(text, "output") from error

    def _load_state(self, state: dict[str, Tensor]) -> None:
        self.step = int(state["step"])
        self.network.load_state_dict({k[8:]: v for k, v in state.items() if k.startswith("network.")})
        self.average = {k[8:]: v.to(self.device) for k, v in state.items() if k.startswith("average.")}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                moments.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})


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
