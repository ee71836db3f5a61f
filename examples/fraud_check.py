"""Fraud checks of orders by an HTTP service that limits how often it may be asked, with httpx.

`python fraud_check.py order-1 129.90` enqueues one, `dibs worker fraud_check:app -c 20` asks the
service; FRAUD_URL says where it is. `-c` is how many requests are under way at a time.

A check costs money, and a second delivery must not buy a second one: every attempt sends the job's
id as the Idempotency-Key, and the service answers a key that it knows with what it said before. The
verdict is an upsert, so that writing it twice is writing it once.
"""

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from decimal import Decimal
from functools import cache

import httpx

from dibs import App, Snooze, context

app = App("sqlite:///checks.db")
URL = os.environ.get("FRAUD_URL", "http://localhost:8080")
ORDERS = "orders.db"  # the shop's own database, and not the file of the queue


# `async def`: a request is a wait, and one process can wait for thousands. While the service is
# down, runs fail and come back after a random pause that doubles each time, so that it is not
# overrun when it is up again. The pauses between 12 attempts add up to 34 minutes on average.
@app.task(queue="fraud", max_attempts=12, timeout=60)
async def check(order: str, amount: Decimal) -> None:
    """Ask for the risk of an order and store it with the order."""
    question = {"order": order, "amount": str(amount)}
    key = {"Idempotency-Key": context().job_id}
    answer = await service().post("/checks", json=question, headers=key)
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        # It is not down, it names the time to come back. The job waits for it in the queue, where
        # it takes no slot, and no attempt is counted.
        raise Snooze(max(1.0, float(answer.headers["Retry-After"])))
    answer.raise_for_status()
    await asyncio.to_thread(store, order, answer.json()["risk"])


@cache
def service() -> httpx.AsyncClient:
    """Return the client of this process, made for its first job: its connections are shared.

    Its time limit is for each step of a request; the task's `timeout` is for the whole run.
    """
    return httpx.AsyncClient(base_url=URL, timeout=httpx.Timeout(3.0))


def store(order: str, risk: float) -> None:
    """Set the risk of an order."""
    with closing(sqlite3.connect(ORDERS)) as database, database:
        database.execute("create table if not exists risks (id text primary key, risk real)")
        database.execute("replace into risks values (?, ?)", (order, risk))


if __name__ == "__main__":
    print(check.enqueue(sys.argv[1], Decimal(sys.argv[2])))
