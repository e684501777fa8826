"""What a front end lets its user choose of a training, and the config that says so, for any command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import resources, write_text

SMALL = "own-scans"
STANDARD_STEPS = 5
"""Times as long as the small preset is the standard one."""

NETWORK = {"size": "compact", "context": 3}
"""Where no model is started from, whose network would be taken."""

EVEN, TEXTURED = "flat", ("fpi", "dag")
"""Families of anomalies without a texture of their own, and with one."""


@dataclass(frozen=True)
class Choices:
    """What was chosen; what is None or empty is as in the preset.

    Attributes:
        name: Id of the model.
        preset: ``small``, or ``standard`` for a longer training; or the path of a config to begin with.
        start: Id of the model to start from; empty for random weights.
        contrasts: Of the scans.
        exclude: Scans that are left out, relative to their folder.
        steps: Length of the training.
        size_mm: Diameter of the largest anomalies.
        faintest: Least severity of the texture, in [0, 1].
        textured: Share of anomalies with a texture, in [0, 1].
        bias: Mean change of brightness in (0, 1), of the range of intensities.
        title, data, licence: For the model's card.
    """

    name: str
    preset: str = "small"
    start: str | None = None
    contrasts: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    steps: int | None = None
    size_mm: float | None = None
    faintest: float | None = None
    textured: float | None = None
    bias: float | None = None
    title: str = ""
    data: str = ""
    licence: str = ""


def write_config(choices: Choices, path: Path) -> None:
    """Writes the config of a training.

    Raises:
        DisyreError: The name cannot be used, there is no such preset, or the file cannot be written.
    """
    values = config_values(choices)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    write_text(f"# disyre train {path.name} --data SCANS -o RUN\n{text}", path)


def config_values(choices: Choices) -> dict[str, Any]:
    """The fields of the config, as YAML holds them.

    Raises:
        DisyreError: The name cannot be used, or there is no such preset.
    """
    c = choices
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", c.name):
        raise DisyreError(f"'{c.name}' cannot be the name of a model; use small letters, digits and hyphens.")
    values = _preset(c.preset)
    chosen = {
        "contrasts": list(c.contrasts),
        "steps": c.steps,
        "exclude": _patterns(c.exclude),
        "title": c.title,
        "data": c.data,
        "licence": c.licence,
    }
    values |= {"name": c.name, **{name: value for name, value in chosen.items() if value}}
    if c.start is not None:
        values["start"] = c.start
    settings = values.setdefault("settings", {})
    if c.start == "":
        settings.setdefault("network", NETWORK)
    settings["corruption"] = _corruption(settings.get("corruption", {}), c)
    return values


def _preset(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith(".yaml") else resources() / "Configs" / f"{SMALL}.yaml"
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DisyreError(f"There is no preset {name}; install the extension again.") from error
    if name == "standard":
        values["steps"] *= STANDARD_STEPS
    return values


def _patterns(paths: tuple[str, ...]) -> list[str]:
    """File patterns that match these paths and nothing else."""
    return [re.sub(r"([*?[])", r"[\1]", path) for path in paths]


def _corruption(usual: dict[str, Any], c: Choices) -> dict[str, Any]:
    """The settings of `CorruptionSettings` with what was chosen."""
    changed = dict(usual)
    if c.size_mm is not None:
        sizes = usual["largest_mm"]
        changed["largest_mm"] = [c.size_mm, *(min(size, c.size_mm) for size in sizes[1:])]
    if c.faintest is not None:
        changed["faintest"] = c.faintest
    if c.textured is not None:
        changed["families"] = _families(usual["families"], c.textured)
    if c.bias is not None:
        changed["bias_power"] = round(1 / c.bias - 1, 4)  # the mean of U(0, 1) ** p is 1 / (p + 1)
    return changed


def _families(usual: dict[str, float], textured: float) -> dict[str, float]:
    """Weights of the families with a share of textured ones, in the order and proportion that they had."""
    whole = sum(usual[name] for name in TEXTURED)
    shares = {name: textured * usual[name] / whole for name in TEXTURED} | {EVEN: 1 - textured}
    return {name: round(shares[name], 4) for name in usual}
