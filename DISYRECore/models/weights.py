"""Weights on disk: safetensors in half precision, or kernels in 8 bits for half the size again."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

BITS = (8, 16)
SCALE = ".scale"
LARGEST = 127


def write_weights(path: Path, weights: dict[str, Tensor], bits: int = 16) -> None:
    """Writes weights; a file that is there is replaced in one go.

    Args:
        path: Safetensors file.
        weights: By name, floating point.
        bits: 16, or 8 for kernels k (out, ...) as q = round(k / s) with s = max |k| / 127 for each of the outputs,
            stored beside them as ``NAME.scale``; everything else stays in half precision.

    Raises:
        ValueError: Other bits.
    """
    if bits not in BITS:
        raise ValueError(f"weights have 8 or 16 bits, not {bits}")
    stored = dict[str, Tensor]()
    for name, value in weights.items():
        whole = value.detach().cpu().float()
        if bits == 8 and whole.ndim > 1:
            scale = whole.abs().flatten(1).amax(1).clamp(min=1e-12) / LARGEST
            stored[name] = (whole / _over(scale, whole)).round().to(torch.int8).contiguous()
            stored[name + SCALE] = scale
        else:
            stored[name] = whole.half().contiguous()
    temporary = path.with_name(path.name + ".part")
    save_file(stored, temporary)
    os.replace(temporary, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights by name in single precision, as `write_weights` stored them.

    Raises:
        OSError, SafetensorError: The file cannot be read.
        KeyError: A kernel has no scale.
    """
    stored = load_file(path)
    names = [name for name in stored if not name.endswith(SCALE)]
    return {name: _whole(stored[name], stored, name) for name in names}


def _whole(value: Tensor, stored: dict[str, Tensor], name: str) -> Tensor:
    return value.float() * _over(stored[name + SCALE], value) if value.dtype == torch.int8 else value.float()


def _over(scale: Tensor, kernel: Tensor) -> Tensor:
    """(out,) as (out, 1, ...), to go with a kernel."""
    return scale.view(-1, *[1] * (kernel.ndim - 1))
