"""Whatever a user does in whatever order: no exception, and what the panel says stays true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.disyre import HEALTHY, needs_slicer, set_border, set_rarity, status, three_blobs, wait_for_findings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

pytestmark = [needs_slicer, pytest.mark.usefixtures("widget")]

MOST_VOLUMES = 4


class User(RuleBasedStateMachine):
    """Works with the panel in any order."""

    desktop: Any
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.bundles: list[Path] = []
        self.desktop.clear()
        self.desktop.errors.clear()
        self.desktop.open("DISYRE")
        self.desktop.pick("showSelector", "Outline")
        self.observations = len(self.desktop.module.Observations)

    def teardown(self) -> None:
        self.desktop.open("DISYRE")
        self.desktop.clear()

    @property
    def panel(self) -> Any:
        return self.desktop.module.panel

    def volumes(self) -> int:
        import slicer

        return len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))

    def reviewing(self) -> bool:
        return self.panel.result is not None

    def settle(self) -> None:
        for _ in range(3):
            self.desktop.process()
        wait_for_findings(self.desktop)
        self.desktop.process()

    @precondition(lambda self: self.volumes() < 2 * MOST_VOLUMES)
    @rule(calibrated=st.booleans())
    def examine(self, calibrated: bool) -> None:
        three_blobs(self.desktop, self.desktop.module, self.folder, healthy=HEALTHY if calibrated else None)

    @precondition(reviewing)
    @rule(border=st.sampled_from((0.2, 0.5, 0.95)))
    def move_border(self, border: float) -> None:
        set_border(self.desktop, border)

    @precondition(reviewing)
    @rule(false_findings=st.sampled_from((0.1, 0.5, 5.0)))
    def move_rarity(self, false_findings: float) -> None:
        set_rarity(self.desktop, false_findings)

    @rule(text=st.sampled_from(("Heat map and outline", "Outline", "Nothing")))
    def show(self, text: str) -> None:
        self.desktop.pick("showSelector", text)

    @precondition(lambda self: self.reviewing() and self.desktop.widget("findingsTable").rowCount > 0)
    @rule(what=st.sampled_from(("next", "reject", "name")))
    def judge(self, what: str) -> None:
        self.desktop.click("nextButton")
        if what == "reject":
            self.desktop.click("rejectButton")
        elif what == "name":
            self.desktop.widget("findingsTable").item(0, 1).setText("Named")

    @precondition(reviewing)
    @rule()
    def edit_segments_and_return(self) -> None:
        import slicer

        self.desktop.click("editButton")
        slicer.util.selectModule("DISYRE")

    @rule()
    def visit_another_module(self) -> None:
        import slicer

        slicer.util.selectModule("SegmentEditor")
        slicer.app.applicationLogic().PropagateVolumeSelection(0)
        slicer.util.selectModule("DISYRE")

    @rule()
    def save(self) -> None:
        import slicer

        path = self.folder / f"scene{len(self.bundles)}.mrb"
        assert slicer.mrmlScene.WriteToMRB(str(path))
        self.bundles.append(path)

    @rule()
    def close(self) -> None:
        self.desktop.clear()

    @precondition(lambda self: self.bundles)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        import slicer

        slicer.mrmlScene.ReadFromMRB(str(data.draw(st.sampled_from(self.bundles))), True)

    @precondition(lambda self: self.bundles and self.volumes() < MOST_VOLUMES)
    @rule(data=st.data())
    def load_over_it(self, data: st.DataObject) -> None:
        import slicer

        slicer.mrmlScene.ReadFromMRB(str(data.draw(st.sampled_from(self.bundles))), False)

    @rule()
    def reload(self) -> None:
        self.desktop.module.onReload()

    @precondition(reviewing)
    @rule(what=st.sampled_from(("input", "levels", "table")), back=st.booleans())
    def remove(self, what: str, back: bool) -> None:
        import slicer

        node, scene = getattr(self.panel.result, what), slicer.mrmlScene
        if node is None:
            return
        node.SetUndoEnabled(True)
        scene.SetUndoOn()
        scene.SaveStateForUndo()
        scene.RemoveNode(node)
        self.settle()
        if back:
            scene.Undo()
        scene.SetUndoOff()
        scene.ClearUndoStack()
        scene.ClearRedoStack()

    @precondition(lambda self: self.desktop.widget("compareButton").isEnabled())
    @rule()
    def compare(self) -> None:
        self.desktop.click("compareButton")

    @rule()
    def flicker(self) -> None:
        self.panel.toggle_restored()

    @invariant()
    def nothing_went_wrong(self) -> None:
        self.settle()
        assert not self.desktop.errors
        assert len(self.desktop.module.Observations) == self.observations

    @invariant()
    def the_panel_tells_the_truth(self) -> None:
        import slicer
        from DISYRELib.checks import problem_with
        from DISYRELib.scene import rows_of

        panel, count = self.panel, self.desktop.widget("findingsTable").rowCount
        assert panel.parameters.parameterNode is panel.logic.getParameterNode().parameterNode
        assert self.desktop.widget("detectButton").isEnabled() == (not problem_with(panel.parameters.inputVolume))
        if panel.result is None:
            assert count == 0
            assert "finding" not in status(self.desktop)
            return
        if not panel.result.complete:
            return
        assert count == len(rows_of(panel.result))
        assert status(self.desktop).startswith(f"{count} finding")
        for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            shown = slicer.mrmlScene.GetNodeByID(view.GetBackgroundVolumeID() or "")
            if shown is not None and shown is panel.result.input and panel.parameters.show.heat:
                assert view.GetLabelVolumeID()


def work(desktop: Any, folder: Path, steps: int, examples: int) -> None:
    """The first example is always the plainest one, so there are two and more."""
    User.desktop, User.folder = desktop, folder
    run_state_machine_as_test(
        User,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=False,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_user_in_a_hurry(desktop: Any, tmp_path: Path) -> None:
    work(desktop, tmp_path, steps=20, examples=2)


@pytest.mark.slow
def test_a_user_who_works_all_day(desktop: Any, tmp_path: Path) -> None:
    work(desktop, tmp_path, steps=200, examples=3)
