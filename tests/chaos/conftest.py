"""The scene of the chaos tests is that of the tests with whole workers."""

from tests.worker.conftest import scene

__all__ = ["scene"]
