"""Runs networks over whole volumes: slabs in batches, smaller ones or the CPU when GPU memory runs out."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from DISYRECore.models.device import mixed_precision

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "160")
"""The CPU's convolutions are compiled for each shape of their input, 70 to 140 for a scan, and every scan brings new
shapes: those of one scan are kept, not the 1,024 that are usual. Read when the first network runs."""

Progress = Callable[[str, float], None]
"""Called with the name of a stage and the share of it that is done; may raise to cancel."""


def silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


def release_memory() -> None:
    """Gives memory that is free back to the system; without this the C library keeps what the largest scan needed."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def slabs(volume: Tensor, context: int) -> Tensor:
    """Every slice of (Z, Y, X) with its neighbours as channels, (Z, 2 * context + 1, Y, X); 0 beyond the ends."""
    padded = F.pad(volume, (0, 0, 0, 0, context, context))
    return padded.unfold(0, 2 * context + 1, 1).permute(0, 3, 1, 2)


class VolumeRestorer:
    """The callable `restore` of the methods, or their `predict`, made from a network.

    Args:
        network: In evaluation mode, on its device.
        batch: Slices at a time; halved whenever the device runs out of memory. When even one slice does not fit,
            the network moves to the CPU.
        calls: How many calls the method will make, for progress.
        progress: Told the share that is done after every batch.

    Attributes:
        warnings: Sentences about what had to be done differently.
    """

    def __init__(
        self,
        network: Any,
        batch: int = 16,
        calls: int = 1,
        progress: Progress = silent,
    ) -> None:
        self.network, self.batch, self.calls, self.progress = network, batch, calls, progress
        self.done, self.warnings = 0, list[str]()

    def __call__(self, volume: Tensor, *conditioning: int) -> tuple[Tensor, Tensor | None]:
        """Runs the network on (Z, Y, X).

        Args:
            volume: In [0, 1]; noisy for a network that predicts noise.
            conditioning: Of every slice: the step and, where the network takes one, the condition.

        Returns:
            The restored volume, or the noise, and the region's logit or None.
        """
        restored, regions, start = [], [], 0
        whole = slabs(volume, self.network.settings.context)
        while start < len(whole):
            try:
                image, region = self._batch(whole[start : start + self.batch], *conditioning)
            except torch.OutOfMemoryError:
                self._shrink()
                continue
            restored.append(image.to(volume.device))
            regions.append(region.to(volume.device) if region is not None else None)
            start += self.batch
            self.progress("restore", (self.done + min(start / len(whole), 1)) / self.calls)
        self.done += 1
        known = [region for region in regions if region is not None]
        return torch.cat(restored), torch.cat(known) if known else None

    @torch.inference_mode()
    def _batch(self, slices: Tensor, *conditioning: int) -> tuple[Tensor, Tensor | None]:
        device = next(self.network.parameters()).device
        with mixed_precision(device):
            values = [torch.full((len(slices),), value, device=device) for value in conditioning]
            restored, region = self.network(slices.to(device), *values)
        return restored.float(), region.float() if region is not None else None

    def _shrink(self) -> None:
        if next(self.network.parameters()).device.type != "cuda":
            raise MemoryError
        torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch //= 2
            self._warn(f"GPU memory ran out: going on with {self.batch} slices at a time.")
        else:
            self.network.to("cpu")
            self.batch = 16
            self._warn("GPU memory is not enough even for one slice: going on with the CPU.")

    def _warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        _say(sentence)


def on_cpu_without_memory(network: nn.Module, run: Callable[[Any], Tensor]) -> tuple[Tensor, list[str]]:
    """``run(network)``, on the CPU where GPU memory does not suffice; also returns warnings.

    Raises:
        MemoryError: The CPU's memory does not suffice either.
    """
    try:
        return run(network), []
    except torch.OutOfMemoryError:
        if next(network.parameters()).device.type != "cuda":
            raise MemoryError from None
    torch.cuda.empty_cache()
    sentence = "GPU memory is not enough for all networks of the ensemble: one runs on the CPU."
    _say(sentence)
    return run(network.to("cpu")), [sentence]


def _say(sentence: str) -> None:
    print(f"disyre: {sentence}", file=sys.stderr)
