"""Where a server is: the URL, its options, and what is never shown."""

import ssl
from typing import cast

import pytest
from pika.connection import ConnectionParameters

from dibs.errors import OptionError, UrlError
from dibs.wires.amqp.address import Address, address_of


@pytest.mark.parametrize(
    ("url", "host", "port", "vhost"),
    [
        ("amqp://localhost", "localhost", 5672, "/"),
        ("amqp://localhost/", "localhost", 5672, "/"),
        ("amqp://u:p@broker:5673/shop", "broker", 5673, "shop"),
        ("amqp://u:p@broker/%2Fshop%2Feu", "broker", 5672, "/shop/eu"),
        ("amqps://broker/", "broker", 5671, "/"),
        ("amqp://[::1]:5672/", "::1", 5672, "/"),
    ],
)
def test_a_url_says_where(url: str, host: str, port: int, vhost: str) -> None:
    to = address_of(url).parameters
    assert (to.host, to.port, to.virtual_host) == (host, port, vhost)


def test_a_password_may_have_any_character_and_is_never_shown() -> None:
    address = address_of("amqp://u%40x:p%2Fw%40%C3%A9@broker/shop")
    credentials = address.parameters.credentials
    assert (credentials.username, credentials.password) == ("u@x", "p/w@é")
    assert address.shown == "amqp://broker:5672/shop"
    assert "p/w" not in repr(address.shown)


def test_tls_verifies_the_server() -> None:
    options = address_of("amqps://broker/").parameters.ssl_options
    assert options is not None
    assert options.server_hostname == "broker"
    assert options.context.verify_mode is ssl.CERT_REQUIRED
    assert options.context.check_hostname
    assert address_of("amqp://broker/").parameters.ssl_options is None


def test_options_are_few() -> None:
    address = address_of("amqp://broker/?prefix=shop.eu&consumer_timeout=3600")
    assert (address.prefix, address.consumer_timeout) == ("shop.eu", 3_600)
    assert address_of("amqp://broker/?consumer_timeout=0").consumer_timeout == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://u:hunter2@broker/?prefx=a", "did you mean `prefix`"),
        ("amqp://u:hunter2@broker/?heartbeat=4", "no option `heartbeat`"),
        ("amqp://u:hunter2@broker/?prefix=a b", "prefix 'a b'"),
        ("amqp://u:hunter2@broker/?consumer_timeout=soon", "cannot be read"),
        ("amqp://u:hunter2@broker/?consumer_timeout=5", "60 seconds at least"),
        ("amqp://u:hunter2@broker:port/", "cannot be read"),
        ("amqp://u:[hunter2@broker/", "this amqp URL cannot be read"),
        ("amqp://u:hunter2\u2100@broker/", "this amqp URL cannot be read"),
        ("amqp://u:12/hunter2@broker/", "with %23, %2F, %3F and %40"),
        ("amqp://u:12#hunter2@broker/", "with %23, %2F, %3F and %40"),
        ("amqp://u:12?prefix=hunter2@broker/", "with %23, %2F, %3F and %40"),
        ("amqp://u:12?hunter2=a@broker/", "with %23, %2F, %3F and %40"),
    ],
)
def test_what_cannot_be_read_is_refused_without_the_password(url: str, said: str) -> None:
    with pytest.raises(UrlError) as caught:
        address_of(url)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_prefix_is_checked_wherever_it_comes_from() -> None:
    with pytest.raises(OptionError, match="prefix"):
        Address(cast("ConnectionParameters", None), prefix="")
