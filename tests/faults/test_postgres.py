"""Faults done to PostgreSQL."""

from tests.faults.short import ShortPass


class TestPostgres(ShortPass):
    name = "postgres"
