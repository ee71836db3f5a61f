"""A welcome e-mail after sign-up.

`python welcome_email.py ann@example.org Ann` signs somebody up, `dibs worker welcome_email:app`
sends the mail. SMTP_SERVER is the mail server's host:port.

What can happen twice, and why it does no harm. A form is sent twice: the second `sign_up` finds the
job of the first by its unique key. Or the mail server has taken the mail, and the worker dies
before it can acknowledge the job: then the mail goes out again, with the Message-ID of the first,
by which a mailbox can tell that it is the same mail.
"""

import os
import smtplib
import sys
from email.message import EmailMessage
from email.utils import formatdate

from dibs import App, Job, Reject, context

app = App("sqlite:///mail.db")
SERVER = os.environ.get("SMTP_SERVER", "localhost:25")


# Mail servers are away for minutes, and refuse strangers at first on purpose (greylisting). The
# pauses between 12 attempts add up to 34 minutes on average, and to 68 at most.
@app.task(queue="mail", max_attempts=12, timeout=60)
def send_welcome(address: str, name: str) -> None:
    """Hand the mail to the server."""
    mail = EmailMessage()
    mail["From"] = "The shop <hello@shop.example>"
    mail["To"] = address
    mail["Subject"] = f"Welcome, {name}!"
    mail["Date"] = formatdate()
    # The job's id is the same at every attempt: never make a new one here.
    mail["Message-ID"] = f"<{context().job_id}@shop.example>"
    mail.set_content(f"Hello {name},\n\nyour account is ready.\n")
    try:
        with smtplib.SMTP(SERVER, timeout=20) as server:  # else a silent one would hold the thread
            server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as refused:
        code, answer = refused.recipients[address]
        if code >= 500:  # there is no such mailbox, and there will be none in an hour
            raise Reject(f"{code} {answer.decode(errors='replace')}") from refused
        raise


def sign_up(address: str, name: str) -> Job[None]:
    """Store the account (not shown here), then the job of the mail."""
    return send_welcome.options(unique_key=f"welcome {address}").enqueue(address, name)


if __name__ == "__main__":
    print(sign_up(*sys.argv[1:]))
