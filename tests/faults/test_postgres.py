"""Faults done to PostgreSQL."""

import pytest

from tests.faults.short import ShortPass

pytest.importorskip("dibs.brokers.postgres")


class TestPostgres(ShortPass):
    name = "postgres"
