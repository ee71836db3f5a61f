class PlainCredentials:
    username: str
    password: str
    def __init__(self, username: str, password: str, erase_on_connect: bool = ...) -> None: ...
