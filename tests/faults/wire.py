"""What the brokers' requests look like on the wire, as far as a lost reply needs to know.

Owns: one function for each protocol that makes what recognises a request in a client's bytes.
Must never: miss a request for an argument's sake: what is looked for is in the head of a request.
Called by: `grounds.py`.
"""

import re
from collections.abc import Callable

Recognise = Callable[[bytes], bool]

BASIC = b"\x00\x3c"
"""The class of AMQP's methods for messages."""
PUBLISH, ACK = b"\x00\x28", b"\x00\x50"


def nothing(data: bytes) -> bool:
    """Recognise nothing: of a broker that has no wire."""
    del data
    return False


def holds(text: bytes) -> Recognise:
    """Recognise what holds a text."""
    return lambda data: text in data


def amqp(method: bytes) -> Recognise:
    """Recognise a method of AMQP's class `basic`: a frame's type, channel and size before it."""
    frame = re.compile(rb"\x01.{2}\x00.{3}" + re.escape(BASIC + method), re.DOTALL)
    return lambda data: frame.search(data) is not None


def bound(statement: str) -> Recognise:
    """Recognise the Bind of a prepared statement, in PostgreSQL's protocol."""
    frame = re.compile(rb"B.{4}\x00" + re.escape(statement.encode()) + rb"\x00", re.DOTALL)
    return lambda data: frame.search(data) is not None


def sqs_action(action: str) -> Recognise:
    """Recognise an action of SQS's JSON protocol."""
    return holds(f"X-Amz-Target: AmazonSQS.{action}\r\n".encode())
