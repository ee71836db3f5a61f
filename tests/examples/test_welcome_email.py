"""The welcome e-mail, with a real SMTP server: one mail for each who signs up, whatever happens."""

import asyncio
import threading
from collections.abc import Iterator
from email.message import Message

import pytest
from aiosmtpd.handlers import AsyncMessage
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.examples.stage import Stage
from tests.worker.workers import SECONDS, until

QUEUE = "mail.db"
SIGN_UP = "from welcome_email import sign_up; print(sign_up('ann@example.org', 'Ann').duplicate)"
SHORT_LEASE = """
from welcome_email import send_welcome
send_welcome.options(visibility_timeout=1).enqueue("ann@example.org", "Ann")
"""


class MailServer(AsyncMessage):
    """An SMTP server on a loopback port, in a loop of its own.

    `taken` are the mails that it has taken, `answers` what it says to the next ones instead of
    taking them, `unknown` an address of which it does not know. While it is `held`, it does not say
    what it has taken.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        super().__init__(loop=self._loop)  # else it makes one that nobody closes
        self.taken: list[Message] = []
        self.answers: list[str] = []
        self.held = False
        self.unknown = ""
        self.handle_RCPT = self._check_recipient
        self.address = ""
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._open.wait(SECONDS)

    async def handle_message(self, message: Message) -> None:
        """Take a mail."""
        if self.answers:
            raise RuntimeError
        self.taken.append(message)
        if self.held:
            await asyncio.Event().wait()

    async def handle_exception(self, _error: Exception) -> str:
        """Say what the client is told instead of 250."""
        return self.answers.pop(0)

    async def _check_recipient(
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        if address == self.unknown:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    @property
    def mailbox(self) -> dict[str | None, Message]:
        """The mails as a mailbox keeps them that looks for duplicates: by Message-ID."""
        return {mail["Message-ID"]: mail for mail in self.taken}

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)

    def _serve(self) -> None:
        listening = self._loop.create_server(
            lambda: SMTP(self, loop=self._loop, hostname="localhost"), "127.0.0.1", 0
        )
        server = self._loop.run_until_complete(listening)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._open.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """A mail server, to which the example's worker is pointed."""
    made = MailServer()
    monkeypatch.setenv("SMTP_SERVER", made.address)
    yield made
    made.close()


def test_whoever_signs_up_is_welcomed_once_though_the_form_is_sent_twice(
    stage: Stage, server: MailServer
) -> None:
    assert stage.run("-c", SIGN_UP) == "False\n"
    assert stage.run("-c", SIGN_UP) == "True\n"
    stage.run("welcome_email.py", "bob@example.org", "Bob")
    stage.drain("welcome_email")
    assert {mail["To"] for mail in server.taken} == {"ann@example.org", "bob@example.org"}
    assert len(server.taken) == 2
    assert "Welcome, Ann!" in {mail["Subject"] for mail in server.taken}


def test_a_server_that_refuses_for_now_gets_the_mail_later(
    stage: Stage, server: MailServer
) -> None:
    server.answers = ["451 greylisted, come back later"]
    stage.run("-c", SIGN_UP)
    worker = stage.worker("welcome_email")
    worker.line(r"failed \(attempt 1\): retry in")
    stage.until_done(QUEUE)
    assert len(server.taken) == 1


def test_an_address_that_is_none_is_a_dead_letter_at_once(stage: Stage, server: MailServer) -> None:
    server.unknown = "ann@example.org"
    stage.run("-c", SIGN_UP)
    stage.drain("welcome_email")
    (letter,) = stage.dead(QUEUE)
    assert (letter.reason, letter.failures) == ("rejected", 1)
    assert "550 no such mailbox" in letter.error.message
    assert server.taken == []


def test_a_mail_that_is_delivered_twice_is_known_by_its_id(
    stage: Stage, server: MailServer
) -> None:
    stage.run("-c", SHORT_LEASE)
    server.held = True
    worker = stage.worker("welcome_email")
    until(lambda: server.taken, "the mail is taken")
    worker.kill()
    server.held = False
    stage.worker("welcome_email")
    stage.until_done(QUEUE)
    assert len(server.taken) == 2, "it was delivered twice"
    assert len(server.mailbox) == 1
