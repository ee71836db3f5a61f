"""Faults done to a server that speaks SQS, in short."""

from tests.faults.short import ShortPass


class TestSqs(ShortPass):
    name = "sqs"
    scenarios = ("lost-ack",)
