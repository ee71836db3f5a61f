"""Every exception that dibs raises, as one tree on one page.

Owns: the names, and in each docstring what happened and what to do about it.
Must never: format a message from state it does not get passed, or translate a driver's error
(adapters do that at their edge, chained with `from`).
Called by: everything.

`UserError` is the branch for a caller's mistake: the command line prints its text without a
traceback and exits with 2. `BrokerError` is the branch for a broker that did not do what it was
asked; whether the request took effect is said by each class.
"""

from dibs.message import Attempt, Error


class DibsError(Exception):
    """Anything that dibs raises. Catch a branch of it rather than this."""


class UserError(DibsError):
    """A mistake in a call, an option or a configuration; the text names it and the way out."""


class AppNotFound(UserError):
    """`module:app` does not lead to an `App`. Check the spelling and the working directory."""


class AppImportFailed(UserError):
    """The app's own module raised while it was imported; its traceback is part of the text."""


class TaskNotFound(UserError):
    """No task of that name is registered. The text lists the nearest names."""


class TaskDefinitionError(UserError):
    """A function cannot be a task as it is written, or its name is taken; the text says where."""


class ArgumentError(UserError):
    """The arguments of a call do not fit the task's signature, or cannot be encoded as JSON."""


class PayloadError(DibsError):
    """A stored payload does not fit the task's signature: another version or a foreign producer.

    The text names the parameter. The job is a dead letter that keeps its bytes; mend the task or
    the producer, and send it back.
    """


class ResultError(DibsError):
    """What a task returned is not JSON, or not what its annotation says that it returns.

    In the worker: it cannot be encoded. Return plain data, or annotate `-> None`. To whoever asks
    for the result: it is kept, and cannot be read as the annotation here. Mend the annotation.
    """


class JobFailed(DibsError):
    """The job was given up on, so there is no result; it is a dead letter now.

    Attributes:
        reason: which rule gave it up, such as "max_attempts".
        error: of its last run: the exception's type, message and traceback, as text.
        attempts: how its runs ended, the last 20, oldest first: each with its fence, the moment in
            milliseconds since 1970, what it was charged, and its error.
    """

    def __init__(
        self, text: str, reason: str, error: Error, attempts: tuple[Attempt, ...] = ()
    ) -> None:
        super().__init__(text, reason, error, attempts)
        self.reason = reason
        self.error = error
        self.attempts = attempts

    def __str__(self) -> str:
        return str(self.args[0])


class ResultNotKept(DibsError):
    """The job has ended, and what it returned is not there, or not any more; the text says why.

    Annotate what the task returns, raise its `keep_result`, or store what matters yourself.
    """


class JobIdError(UserError):
    """A text is no job's id. Pass what `Job.id` said."""


class OptionError(UserError):
    """An option is out of its range, or asks for what the broker cannot do."""


class PayloadTooLarge(UserError):
    """The encoded arguments exceed the broker's limit. Store the data, and pass its address."""


class LedgerError(UserError):
    """`once` cannot keep its promise here: the text names the connection, the key or the block."""


class EnqueueWhileImporting(UserError):
    """A module enqueued a job while a worker imported it: every worker start would do so again.

    Move the call into a function, or under `if __name__ == "__main__":`.
    """


class UrlError(UserError):
    """A broker's URL cannot be read, or names a broker that is not installed."""


class BrokerError(DibsError):
    """The broker did not do what it was asked. Nothing of the call took effect unless said so."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached, opened or written: a permission, a bad disk, a dead server.

    A claim that ended so may have granted leases that nobody holds: they run out by themselves.
    """


class BrokerBusy(BrokerError):
    """Another process held the broker for longer than the time limit; the text names it."""


class BrokerDamaged(BrokerError):
    """What the broker has stored cannot be read any more; the text says how to save the rest.

    Trying again would not help, so a worker ends. What it held returns when its leases run out.
    """


class BrokerFull(BrokerError):
    """There is no room to store a message. What is stored is safe, and can be acknowledged."""


class BrokerRefused(BrokerError):
    """The broker is set up in a way that would break the contract; the text says how to mend it."""


class SchemaTooNew(BrokerRefused):
    """The queue file was written by a newer dibs. Upgrade this one; nothing was changed."""


class PublishUnknown(BrokerError):
    """The broker's answer was lost: the job may or may not be stored.

    Look with `dibs jobs show ID`, where the broker can show single jobs; the text names the id. To
    enqueue again without doubt, give the task an `idempotency_key` or the call a `unique_key`,
    where the broker has them, or do the effect under `once`.
    """


class LeaseLost(DibsError):
    """The job's lease is another worker's by now; what this run would settle is refused."""


class WorkerError(DibsError):
    """The worker cannot go on; the text says why, and its jobs return by themselves."""
