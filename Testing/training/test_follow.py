"""A run as seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from DISYRECore.training.control import is_locked, locked
from DISYRECore.training.follow import EVENTS, MOST_POINTS, OUTPUT, Follower

START = {"event": "start", "name": "a", "step": 0, "steps": 100, "device": "cpu"}


def step(number: int, **values: Any) -> dict[str, Any]:
    told = {"stage": 1, "losses": {"error": 1.0 / number}, "learning_rate": 0.1, "images_per_s": 4.0, "left_s": 9}
    return {"event": "step", "step": number, **told, **values}


def tell(folder: Path, *events: dict[str, Any], end: str = "\n") -> None:
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(event) for event in events) + end)


def read(follower: Follower) -> Any:
    while follower.read():
        pass
    return follower.view


def test_nothing_is_known_of_a_run_that_was_not_begun(tmp_path: Path) -> None:
    view = read(Follower(tmp_path / "none"))
    assert (view.state, view.ended) == ("none", False)


def test_what_is_told_piece_by_piece_is_put_together(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    tell(tmp_path, START, step(1), end="\n" + json.dumps(step(2))[:20])
    assert read(follower).step == 1
    with (tmp_path / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(step(2))[20:] + "\n")
    assert read(follower).step == 2
    assert follower.view.losses == [(1, {"error": 1.0}), (2, {"error": 0.5})]


def test_lines_that_are_no_events_are_of_no_account(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text("a warning\n[1]\n{}\n" + json.dumps(START) + "\n", encoding="utf-8")
    assert read(Follower(tmp_path)).state == "running"


def test_a_run_that_was_taken_up_again_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    tell(tmp_path, START, *(step(n) for n in range(1, 9)), {**START, "step": 4}, step(5))
    assert [point[0] for point in read(Follower(tmp_path)).losses] == [1, 2, 3, 4, 5]


def test_the_way_to_the_end_and_to_a_failure(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    for event, state in (("paused", "paused"), ("resumed", "running")):
        tell(tmp_path, START, {"event": event, "step": 1})
        assert read(follower).state == state
    tell(tmp_path, {"event": "error", "kind": "diverged", "message": "Training diverged."})
    assert (read(follower).state, follower.view.problem) == ("failed", "Training diverged.")
    end = {"reason": "stopped", "step": 5, "best_step": 4, "best_score": 0.5, "model": "m", "processor_s": 1}
    tell(tmp_path, START, {"event": "end", **end})
    assert (read(follower).state, follower.view.ended, follower.view.model) == ("stopped", True, Path("m"))


def test_the_last_words_of_a_run_that_could_not_begin(tmp_path: Path) -> None:
    assert Follower(tmp_path).last_words() == ""
    (tmp_path / OUTPUT).write_text("Traceback\n  File\ndisyre: There is no GPU.\n", encoding="utf-8")
    assert Follower(tmp_path).last_words() == "disyre: There is no GPU."


def test_curves_stay_bounded_and_keep_their_ends(tmp_path: Path) -> None:
    tell(tmp_path, START, *(step(n) for n in range(1, 5000)))
    losses = read(Follower(tmp_path)).losses
    assert len(losses) <= MOST_POINTS
    assert (losses[0][0], losses[-1][0]) == (1, 4999)


def test_a_run_is_at_work_as_long_as_its_process_is(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from DISYRECore.training.control import locked
with locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "locked"
        assert is_locked(tmp_path)
        process.kill()
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass
