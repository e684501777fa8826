"""Training of restoration models on synthetic anatomies.

Every step's data follow from the seed, the step and the rank alone, so a run that is killed and resumed sees
exactly what an uninterrupted one would have seen. Under `torchrun` the batch is shared among the processes.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from DISYRECore.anatomy import AnatomyBank, load_anatomies
from DISYRECore.corruption import CorruptionSettings, apply_corruption, draw_corruption
from DISYRECore.errors import DisyreError
from DISYRECore.metrics import average_precision
from DISYRECore.model import ModelDescription, save_model
from DISYRECore.networks import (
    NetworkSettings,
    RestorationNetwork,
    mixed_precision,
    network_settings,
    pick_device,
    zero_output,
)
from DISYRECore.schedule import step_of
from DISYRECore.shapes import ShapeBank, make_shape_bank
from DISYRECore.synthesis import BRIGHTENED, CONTRASTS, Lattice, draw_scan, fluid_mask, render_scan

CHECKPOINT, PROGRESS = "checkpoint.safetensors", "progress.json"


@dataclass(frozen=True)
class TrainingSettings:
    """A training run; every field can be set in the YAML config.

    Attributes:
        name: Id of the model that comes out.
        title: One line for people.
        train, validation: File patterns of label maps, relative to the label map folder.
        network: Settings of the network; `size` names a base.
        corruption: Settings of the forward process.
        contrasts: Contrasts of the synthetic scans.
        spacing_mm: Spacing of the model grid.
        slice_shape: Points (Y, X) of a training slice.
        batch: Slices per step, over all processes.
        variants: Further brains made of each training map, see `atrophy`.
        reuse: How many times each healthy slice is corrupted within a step.
        steps: Length of the run.
        learning_rate, warmup, weight_decay, clip: Of AdamW, linear warm-up, gradient norm.
        ema: Decay of the averaged weights that are kept.
        image_weight, region_weight: Of the squared error and of the region's cross-entropy.
        direction: Map between severity and step, see `schedule.step_of`.
        seed: Everything random follows from it.
        every: Steps between validation and checkpoint.
        licence, data: For the model's card.
    """

    name: str
    title: str = ""
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    network: NetworkSettings = field(default_factory=lambda: network_settings({"size": "compact"}))
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    contrasts: tuple[str, ...] = ("T1", "T2", "FLAIR")
    spacing_mm: float = 1.5
    slice_shape: tuple[int, int] = (128, 112)
    batch: int = 32
    reuse: int = 2
    variants: int = 0
    steps: int = 10000
    learning_rate: float = 6e-4
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    image_weight: float = 20.0
    region_weight: float = 1.0
    direction: str = "monotone"
    seed: int = 0
    every: int = 250
    licence: str = ""
    data: str = ""


def read_config(path: Path) -> TrainingSettings:
    """Reads a YAML config.

    Raises:
        DisyreError: Missing or unreadable file, unknown field.
    """
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DisyreError(f"The config {path} cannot be read; give a YAML text file.") from error
    except yaml.YAMLError as error:
        raise DisyreError(f"The config {path} is not valid YAML: {error}.".replace("\n", " ")) from error
    if not isinstance(values, dict) or "name" not in values:
        raise DisyreError(f"The config {path} is not a training config; it needs at least a name.")
    for part in ("network", "corruption"):
        if not isinstance(values.get(part, {}), dict):
            raise DisyreError(f"The config {path} is not understood: '{part}' must hold named fields.")
    usual = vars(TrainingSettings(""))
    try:
        if "network" in values:
            values["network"] = network_settings(values["network"])
        if "corruption" in values:
            values["corruption"] = CorruptionSettings(**_tuples(values["corruption"]))
        numbers = {key: float(value) for key, value in values.items() if isinstance(usual.get(key), float)}
        return TrainingSettings(**{**_tuples(values), **numbers})
    except (TypeError, ValueError) as error:
        raise DisyreError(f"The config {path} is not understood: {error}.") from error


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


@dataclass(frozen=True)
class Batch:
    """One step's data on the device.

    Attributes:
        corrupted: (B, 2 * context + 1, Y, X) in [0, 1].
        healthy, mask, region: (B, Y, X) of the middle slice.
        step: (B,) integer steps that stand for the severities.
    """

    corrupted: Tensor
    healthy: Tensor
    mask: Tensor
    region: Tensor
    step: Tensor


class SyntheticBatches:
    """Makes batches from anatomies on the device that trains."""

    def __init__(self, settings: TrainingSettings, bank: AnatomyBank, shapes: ShapeBank) -> None:
        self.settings, self.bank, self.shapes = settings, bank, shapes
        self.brightened = torch.tensor([BRIGHTENED[name] for name in CONTRASTS])
        depth = 2 * settings.network.context + 1
        self.lattice = Lattice((depth, *settings.slice_shape), settings.spacing_mm)

    def make(self, count: int, seed: int) -> Batch:
        """Makes `count` slices; the same seed gives the same batch."""
        s, middle = self.settings, self.settings.network.context
        parameters = draw_scan(self.bank, math.ceil(count / s.reuse), seed, contrasts=s.contrasts)
        scan = render_scan(self.bank, parameters, self.lattice)
        image = scan.image.repeat_interleave(s.reuse, 0)[:count]
        mask = scan.mask.repeat_interleave(s.reuse, 0)[:count]
        generator = Generator(image.device).manual_seed(seed)
        brighter = self.brightened[parameters.contrast].to(image.device).repeat_interleave(s.reuse)[:count]
        anomalies = draw_corruption(self.shapes, mask, s.spacing_mm, generator, s.corruption, brighter)
        fluid = fluid_mask(self.bank, scan.classes).repeat_interleave(s.reuse, 0)[:count]
        made = apply_corruption(self.shapes, image, mask, anomalies, s.spacing_mm, s.corruption, fluid)
        step = step_of(made.severity, s.direction)
        return Batch(made.image, image[:, middle], mask[:, middle], made.region[:, middle], step)


def restoration_loss(network: nn.Module, batch: Batch, settings: TrainingSettings) -> tuple[Tensor, dict[str, float]]:
    """Squared error of the restored slice plus cross-entropy of the region, both over brain voxels."""
    with mixed_precision(batch.corrupted.device):
        restored, logit = network(batch.corrupted, batch.step)
    brain = batch.mask
    error = (restored.float() - batch.healthy)[brain].square().mean()
    loss = settings.image_weight * error
    parts = {"error": float(error.detach())}
    if logit is not None:
        region = F.binary_cross_entropy_with_logits(logit.float()[brain], batch.region[brain].float())
        loss = loss + settings.region_weight * region
        parts["region"] = float(region.detach())
    return loss, parts


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then cosine to nought."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class Trainer:
    """One run: network, averaged weights, optimiser, and where they are kept."""

    def __init__(self, settings: TrainingSettings, labelmaps: Path, out: Path, device: str = "auto") -> None:
        self.settings, self.out = settings, out
        self.device = pick_device(device)
        self.rank, self.world = _process_group(self.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        shapes = make_shape_bank(seed=settings.seed).to(self.device)
        self.batches = SyntheticBatches(
            settings, _bank(labelmaps, settings.train, self.device, settings.variants), shapes
        )
        held_out = _bank(labelmaps, settings.validation, self.device) if self.rank == 0 else None
        self.held_out = SyntheticBatches(settings, held_out, shapes) if held_out is not None else None
        torch.manual_seed(settings.seed)
        self.network = RestorationNetwork(settings.network)
        if settings.network.residual:
            zero_output(self.network)
        self.network.to(self.device)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.step = 0
        self.resume()
        self.parallel = DistributedDataParallel(self.network) if self.world > 1 else self.network

    def run(self, until: int | None = None) -> None:
        """Trains to the end (or to step `until`), with validation and checkpoints on the way."""
        steps = min(until or self.settings.steps, self.settings.steps)
        log = _tensorboard(self.out) if self.rank == 0 else None
        bar = tqdm(total=steps, initial=self.step, disable=self.rank > 0, file=sys.stderr, mininterval=10)
        while self.step < steps:
            parts = self.train_step()
            bar.update()
            bar.set_postfix({k: f"{v:.4f}" for k, v in parts.items()}, refresh=False)
            if self.step % self.settings.every == 0 or self.step == steps:
                self.checkpoint(log, parts)
        if self.world > 1:
            dist.barrier()

    def train_step(self) -> dict[str, float]:
        """One optimiser step; deterministic given the step number."""
        share = self.settings.batch // self.world
        batch = self.batches.make(share, self.settings.seed + self.step * self.world + self.rank + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        self.optimiser.zero_grad(set_to_none=True)
        loss, parts = restoration_loss(self.parallel, batch, self.settings)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return parts

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.network.state_dict().items():
            self.average[key].lerp_(value, 1 - decay)

    def checkpoint(self, log: Any, parts: dict[str, float]) -> None:
        """Validates the averaged weights, saves everything, and logs."""
        if self.rank > 0:
            return
        scores = self.validate()
        record = {"step": self.step, "time": round(time.time()), **parts, **scores}
        for key, value in {**parts, **scores}.items():
            if log is not None:
                log.add_scalar(key, value, self.step)
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.save()

    @torch.no_grad()
    def validate(self, count: int = 96) -> dict[str, float]:
        """Energy removed and average precision on held-out anatomies with synthetic anomalies."""
        if self.held_out is None:
            return {}
        network = self.averaged_network()
        batch = self.held_out.make(count, seed=10_000_019)
        outputs = []
        for part in _split(batch, 32):
            with mixed_precision(self.device):
                outputs.append(network(part.corrupted, part.step))
        restored = torch.cat([o[0] for o in outputs]).float()
        middle = batch.corrupted[:, self.settings.network.context]
        brain = batch.mask
        before = (middle - batch.healthy)[brain].square().sum()
        after = (restored - batch.healthy)[brain].square().sum()
        truth = batch.region[brain].cpu().numpy()
        residual = (middle - restored).abs()[brain].cpu().numpy()
        scores = {
            "removed": 1 - float(after / before),
            "ap_residual": average_precision(residual, truth),
        }
        if outputs[0][1] is not None:
            logit = torch.cat([o[1] for o in outputs if o[1] is not None]).float()
            scores["ap_region"] = average_precision(logit[brain].cpu().numpy(), truth)
        return scores

    def averaged_network(self) -> RestorationNetwork:
        """A copy of the network with the averaged weights."""
        network = RestorationNetwork(self.settings.network).to(self.device)
        network.load_state_dict(self.average)
        return network.eval()

    def save(self) -> None:
        """Writes checkpoint, progress and model folder; each replaces its predecessor in one go."""
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / (CHECKPOINT + ".part")
        save_file(self._state(), temporary)
        os.replace(temporary, self.out / CHECKPOINT)
        (self.out / PROGRESS).write_text(json.dumps({"step": self.step, **_plain(self.settings)}, indent=2))
        save_model(self.out / self.settings.name, self.describe(), self.average)

    def _state(self) -> dict[str, Tensor]:
        state = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        state |= {f"average.{k}": v for k, v in self.average.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        state["step"] = torch.tensor(self.step)
        return {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}

    def resume(self) -> None:
        """Goes on from the checkpoint in the output folder, where there is one.

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

    def describe(self) -> ModelDescription:
        """Description of the model as it stands; thresholds come with calibration."""
        s = self.settings
        return ModelDescription(
            id=s.name,
            title=s.title,
            version="1",
            method="disyre-v2",
            settings={"severities": [0.5], "mirror": True, "score": "region" if s.network.region else "residual"},
            network=s.network,
            spacing_mm=s.spacing_mm,
            contrasts=s.contrasts,
            training={"data": s.data, "licence": s.licence, "steps": self.step, "batch": s.batch, "seed": s.seed},
        )


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    return {**asdict(settings), "network": settings.network.to_dict()}


def _split(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch.step), size):
        part = {name: value[start : start + size] for name, value in vars(batch).items()}
        yield replace(batch, **part)


def _bank(folder: Path, patterns: tuple[str, ...], device: torch.device, variants: int = 0) -> AnatomyBank:
    paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
    return load_anatomies(paths, variants=variants).to(device)


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
