"""A server in front of another that speaks SQS, which answers wrongly when it is told to.

Owns: its socket and its threads, and which request gets which wrong answer. A wrong answer is given
in the place of the right one: the request does not go through, unless the fault says so.
"""

import http.client
import json
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = "application/x-amz-json-1.0"
STATUSES = (400, 403, 404, 408, 429, 500, 502, 503, 504, 599)
ODD = ("garbage", "empty", "closed", "cut", "not json")
FAULTS = (*map(str, STATUSES), *ODD)
LOST = "lost reply"
"""The request goes through, and the connection is closed in the place of the answer."""
OLD = "old answer"
"""The last answer to the same request is given again: counts of SQS are up to a minute old."""
SILENT = "silent"
"""No answer, and the connection stays open. Any other word is the code of an error of SQS's."""
_OF_RECEIPT = "Value AQEB for parameter ReceiptHandle is invalid. Reason: "
_TOO_LONG = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]"
REFUSED = {
    "gone": {
        "SenderFault": True,
        "Code": "InvalidParameterValue",
        "Message": _OF_RECEIPT
        + "Message does not exist or is not available for visibility timeout change.",
    },
    "expired": {
        "SenderFault": True,
        "Code": "InvalidParameterValue",
        "Message": _OF_RECEIPT + "The receipt handle has expired.",
    },
    "too long": {
        "SenderFault": True,
        "Code": "InvalidParameterValue",
        "Message": f"Value 1 for parameter VisibilityTimeout is invalid. Reason: {_TOO_LONG}.",
    },
    "throttled": {
        "SenderFault": True,
        "Code": "KMS.ThrottlingException",
        "Message": "You have exceeded the rate at which you may call KMS.",
    },
    "bare": {},
}
"""What Amazon says of an entry of a batch; as a fault, it is said of every entry."""
DELETED = "QueueDeletedRecently"
"""What Amazon answers for a minute after a queue was deleted to whoever makes it anew."""
MESSAGES = {
    DELETED: "You must wait 60 seconds after deleting a queue before you can create another with"
    " the same name."
}


class Front:
    """The server. `endpoint` is where; `spoil` says what it shall do wrong."""

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.spoilt: dict[str, deque[str]] = {}
        self.given: list[tuple[str, str]] = []
        self.answered: dict[tuple[str, bytes], tuple[int, bytes, str]] = {}
        self.seen: deque[str] = deque()
        self.deleted: set[str] = set()
        """Names that were deleted within the last minute: Amazon lets nobody make them anew."""
        self.all_silent = threading.Event()
        self.gone = threading.Event()
        front = self

        class Handler(_Handler):
            place = front

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def spoil(self, action: str, *faults: str) -> None:
        """Answer the next requests of an action with these faults, then rightly again."""
        self.spoilt.setdefault(action, deque()).extend(faults)

    def fault_of(self, action: str, body: bytes) -> str | None:
        """Return what this request shall get, and note that it got it."""
        self.seen.append(action)
        if self.all_silent.is_set():
            return SILENT
        if action == "CreateQueue" and json.loads(body)["QueueName"] in self.deleted:
            return DELETED
        waiting = self.spoilt.get(action)
        if not waiting:
            return None
        fault = waiting.popleft()
        self.given.append((action, fault))
        return fault

    def serve(self) -> None:
        """Serve in a thread."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End."""
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    place: Front

    def do_POST(self) -> None:
        action = self.headers["X-Amz-Target"].rpartition(".")[2]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.place.fault_of(action, body)
        if fault is None:
            self._pass_on(action, body)
        elif fault == OLD:
            self._answer_again(*self.place.answered[action, body])
        elif fault == LOST:
            self._ask(body)
            self._close()
        elif fault == SILENT:
            self.place.gone.wait(60)
            self._close()
        elif fault == "closed":
            self._close()
        elif fault in REFUSED:
            self._refuse(body, REFUSED[fault])
        else:
            self._answer(*_wrong(fault))

    def _ask(self, body: bytes) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.place.behind, timeout=60)
        connection.request("POST", self.path, body, dict(self.headers))
        answer = connection.getresponse()
        found = answer.status, answer.read(), answer.headers["Content-Type"]
        connection.close()
        return found

    def _pass_on(self, action: str, body: bytes) -> None:
        self.place.answered[action, body] = answer = self._ask(body)
        self._answer_again(*answer)

    def _refuse(self, body: bytes, what: Mapping[str, object]) -> None:
        said = {"Failed": [{"Id": entry["Id"], **what} for entry in json.loads(body)["Entries"]]}
        text = json.dumps(said).encode()
        self._answer(200, text, JSON, len(text))

    def _answer_again(self, status: int, text: bytes, kind: str) -> None:
        self._answer(status, text, kind, len(text))

    def _answer(self, status: int, text: bytes, kind: str, length: int) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(text)
        if len(text) != length:
            self._close()

    def _close(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def _wrong(fault: str) -> tuple[int, bytes, str, int]:
    if fault == "garbage":
        text = b"<html>a proxy's page \xff\xfe</html>"
        return 200, text, "text/html", len(text)
    if fault == "not json":
        return 200, b"{{{", JSON, 3
    if fault == "empty":
        return 200, b"", JSON, 0
    if fault == "cut":
        return 200, b'{"Messages": [{"Bo', JSON, 500
    status, code = (int(fault), "ThrottlingException") if fault.isdigit() else (403, fault)
    said = {"__type": f"com.amazonaws.sqs#{code}", "message": MESSAGES.get(code, "no")}
    text = json.dumps(said).encode()
    return status, text, JSON, len(text)


@contextmanager
def fronting(port: int) -> Iterator[Front]:
    """Start one in front of the server at `port`, and stop it after."""
    front = Front(port)
    front.serve()
    try:
        yield front
    finally:
        front.close()
