"""A stand-in for `slicer.packaging`: checks requirements for real, installs nothing and remembers what was asked."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

asked: list[str] = []


def load_requirements(path: str | Path) -> list[Requirement]:
    """Requirements of a requirements.txt."""
    lines = [line.split("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


def pip_check(requirements: Any, *_: Any) -> bool:
    """Whether all requirements are met."""
    many = requirements if isinstance(requirements, list) else [requirements]
    return all(map(_met, many))


def _met(requirement: Requirement) -> bool:
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_ensure(requirements: list[Requirement], **_: Any) -> None:
    """Remembers what is missing; the application would ask and install, and does neither in testing mode."""
    asked.extend(str(requirement) for requirement in requirements if not _met(requirement))


def pip_install(requirements: Any, **_: Any) -> None:
    """Remembers what was asked for."""
    asked.append(str(requirements))
