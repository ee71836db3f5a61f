"""Publishing in batches, each message confirmed or not.

Owns: which messages of a batch the server has stored, could not route, or said nothing of.
Must never: call a message stored that the server has not confirmed.
Called by: the adapter.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from pika.connection import Parameters
from pika.exceptions import AMQPError
from pika.frame import Method
from pika.spec import Basic

from dibs.wires.amqp.wire import Limit, TooLate, Wire

Fate = Literal["stored", "unroutable", "refused", "unknown"]


class Sheet(Struct, frozen=True, gc=False):
    """A message to publish, with encoded properties."""

    exchange: str
    key: str
    properties: bytes
    body: bytes


class Press(Wire):
    """A connection that publishes."""

    def __init__(self, parameters: Parameters, limit: Limit) -> None:
        super().__init__(parameters, limit, lambda *_: None)
        self._sent = 0
        self._missing: set[int] = set()
        self._refused: set[int] = set()
        self._unrouted: list[tuple[str, bytes]] = []
        self.line.add_on_return_callback(self._on_return)
        self.ask("confirm_delivery", ack_nack_callback=self._on_confirm)

    def print(self, sheets: Sequence[Sheet]) -> list[Fate]:
        """Publish messages; say what became of each once all is known, or the time is over.

        Nothing is sent while the server is `blocked`: it would lie there for nobody knows how long.
        """
        if self.blocked:
            return ["unknown"] * len(sheets)
        first = self._sent + 1
        self._unrouted.clear()
        self._refused.clear()
        try:
            for sheet in sheets:
                self._sent += 1
                self._missing.add(self._sent)
                self.publish(sheet.exchange, sheet.key, sheet.properties, sheet.body)
            self.wait(lambda: self.blocked or not self._missing)
        except (AMQPError, TooLate):
            self._missing.update(range(self._sent + 1, first + len(sheets)))
        if not self._missing and not self._refused and not self._unrouted:
            return ["stored"] * len(sheets)
        return [self._fate(first + index, sheet) for index, sheet in enumerate(sheets)]

    def _fate(self, number: int, sheet: Sheet) -> Fate:
        if number in self._missing:
            return "unknown"
        if number in self._refused:
            return "refused"
        # A return has no number. It is one of the same address and bytes, so they share its fate.
        return "unroutable" if (sheet.key, sheet.body) in self._unrouted else "stored"

    def _on_return(self, _: object, method: Basic.Return, __: object, body: bytes) -> None:
        self._unrouted.append((method.routing_key, body))

    def _on_confirm(self, answer: Method) -> None:
        method = answer.method
        tag = method.delivery_tag
        # Not all numbers since the last of these: after days of single publishes they take seconds
        # (test_a_confirm_of_all_so_far_costs_what_is_missing).
        known = {one for one in self._missing if one <= tag} if method.multiple else {tag}
        if isinstance(method, Basic.Nack):
            self._refused |= self._missing & known
        self._missing -= known
