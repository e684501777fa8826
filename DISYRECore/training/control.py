"""Who may write to a run's folder, and what its user wants of it while it goes on.

A run is told what to do by a word in the file `CONTROL` of its folder, on every system alike: ``pause``, ``resume`` or
``stop``. Where there are such signals, SIGTERM stops, SIGUSR1 pauses and SIGUSR2 resumes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from DISYRECore.errors import DisyreError
from DISYRECore.io.files import check_writable

CONTROL, LOCK = "control", "run.lock"
PAUSE, RESUME, STOP = "pause", "resume", "stop"
SIGNALS = {"SIGTERM": STOP, "SIGUSR1": PAUSE, "SIGUSR2": RESUME}


class Control:
    """What the user wants of a run; what was said to an earlier one is forgotten.

    Args:
        out: Folder of the run.

    Attributes:
        wish: The last of `PAUSE`, `RESUME` and `STOP`; a run that was told to stop stays so.
    """

    def __init__(self, out: Path) -> None:
        self.file, self.wish = out / CONTROL, RESUME
        self.file.unlink(missing_ok=True)

    def look(self) -> str:
        """The wish after a look into the file, which is taken away."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            self.wants(self.file.read_text(encoding="utf-8").strip())
            self.file.unlink(missing_ok=True)
        return self.wish

    def wants(self, word: str) -> None:
        """Takes a wish; other words are of no account."""
        if word in (PAUSE, RESUME, STOP) and self.wish != STOP:
            self.wish = word

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hears signals meanwhile, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        words = {getattr(signal, name): word for name, word in SIGNALS.items() if hasattr(signal, name)}

        def hear(number: int, _: FrameType | None) -> None:
            self.wants(words[signal.Signals(number)])

        before = {number: signal.signal(number, hear) for number in words}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other runs out of a folder; the lock of a process that was killed is no hindrance.

    Raises:
        DisyreError: Another process has it, or the folder cannot be written to.
    """
    check_writable(out)
    with (out / LOCK).open("a+", encoding="utf-8") as file:
        if not _lock(file):
            file.seek(0)
            owner = file.read().strip() or "unknown"
            text = f"Another run (process {owner}) is at work in {out}; wait for it or choose another output folder."
            raise DisyreError(text, "output")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.close()
            with contextlib.suppress(OSError):
                (out / LOCK).unlink()


def is_locked(out: Path) -> bool:
    """Whether a process is at work on the run in a folder."""
    try:
        with (out / LOCK).open("r+", encoding="utf-8") as file:
            return not _lock(file)
    except OSError:
        return False


def _lock(file: IO[str]) -> bool:
    """Locks an open file until it is closed or the process ends; False where another has locked it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(_FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


_FAR = 1 << 20
"""Where Windows locks a byte: beyond the text, which others can then still read."""
