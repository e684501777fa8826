"""Starts a training that goes on when the application is closed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from DISYRELib.client import python_program
from slicer.i18n import tr as _

from DISYRECore.errors import DisyreError
from DISYRECore.training.follow import CONFIG, EVENTS, OUTPUT


def start(
    core: Path, run: Path, images: Path, labelmaps: Path | None, cache: Path, device: str
) -> subprocess.Popen[bytes]:
    """Begins or resumes a run.

    Args:
        core: Folder of `DISYRECore`.
        run: Folder of the run, with its config.
        images, labelmaps, cache, device: As for `disyre train`.

    Raises:
        DisyreError: It cannot be started.
    """
    data = ["--data", str(images), "--cache", str(cache)]
    data += ["--labelmaps", str(labelmaps)] if labelmaps else []
    command = [python_program(), "-u", "-m", "DISYRECore", "train", str(run / CONFIG), *data]
    command += ["-o", str(run), "--device", device, "--events"]
    try:
        with (run / EVENTS).open("ab") as events, (run / OUTPUT).open("wb") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=events, stderr=output, env=_environment(core), **_apart()
            )
    except OSError as error:
        sentence = _("The training cannot be started in {folder} ({reason}); choose another working folder.")
        raise DisyreError(sentence.format(folder=run, reason=error.strerror), "output") from error


def _environment(core: Path) -> dict[str, str]:
    """The application's, in which Python finds the core wherever it is installed."""
    paths = [str(core.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def _apart() -> dict[str, Any]:
    """Settings of a process that is not ended together with the one that started it."""
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS  # type: ignore[attr-defined, unused-ignore]
        return {"creationflags": flags}
    return {"start_new_session": True}
