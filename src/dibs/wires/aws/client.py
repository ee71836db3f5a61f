"""The way to SQS: its URL, clients that end in time, and its errors in our words.

Must never: be imported before an `sqs://` URL is opened (boto3 takes a quarter of a second), or let
a client of our own try again: a request is sent once, and whoever called backs off. One that was
brought may, in time.
Called by: the adapter's other parts.
"""

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from msgspec import Struct

from dibs.errors import BrokerError, BrokerRefused, BrokerUnavailable, UrlError
from dibs.spelling import did_you_mean
from dibs.wires.aws.calls import NotAnswered, NotCalled, begins, in_time

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

READ_SECONDS = 3.5
_PLACE = re.compile(r"sqs://([a-z0-9-]+)/([A-Za-z0-9_-]{1,14})")
_NOBODY = (EndpointConnectionError, ConnectTimeoutError)
_USER = re.compile(r"(?<=//).*@")
_RIGHTS = "give it the rights of docs/sqs.md, Permissions"
_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the machine"
_SECRET = "the secret key is not that of the access key, or this machine's clock is wrong"
_NO_RECEIPT = "for parameter ReceiptHandle is invalid"
"""What SQS says of a well-formed receipt that is no good any more; a reason follows."""
_REFUSALS = {
    **dict.fromkeys(("AccessDenied", "AccessDeniedException"), _RIGHTS),
    **dict.fromkeys(("NoCredentialsError", "InvalidClientTokenId"), _KEYS),
    "UnrecognizedClientException": _KEYS,
    **dict.fromkeys(("SignatureDoesNotMatch", "InvalidSignatureException"), _SECRET),
    "InvalidSecurity": "use an https endpoint",
}
"""What is refused until somebody mends it, and how. Credentials that expire are none of it: boto3
renews them; but where a client finds none when it is made, it never does.
"""


class Address(Struct, frozen=True):
    """What a URL says; credentials are boto3's own to find."""

    region: str
    prefix: str
    endpoint: str | None = None

    def __str__(self) -> str:
        place = f"sqs://{self.region}/{self.prefix}"
        return f"{place}?endpoint={self.endpoint}" if self.endpoint else place


def address_of(url: str) -> Address:
    """Read a URL, or raise `UrlError`."""
    place, _, query = url.partition("?")
    if (found := _PLACE.fullmatch(place)) is None:
        shown = f"sqs://{place.removeprefix('sqs://').rpartition('@')[2]}"
        form = "`sqs://REGION/PREFIX`, the prefix being 1 to 14 of A-Z a-z 0-9 _ -"
        raise UrlError(f"{shown} is no place for queues: write {form}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    endpoint = options.pop("endpoint", None)
    for name in options:
        raise UrlError(f"{place} has no option `{name}`{did_you_mean(name, ['endpoint'])}")
    if endpoint is not None and not _is_endpoint(endpoint):
        raise UrlError(f"{place}: an endpoint is `https://host:port`, and has no user")
    return Address(found[1], found[2], endpoint)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def client_at(address: Address, read_seconds: float, connections: int) -> "SQSClient":
    """Make a client whose requests end by themselves."""
    config = Config(
        connect_timeout=1.0,
        read_timeout=read_seconds,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1},
        tcp_keepalive=True,
    )
    try:
        session = boto3.session.Session(region_name=address.region)
        return session.client("sqs", endpoint_url=address.endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        said = _USER.sub("***@", str(error))
        raise BrokerRefused(f"{address}: boto3 cannot be set up: {said}") from error


def taken(client: "SQSClient", address: Address) -> "SQSClient":
    """Have a client's every attempt looked at, as it may make several; or refuse it.

    Raises:
        BrokerRefused: its endpoint holds a secret, which errors and `dibs doctor` would show.
    """
    if _USER.search(client.meta.endpoint_url):
        raise BrokerRefused(f"{address}: the endpoint of boto3 must have no user: {_KEYS}")
    client.meta.events.register("before-call.sqs", begins, unique_id="dibs-begins")
    client.meta.events.register("before-send.sqs", in_time, unique_id="dibs-in-time")
    return client


class Failure(Struct, frozen=True):
    """Why a request, or an entry of it, is not known to be done. `sure`: it had no effect.

    `away`: it could not be sent, as nobody is there.
    """

    code: str
    text: str
    sure: bool
    away: bool = False

    @property
    def over(self) -> bool:
        """Whether the receipt is no good any more: its message is another's, or gone."""
        known = self.code in ("ReceiptHandleIsInvalid", "MessageNotInflight")
        return known or (self.code == "InvalidParameterValue" and _NO_RECEIPT in self.text)

    @property
    def missing(self) -> bool:
        """Whether there is no such queue."""
        return "NonExistent" in self.code or "DoesNotExist" in self.code

    def error(self, where: object) -> BrokerError:
        """Return what to raise."""
        if (way := _REFUSALS.get(self.code)) is not None:
            return BrokerRefused(f"{where}: {self.text}: {way}")
        return BrokerUnavailable(f"{where}: {self.text}")


def failure_of(error: Exception) -> Failure:
    """Say what an exception means: what got no clear answer may have been done."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        said = error.response.get("Error", {})
        code = said.get("Code", "").rpartition(".")[2]
        return Failure(code, f"{code} ({status}): {said.get('Message')}", 400 <= status < 500)
    lost = isinstance(error, NotAnswered | HTTPClientError) or not isinstance(error, BotoCoreError)
    kind, away = type(error).__name__, isinstance(error, _NOBODY)
    unsent = away or isinstance(error, NotCalled)
    return Failure(kind, f"{kind}: {error}", unsent or not lost, away)


def entries(answer: object, count: int) -> list[Failure | None]:
    """Say of each entry of a batch why it is not known to be done, or None."""
    if isinstance(answer, Exception):
        return [failure_of(answer)] * count
    said: list[Failure | None] = [Failure("unsaid", "no answer to this entry", sure=False)] * count
    parts = answer if isinstance(answer, dict) else {}
    for entry in parts.get("Successful", ()):
        said[int(entry["Id"])] = None
    for entry in parts.get("Failed", ()):
        code = entry.get("Code", "no code").rpartition(".")[2]
        text = f"{code}: {entry.get('Message')}"
        said[int(entry["Id"])] = Failure(code, text, sure=entry.get("SenderFault", False))
    return said
