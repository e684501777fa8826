"""Cohorts on a Dask cluster; its workers need this package and the same files at the same paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from DISYRECore.apps.cases import Case
from DISYRECore.apps.cohort import Compute, Recipe, compute_case, failed
from DISYRECore.errors import DisyreError
from DISYRECore.reports.cohort import CaseSummary

TIMEOUT_S = 15


def compute_on(address: str) -> Compute:
    """What sends cases to the scheduler at an address, such as ``tcp://10.0.0.1:8786``; see `cohort.run_cohort`.

    Raises:
        DisyreError: Dask is not installed.
    """
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise DisyreError("--scheduler needs Dask; install it with: pip install 'disyre[cluster]'.") from error
    return partial(_compute, address)


def _compute(address: str, cases: Sequence[Case], recipe: Recipe, output: Path) -> Iterator[CaseSummary]:
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout=TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise DisyreError(f"No Dask scheduler answers at {address}; check the address.") from error
    with client:
        futures = {client.submit(compute_case, case, recipe, output, pure=False): case for case in cases}
        for future in as_completed(futures):
            lost = future.exception()
            yield future.result() if lost is None else failed(futures[future], lost)
