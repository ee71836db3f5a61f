"""Faults done to Amazon SQS."""

import pytest

from tests.faults.short import ShortPass

pytest.importorskip("dibs.brokers.sqs")


class TestSqs(ShortPass):
    name = "sqs"
