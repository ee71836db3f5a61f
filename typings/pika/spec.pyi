from collections.abc import Mapping

class BasicProperties:
    headers: dict[str, object] | None
    def __init__(
        self,
        *,
        headers: Mapping[str, object] | None = ...,
        delivery_mode: int | None = ...,
        expiration: str | None = ...,
    ) -> None: ...
    def decode(self, encoded: bytes, offset: int = ...) -> BasicProperties: ...
    def encode(self) -> list[bytes]: ...

class Basic:
    class Ack:
        delivery_tag: int
        multiple: bool

    class Nack:
        delivery_tag: int
        multiple: bool

    class GetEmpty: ...

    class Return:
        routing_key: str
