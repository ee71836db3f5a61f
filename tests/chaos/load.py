"""The jobs of the chaos tests; runners import this file."""

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
    await asyncio.sleep(seconds)
    effect.apply(n)


@app.task
def works_def(n: int, seconds: float) -> None:
    time.sleep(seconds)
    effect.apply(n)


@app.task
async def fails_once(n: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    if context().attempt == 1:
        raise ValueError(n)
    effect.apply(n)
