"""Batches that are made while the network learns from those before them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from DISYRECore.training.tasks.base import Task

Wanted = tuple[Task, int, int]


class Ahead:
    """Makes the next batch of a task in a thread; what is in a batch depends on its seed alone.

    Args:
        stride: Between the seeds of one step and the next.

    Attributes:
        waited_s: Seconds that were waited for batches, all steps together.
    """

    def __init__(self, stride: int) -> None:
        self.stride, self.waited_s = stride, 0.0
        self._thread = ThreadPoolExecutor(1, "batches")
        self._next: tuple[Wanted, Future[Any]] | None = None

    def take(self, task: Task, count: int, seed: int) -> Any:
        """The batch of a seed; begins with that of the next step."""
        began, wanted = time.perf_counter(), (task, count, seed)
        ready = self._next is not None and self._next[0] == wanted
        batch = self._next[1].result() if self._next and ready else task.make(count, seed)
        self.waited_s += time.perf_counter() - began
        follows = (task, count, seed + self.stride)
        self._next = follows, self._thread.submit(task.make, *follows[1:])
        return batch

    def close(self) -> None:
        """Ends the thread once the batch that it is at is made."""
        self._thread.shutdown()
