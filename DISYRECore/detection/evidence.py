"""How unusual a finding is: its evidence, against that of the findings in healthy scans.

The evidence of a component is the sum of its log odds, counted from a low score on, over its volume:

    E = sum_v V (logit s_v - logit s_low)       V the volume of a voxel in mL

so that large and faint counts like small and strong. For scores that are no probabilities the log of the share of
healthy voxels above them stands in for the log odds. Healthy scans have components as well; their evidence says how
often one so strong is to be expected where there is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CAP = 1e-4
"""Probabilities are told apart up to this distance from 0 and 1."""

TAIL = 8
"""Strongest healthy components that fix how the expected number falls beyond them."""

DEFAULT_FALSE_FINDINGS = 0.5
"""False findings per healthy scan that are accepted where nobody says otherwise."""


@dataclass(frozen=True)
class HealthyFindings:
    """The components of healthy scans of one contrast.

    Attributes:
        low: Score above which voxels form components.
        scans: Number of healthy scans.
        evidence: Of their strongest components, falling; see `strongest`.
        shares: ``(score, share of healthy voxels above it)``, rising scores, for scores that are no probabilities;
            empty for probabilities.
    """

    low: float
    scans: int
    evidence: tuple[float, ...]
    shares: tuple[tuple[float, float], ...] = ()

    def log_odds(self, score: np.ndarray) -> np.ndarray:
        """Log odds of scores, counted from `low` on; 0 at or below it. Any shape, float32."""
        rising = _logit if not self.shares else self._surprise
        above = rising(np.asarray(score, np.float32)) - rising(np.asarray(self.low, np.float32))
        return np.maximum(above, 0).astype(np.float32)

    def _surprise(self, score: np.ndarray) -> np.ndarray:
        scores, shares = np.array(self.shares).T
        return -np.log(np.interp(score, scores, np.maximum(shares, CAP)))

    def false_findings(self, evidence: float) -> float:
        """How many findings at least so strong are to be expected in a healthy scan.

        Counted up to the strongest component of the healthy scans; beyond it the number falls exponentially, as fast as
        the strongest of them do.
        """
        strongest = np.array(self.evidence)
        reached = int((strongest >= evidence).sum())
        if reached or not len(strongest):
            return max(reached, 1) / self.scans
        tail = strongest[: min(TAIL, len(strongest))]
        scale = max(float((tail - tail[-1]).sum()) / max(len(tail) - 1, 1), 1e-6)
        return float(np.exp(-(evidence - strongest[0]) / scale)) / self.scans

    def needed(self, false_findings: float) -> float:
        """The evidence from which on no more than this many findings are to be expected in a healthy scan.

        0 where the healthy scans have no component at all: nothing that is found is known from them.
        """
        count = int(false_findings * self.scans)
        if not self.evidence:
            return 0.0
        if count >= 1:
            return self.evidence[count] * (1 + 1e-9) if count < len(self.evidence) else 0.0
        low, high = self.evidence[0], 2 * self.evidence[0] + 1
        while self.false_findings(high) > false_findings:
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self.false_findings(middle) <= false_findings else (middle, high)
        return max(high, self.evidence[0] * (1 + 1e-9))


def _logit(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, CAP, 1 - CAP)
    return np.log(clipped / (1 - clipped))


def strongest(evidence_by_scan: list[np.ndarray], most: int = 400) -> tuple[float, ...]:
    """The evidence of the components of healthy scans, pooled, falling, as `HealthyFindings` keeps it.

    Four digits, rounded up: a component never counts as stronger than its own entry.
    """
    pooled = np.sort(np.concatenate(evidence_by_scan))[::-1][:most] if evidence_by_scan else np.zeros(0)
    return tuple(float(f"{one * (1 + 5e-4):.4g}") for one in pooled)
