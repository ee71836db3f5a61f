"""A check, and the faults that it must find: each test runs as it is, and once on each fault.

Owns: putting a fault into force for the length of one test, and telling that the test found *it*.
Must never: take any failure for a find: what is raised must say what the fault is about.
Called by: the tests of this folder.
"""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.regressions.faults import FAULTS
from tests.worker import workers
from tests.worker.workers import Scene

SHORT_SECONDS = 5.0
"""How long a test waits in vain on a fault: enough for a worker to start and take its jobs."""

Given = Callable[[str], Any]


def finds(fault: str, finding: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have a test run on a fault too, where it must fail and say `finding`, a pattern.

    A test of a `scene` starts its workers with the fault; any other runs on it in this process.
    Use it several times for several faults.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        plain = getattr(test, "plain", test)
        seeds = [(fault, finding), *getattr(test, "seeds", [])]
        names = list(inspect.signature(plain).parameters)

        @functools.wraps(plain)
        def both(request: pytest.FixtureRequest, seed: tuple[str, str] | None) -> None:
            if seed is None:
                plain(*map(request.getfixturevalue, names))
            else:
                must_find(*seed, plain, names, request.getfixturevalue)

        both.plain, both.seeds = plain, seeds  # type: ignore[attr-defined]
        both.__signature__ = inspect.signature(_parameters)  # type: ignore[attr-defined]
        both.pytestmark = [  # type: ignore[attr-defined]
            *getattr(plain, "pytestmark", []),
            pytest.mark.parametrize(
                "seed", [None, *seeds], ids=["as it is", *(name for name, _ in seeds)]
            ).mark,
        ]
        return both

    return decorate


def must_find(
    fault: str, finding: str, test: Callable[..., None], names: Sequence[str], given: Given
) -> None:
    """Run a test on a fault; fail unless it fails, and says `finding`."""
    patch: pytest.MonkeyPatch = given("monkeypatch")
    fixtures: dict[str, Any] = {}
    if "scene" in names:
        patch.setattr(workers, "SECONDS", SHORT_SECONDS)
        fixtures["scene"] = scene = given("scene")
        assert isinstance(scene, Scene)
        scene.fault = fault
    else:
        FAULTS[fault](patch.setattr)
    arguments = [fixtures.get(name) or given(name) for name in names]
    with pytest.raises((Exception, pytest.fail.Exception), match=finding):
        test(*arguments)


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child, which ends as soon as it is done; return its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def _parameters(request: pytest.FixtureRequest, seed: tuple[str, str] | None) -> None: ...
