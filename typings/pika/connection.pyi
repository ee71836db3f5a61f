import ssl
from collections.abc import Callable, Mapping

from pika.channel import Channel
from pika.credentials import PlainCredentials
from pika.frame import Frame

class SSLOptions:
    context: ssl.SSLContext
    server_hostname: str | None
    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = ...) -> None: ...

class Parameters:
    host: str
    port: int
    virtual_host: str
    credentials: PlainCredentials
    ssl_options: SSLOptions | None
    heartbeat: int | None

class ConnectionParameters(Parameters):
    def __init__(
        self,
        host: str = ...,
        port: int = ...,
        virtual_host: str = ...,
        credentials: PlainCredentials = ...,
        ssl_options: SSLOptions | None = ...,
        client_properties: Mapping[str, object] | None = ...,
    ) -> None: ...

class URLParameters(Parameters):
    def __init__(self, url: str) -> None: ...

class Connection:
    params: Parameters
    bytes_received: int
    server_properties: dict[str, object] | None
    _body_max_length: int
    _error: Exception | None
    def __init__(
        self,
        parameters: Parameters | None = ...,
        on_open_callback: Callable[[Connection], object] | None = ...,
        on_open_error_callback: Callable[[Connection, Exception], object] | None = ...,
        on_close_callback: Callable[[Connection, Exception], object] | None = ...,
    ) -> None: ...
    @property
    def is_closed(self) -> bool: ...
    def add_on_connection_blocked_callback(self, callback: Callable[..., object]) -> None: ...
    def add_on_connection_unblocked_callback(self, callback: Callable[..., object]) -> None: ...
    def channel(
        self, channel_number: int | None = ..., on_open_callback: Callable[[Channel], object] = ...
    ) -> Channel: ...
    def close(self) -> None: ...
    def _process_frame(self, frame_value: Frame) -> None: ...
    def _on_stream_connected(self) -> None: ...
    def _on_stream_terminated(self, error: Exception | None) -> None: ...
