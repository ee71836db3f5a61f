"""The jobs of the chaos tests; runners import this file.

Each has its effect after a quarter of its time: most deaths come after it and before the ack.
"""

import asyncio
import os
import time
from pathlib import Path

from effects import EFFECTS

from dibs import App, context

app = App("sqlite:///zoo.db")
effect = EFFECTS[os.environ["DIBS_CHAOS_EFFECT"]](Path().absolute())


@app.task
async def works(n: int, seconds: float) -> None:
    await asyncio.sleep(seconds / 4)
    await asyncio.to_thread(effect.apply, n)
    await asyncio.sleep(seconds * 3 / 4)


@app.task
def works_def(n: int, seconds: float) -> None:
    time.sleep(seconds / 4)
    effect.apply(n)
    time.sleep(seconds * 3 / 4)


@app.task
async def fails_once(n: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    if context().attempt == 1:
        raise ValueError(n)
    await asyncio.to_thread(effect.apply, n)
