from __future__ import annotations

import pytest
from fuzz import fuzz

from DISYRECore.errors import DisyreError
from DISYRECore.io.volume import Volume
from DISYRECore.preprocessing import brain_mask


def test_200_damaged_scans_give_a_result_or_a_sentence(monkeypatch: pytest.MonkeyPatch):
    def none_found(volume: Volume, rim_mm: float) -> None:
        raise DisyreError("No brain was found; seconds of extraction are left to make fuzz.")

    monkeypatch.setattr(brain_mask, "extract_brain", none_found)
    seed = 20261129
    outcomes = fuzz(200, seed)
    assert set(outcomes) <= {"result", "refused"}, (seed, {kind: cases[:3] for kind, cases in outcomes.items()})
    assert len(outcomes["refused"]) > 50
    assert len(outcomes["result"]) > 20
