"""The worker process, spoken to in lines of JSON; see `DISYRECore/apps/worker.py`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

CANCEL_MS = 3000
STOP_MS = 1000
KEEP_MS = 300_000
LOG_LINES = 500
PAUSE_S = 0.005
ENDINGS = ("result", "error", "cancelled")
"""The last event of a request is one of these."""


def python_program() -> str:
    """The Python that runs outside of the application."""
    return shutil.which("PythonSlicer") or sys.executable


class WorkerClient:
    """Starts the worker on demand, sends requests, hands out events.

    One request runs at a time. Every request ends with exactly one event ``result``, ``error`` or ``cancelled``.

    Args:
        script: Path of `worker.py`.
        program: Python to run it with.

    Attributes:
        log: What the worker printed, the last lines.
        busy: Whether a request is running.
        keep_ms: How long the process is kept after a request, with the model in memory.
    """

    def __init__(self, script: Path, program: str | None = None) -> None:
        self.script, self.program = script, program or python_program()
        self.log: list[str] = []
        self.busy = self._cancelled = False
        self._listener: Callable[[dict], None] | None = None
        self._process: Any = None
        self._ended: Any = None
        self._rest = b""
        self.keep_ms = KEEP_MS
        self._kill_timer, self._idle_timer = timer(self._kill), timer(self.stop)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.state() != qt.QProcess.NotRunning

    def request(self, request: dict, listener: Callable[[dict], None]) -> None:
        """Sends a request; the listener gets its events."""
        if self.busy:
            raise RuntimeError("one request at a time")
        self._idle_timer.stop()
        self.busy, self._cancelled, self._listener = True, False, listener
        if not self.alive:
            self._start()
        self._send(request)

    def cancel(self) -> None:
        """Stops the running request: it is asked first, and ended by force if it does not obey."""
        if self.busy and not self._cancelled:
            self._cancelled = True
            self._send({"command": "cancel"})
            self._kill_timer.start(CANCEL_MS)

    def stop(self) -> None:
        """Ends the process; a running request hears no more."""
        self.busy, self._listener = False, None
        self._kill_timer.stop()
        self._idle_timer.stop()
        self._let_go()
        process = self._ended
        if process is None or process.state() == qt.QProcess.NotRunning:
            return
        process.closeWriteChannel()
        if not process.waitForFinished(STOP_MS):
            process.kill()
            process.waitForFinished(STOP_MS)

    def _start(self) -> None:
        environment = qt.QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONUTF8", "1")
        environment.insert("PYTHONUNBUFFERED", "1")
        self._rest = b""
        self._process = process = qt.QProcess()
        process.setProcessEnvironment(environment)
        process.connect("readyReadStandardOutput()", self._on_output)
        process.connect("readyReadStandardError()", self._on_log)
        process.connect("finished(int,QProcess::ExitStatus)", self._on_finished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._on_error)
        process.start(self.program, ["-u", str(self.script)])

    def _send(self, request: dict) -> None:
        self._process.write(json.dumps(request) + "\n")

    def _kill(self) -> None:
        if self.alive:
            self._process.kill()

    def _on_output(self) -> None:
        if self._process is None:
            return
        *lines, self._rest = (self._rest + self._process.readAllStandardOutput().data()).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] != "cancelled":  # said when the process has ended
                self._hand_out(event)

    def _on_log(self) -> None:
        if self._process is None:
            return
        text = self._process.readAllStandardError().data().decode("utf-8", "replace")
        self.log += [line for line in text.splitlines() if line.strip()]
        del self.log[:-LOG_LINES]

    def _on_finished(self, *_args: object) -> None:
        if self._process is None or self.alive:
            return
        self._on_output()
        self._on_log()
        self._let_go()
        if self.busy:
            self._hand_out(self._ending())

    def _let_go(self) -> None:
        """Forgets the process, but does not destroy it, since it may be telling us that it ended."""
        if self._process is not None:
            self._process, self._ended = None, self._process

    def _on_error(self, *_args: object) -> None:
        if self._process is not None and not self.alive:
            qt.QTimer.singleShot(0, self._on_finished)

    def _ending(self) -> dict:
        if self._cancelled:
            return {"event": "cancelled"}
        message = _("The detection process ended unexpectedly; detect again (Advanced shows its log).")
        return {"event": "error", "kind": "killed", "message": message, "trace": "\n".join(self.log[-20:])}

    def _hand_out(self, event: dict) -> None:
        listener = self._listener
        if event["event"] in ENDINGS:
            self._kill_timer.stop()
            self._idle_timer.start(self.keep_ms)
            self.busy, self._listener = False, None
        if event.get("trace"):
            self.log += event["trace"].splitlines()
        if listener is not None:
            listener(event)


def timer(slot: Callable[[], object]) -> qt.QTimer:
    """A timer that calls once."""
    made = qt.QTimer()
    made.setSingleShot(True)
    made.connect("timeout()", slot)
    return made


def wait_until(done: Callable[[], object]) -> None:
    """Lets the application work until something holds."""
    while not done():
        slicer.app.processEvents()
        time.sleep(PAUSE_S)
