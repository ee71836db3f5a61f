"""The report: the table of the audit, and what it means.

Must never: count or judge; that is the audit's.
Called by: `story.py`.
"""

from dibs.cli.demo.audit import Audit, Repeated


def report(verdict: Audit, published: int, rate: float) -> str:
    """Return the table and the verdict, of so many jobs of which `rate` were done in a second."""
    photos, cards = verdict.photos, verdict.cards
    rows = [
        (
            "jobs published",
            published,
            f"{photos.total:,} photos, and {cards.total:,} cards, each to be charged by two tasks",
        ),
        ("done", verdict.done, f"the effect is there; {rate:,.0f} jobs/s, all faults included"),
        ("delivered more than once", verdict.repeated.total, _why(verdict.repeated)),
        ("acks lost on the way", verdict.acks_lost, "the queue never heard that these were done"),
        ("stale acks refused", verdict.acks_refused, "the jobs were other workers' by then"),
        ("lost", verdict.lost, "photos without a thumbnail, cards that were not charged"),
        ("wrong", verdict.wrong, "thumbnails other than one made anew, charges of nobody"),
        ("cards charged twice naively", cards.naive_twice, "by the task that charges naively"),
        ("cards charged twice by once", cards.twice, "by the task that charges through `once`"),
    ]
    table = [f"  {name:28}{number:>9,}   {note}".rstrip() for name, number, note in rows]
    return "\n".join(["", *table, "", *_MEANING, *_judged(verdict)])


_MEANING = (
    "A job may be delivered twice; what matters is what that does. A thumbnail is written under",
    "another name, then renamed: twice leaves what once does. A card charged naively is charged",
    "again. `once` commits the charge together with a record of it, and a second run finds that.",
)


def _judged(verdict: Audit) -> list[str]:
    failures = list(verdict.failures())
    if failures:
        return ["AUDIT FAILED", *(f"  {failure}" for failure in failures)]
    return ["audit passed: every photo has one correct thumbnail, every card one charge by `once`"]


def _why(repeated: Repeated) -> str:
    reasons = {
        "a lost ack": repeated.lost_acks,
        "the killed worker": repeated.killed,
        "the stopped one": repeated.stopped,
        "another reason": repeated.others,
    }
    return ", ".join(f"{count:,} for {reason}" for reason, count in reasons.items() if count)
