"""Devices and precision."""

from __future__ import annotations

import torch
from torch import nn

from DISYRECore.errors import DisyreError


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` takes the GPU where there is one.

    Raises:
        DisyreError: CUDA was asked for but there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DisyreError("No CUDA device was found; use --device cpu.", kind="device")
    return torch.device(name)


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes in it, otherwise nothing changes."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device))


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is native on the device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
