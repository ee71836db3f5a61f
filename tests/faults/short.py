"""The short pass: each fault done to one broker for a few seconds, while some hundred jobs come.

Owns: the one test of it, which runs for each scenario; `make faults` does them at full length.
Must never: know a broker.
Called by: the tests of this folder, a file for each broker, for files are run side by side.
"""

from collections.abc import Iterator

import pytest

from tests.faults.grounds import grounds
from tests.faults.run import run
from tests.faults.scenarios import SCENARIOS, SHORT
from tests.servers import Server


class ShortPass:
    """Subclass it with the `name` of a ground, and call the class Test...."""

    name: str

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """Its server, running."""
        with grounds()[cls.name].serving(tmp_path_factory.mktemp(cls.name)) as server:
            yield server

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run the test for each scenario that there is a server or a network for."""
        if "scenario" in metafunc.fixturenames:
            network = grounds()[self.name].network
            names = [key for key, one in SCENARIOS.items() if network or not one.network]
            metafunc.parametrize("scenario", names)

    def test_no_job_is_lost_and_every_worker_heals(self, scenario: str, server: Server) -> None:
        found = run(grounds()[self.name], server, SCENARIOS[scenario], SHORT)
        assert found.harm, "or nothing was done"
        assert found.good, found.broken
