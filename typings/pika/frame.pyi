from typing import Any

class Frame: ...

class Method(Frame):
    method: Any

def decode_frame(data_in: bytes) -> tuple[int, Frame]: ...
