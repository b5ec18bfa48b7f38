"""Many visitors on the page at once, against the time that the models alone need for the same texts.

    python tests/bench_page.py [--visitors 32] [--length 300] [--rounds 3]

Not a test: it prints what it measured and writes it to bench_page.json. The page runs as a process of its own; the
visitors are here, and press Generate as a browser does (queue/join, queue/data), without drawing anything.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx
import torch
from browser import ROOT, served

sys.path.insert(0, str(ROOT))

from gpt import SamplingParams, load
from train.runs import machine


class Visitor:
    """One who has the page open."""

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any]) -> None:
        self.client, self.config, self.session = client, config, token_hex(8)
        self.ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}

    def handlers(self, what: str, name: str | None = None) -> list[dict[str, Any]]:
        """What the server does when something happens to a part of the page, or to the page."""
        told = [d for d in self.config["dependencies"] if d["backend_fn"]]
        return [d for d in told if any(t[1] == what and (not name or t[0] == self.ids[name]) for t in d["targets"])]

    async def call(self, handler: dict[str, Any], **given: Any) -> AsyncIterator[tuple[str, Any]]:
        """Have the server do it; what the server says of it."""
        values = {part["id"]: part["props"].get("value") for part in self.config["components"]}
        values |= {self.ids[name]: value for name, value in given.items()}
        asked = {"data": [values[i] for i in handler["inputs"]], "fn_index": handler["id"], "session_hash": self.session}
        await self.client.post("/gradio_api/queue/join", json=asked)
        async with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            async for line in lines.aiter_lines():
                if line.startswith("data: "):
                    told = json.loads(line[6:])
                    yield told["msg"], told.get("output")
                    if told["msg"] == "process_completed":
                        assert told["success"], told
                        return
        raise RuntimeError("the page hung up")

    async def open(self) -> None:
        for handler in self.handlers("load"):
            async for _ in self.call(handler):
                pass

    async def generate(self, length: int, seed: int) -> tuple[float, float]:
        """Press Generate; seconds until the first character is there, and until the whole text is."""
        started, first = time.perf_counter(), 0.0
        (handler,) = self.handlers("click", "generate")
        async for what, output in self.call(handler, length=length, seed=seed, lock=True):
            if what == "process_generating" and not first and "written" in json.dumps(output):
                first = time.perf_counter() - started
        return first, time.perf_counter() - started


async def crowd(address: str, visitors: int, length: int) -> list[tuple[float, float]]:
    """Visitors open the page one after another, and then all press Generate at once."""
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        config = (await client.get("/config")).json()
        here = [Visitor(client, config) for _ in range(visitors)]
        for visitor in here:
            await visitor.open()
        return await asyncio.gather(*(visitor.generate(length, seed) for seed, visitor in enumerate(here)))


def alone(visitors: int, length: int) -> dict[str, float]:
    """Seconds that the model needs for the same texts, one after another, and as one batch on all cores."""
    lm = load("gpt-shakespeare")
    params = [SamplingParams(max_new_tokens=length, seed=seed) for seed in range(visitors)]
    seconds = {}
    torch.set_num_threads(1)  # as on the page; the engine takes as many as there are
    lm.generate("ROMEO:", params[0])
    started = time.perf_counter()
    for each in params:
        lm.generate("ROMEO:", each)
    seconds["one after another"] = time.perf_counter() - started
    started = time.perf_counter()
    for _ in lm.stream_batch(["ROMEO:"] * visitors, params):
        pass
    seconds["one batch"] = time.perf_counter() - started
    return seconds


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("visitors", 32), ("length", 300), ("rounds", 3)):
        top.add_argument(f"--{name}", type=int, default=value)
    args = top.parse_args()
    rounds = []
    with served() as address:
        asyncio.run(crowd(address, 2, 50))
        for _ in range(args.rounds):
            times = asyncio.run(crowd(address, args.visitors, args.length))
            first, whole = (sorted(side) for side in zip(*times, strict=True))
            rounds.append({"first character, median": statistics.median(first), "first character, last": first[-1]})
            rounds[-1] |= {"all done": whole[-1], **alone(args.visitors, args.length)}
    here, started = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join(["python", "tests/bench_page.py", *sys.argv[1:]])
    print(f"{command}, {started}; {here['processor']}, {here['cores']} cores; medians of {args.rounds} rounds")
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name, seconds in medians.items():
        print(f"{seconds:8.2f} s  {name}")
    for name in ("one after another", "one batch"):
        print(f"{medians['all done'] / medians[name]:8.2f}    all done / {name}")
    facts = {"command": command, "started": started, "machine": here}
    Path("bench_page.json").write_text(json.dumps(facts | {"seconds": medians, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
