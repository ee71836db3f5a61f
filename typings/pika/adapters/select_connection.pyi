from collections.abc import Callable

from pika.connection import Connection, Parameters

class IOLoop:
    def start(self) -> None: ...
    def stop(self) -> None: ...

class SelectConnection(Connection):
    def __init__(
        self,
        parameters: Parameters | None = ...,
        on_open_callback: Callable[[Connection], object] | None = ...,
        on_open_error_callback: Callable[[Connection, Exception], object] | None = ...,
        on_close_callback: Callable[[Connection, Exception], object] | None = ...,
    ) -> None: ...
    @property
    def ioloop(self) -> IOLoop: ...
