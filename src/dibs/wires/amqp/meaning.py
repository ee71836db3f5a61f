"""What it means to a caller that a call failed: in the server's own words, and with the way out.

Must never: put a password into a text; the server's words have none.
Called by: the adapter.
"""

from pika.exceptions import ChannelClosedByBroker, ConnectionClosedByBroker

from dibs.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable
from dibs.text import one_line
from dibs.wires.amqp.wire import Blocked

_ACCESS_REFUSED, _NOT_ALLOWED = 403, 530
_WAYS = {
    _ACCESS_REFUSED: "check user and password; `guest` may come from the server's own machine only",
    _NOT_ALLOWED: "docs/rabbitmq.md, Operations, says how a vhost is made, and a user let in",
}
"""Of a server that does not let us in, by its code."""


def meaning(lost: BaseException, shown: str) -> BrokerError:
    """Return what a caller is told of the end of a call to the server that is `shown`."""
    if isinstance(lost, Blocked):
        return BrokerFull(f"{shown} takes no messages: {lost}")
    if isinstance(lost, ChannelClosedByBroker) and lost.reply_code == _ACCESS_REFUSED:
        return BrokerRefused(
            f"{shown}: the server lets this user not do that ({one_line(lost.reply_text)}): give"
            " it the rights of docs/rabbitmq.md, Operations"
        )
    if isinstance(lost, ChannelClosedByBroker | ConnectionClosedByBroker):
        way = _WAYS.get(lost.reply_code)
        text = f"{shown}: {one_line(lost.reply_text)} ({lost.reply_code})"
        return BrokerUnavailable(f"{text}: {way}" if way else text)
    return BrokerUnavailable(f"{shown}: {str(lost) or type(lost).__name__}")
