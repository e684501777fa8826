"""Has the findings of the result that is shown follow the sliders."""

from __future__ import annotations

from collections.abc import Callable, Generator

from DISYRELib.checks import scene_is_busy
from DISYRELib.client import timer
from DISYRELib.options import Criteria
from DISYRELib.scene import Result
from DISYRELib.search import Search

REST_MS = 250


class Follower:
    """Brings table and segment in line with the sliders once these rest, in steps between which the window answers.

    Args:
        criteria: Says what counts as a finding at present.
        done: Called whenever table and segment have followed.
    """

    def __init__(self, criteria: Callable[[], Criteria], done: Callable[[], None]) -> None:
        self._criteria, self._done = criteria, done
        self._search: Search | None = None
        self._steps: Generator[None, None, None] | None = None
        self._rest_timer, self._step_timer = timer(self._begin), timer(self._step)

    def watch(self, result: Result | None) -> None:
        """From now on it is about this result, or about none."""
        self._stop()
        self._search = Search(result) if result is not None else None

    def later(self) -> None:
        """A slider was moved."""
        self._stop()
        self._rest_timer.start(REST_MS)

    def now(self) -> None:
        """Table and segment have to be right when this returns, unless the scene is busy."""
        self._stop()
        if scene_is_busy():
            return self.later()
        if self._search is None or not self._search.result.complete:
            return None
        for _step in self._search.steps(self._criteria()):
            pass
        return self._done()

    @property
    def waiting(self) -> bool:
        """Whether table and segment have not followed yet."""
        return self._rest_timer.isActive() or self._steps is not None

    def _stop(self) -> None:
        self._rest_timer.stop()
        self._step_timer.stop()
        self._steps = None

    def _begin(self) -> None:
        if self._search is not None:
            self._steps = self._search.steps(self._criteria())
            self._step()

    def _step(self) -> None:
        if scene_is_busy():
            return self.later()
        if self._steps is None or self._search is None or not self._search.result.complete:
            return self._stop()
        try:
            next(self._steps)
        except StopIteration:
            self._stop()
            return self._done()
        return self._step_timer.start(0)
