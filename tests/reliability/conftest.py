"""Tests that try to break the tool. What is tried here is also the table of benchmarks/reliability.py.

Each test says in a mark what it tries, ``@pytest.mark.tries("Crash safety", "kill -9 of cas_train, then the same again")``,
and counts as one try; one that makes many takes the fixture ``tries`` and sets ``tries.count``. With CAS_RELIABILITY=full in
the environment the tests try as much as the table says, without it a sample that takes seconds. CAS_RELIABILITY_JSON names a
file for the counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .machine_tools import disk, model, scans, trained  # noqa: F401 - fixtures
from .privacy_markers import bundle, subject  # noqa: F401 - fixtures
from .tiny_runs import ready  # noqa: F401 - fixture

FULL = os.environ.get("CAS_RELIABILITY") == "full"


@dataclass
class Tries:
    """How many tries a test makes, and how many of them held; all, where it does not say."""

    count: int = 1
    held: int | None = None
    note: str = ""


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether to try as much as the table says."""
    return FULL


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Tries:
    """What the test reports of itself."""
    request.node.tries = Tries()
    return request.node.tries


@pytest.fixture
def counted(tries: Tries) -> Iterator[Callable[[], None]]:
    """To be called once an example; what is counted is what was tried."""
    done = [0]

    def one() -> None:
        done[0] += 1
        tries.count = done[0]

    yield one
    tries.count = max(1, done[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    mark = item.get_closest_marker("tries")
    if mark is not None and (report.when == "call" or (report.when == "setup" and not report.passed)):
        made = getattr(item, "tries", None) or Tries()
        held = made.held if made.held is not None else made.count if report.passed else 0
        if not report.skipped:
            report.tried = {"area": mark.args[0], "what": mark.args[1], "tried": made.count, "held": held, "note": made.note}
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    path = os.environ.get("CAS_RELIABILITY_JSON")
    if path:
        reports = [report for kind in ("passed", "failed", "error") for report in terminalreporter.stats.get(kind, [])]
        rows = [report.tried for report in reports if hasattr(report, "tried")]
        Path(path).write_text(json.dumps(rows), encoding="utf-8")
