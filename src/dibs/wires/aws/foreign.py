"""What another program sent: `dibs-task` names the task, the body has its arguments.

Must never: know the contract. Called by: the SQS adapter, for what has no attribute of ours.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from dibs.message import Message

Got = Mapping[str, Any]
"""A message as boto3 hands it out."""
UNREADABLE = 0
"""The version of an envelope that no worker runs: what cannot be read is a dead letter."""


def foreign_message(got: Got) -> Message:
    """Return a message less its queue and arguments; other attributes of text are its headers."""
    attributes = got.get("MessageAttributes", {}).items()
    texts = {name: value["StringValue"] for name, value in attributes if "StringValue" in value}
    task = texts.pop("dibs-task", None)
    if task is None:
        return unreadable_message(got)
    return Message(_id_of(got), "", task, b"", headers=texts)


def unreadable_message(got: Got) -> Message:
    """Return what stands for a message that nobody can read, beside its body."""
    return Message(_id_of(got), "", "unreadable", b"", version=UNREADABLE)


def _id_of(got: Got) -> bytes:
    """Return an id for what brought none of its own: the same at every receive."""
    return blake2b(got["MessageId"].encode(), digest_size=16).digest()
