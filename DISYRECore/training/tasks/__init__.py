"""What can be learnt. Each module here is one task: its settings, its data and loss, and its ``SPEC``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from DISYRECore.errors import DisyreError

if TYPE_CHECKING:
    from DISYRECore.training.tasks.base import TaskSpec


def task_names() -> tuple[str, ...]:
    """Names of all tasks; nothing heavy is imported."""
    return tuple(name.replace("_", "-") for _, name, is_package in iter_modules(__path__) if not is_package)


def find_task(name: str) -> TaskSpec:
    """A task by its name.

    Raises:
        DisyreError: There is none of this name.
    """
    if name not in task_names():
        raise DisyreError(f"There is no task '{name}'; choose one of {', '.join(task_names())}.")
    spec: TaskSpec = import_module(f"{__name__}.{name.replace('-', '_')}").SPEC
    return spec
