"""Response times of the page for many visitors at once, compared with the time that the model needs for the same texts.

    python benchmarks/bench_page.py [--visitors 32] [--length 300] [--rounds 3]

Prints the results and writes bench_page.json. It is not a test. The page runs in a process of its own; visitors are
simulated here by the requests that a browser sends for a click on Generate (queue/join, queue/data).
"""

import argparse
import asyncio
import json
import re
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from gpt import SamplingParams, load
from tests.browser import served
from train.runs import machine

FIRST_CHARACTER = re.compile(r'class=\\"generated\\">[^<]')  # in the JSON of an HTML component


class Visitor:
    """A visitor with the page open."""

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any]) -> None:
        self.client, self.config, self.session_hash = client, config, token_hex(8)
        self.ids = {component["props"].get("elem_id"): component["id"] for component in config["components"]}

    def handlers(self, event: str, elem_id: str | None = None) -> list[dict[str, Any]]:
        """The server's handlers of an event of a component, or of the page."""
        handlers = [handler for handler in self.config["dependencies"] if handler["backend_fn"]]
        component = self.ids[elem_id] if elem_id else None
        return [
            handler
            for handler in handlers
            if any(name == event and component in (None, target) for target, name in handler["targets"])
        ]

    async def call(self, handler: dict[str, Any], **inputs: Any) -> AsyncIterator[tuple[str, Any]]:
        """Call a handler, with `inputs` by elem_id and defaults for the rest; yields the kind and output of each message."""
        values = {component["id"]: component["props"].get("value") for component in self.config["components"]}
        values |= {self.ids[elem_id]: value for elem_id, value in inputs.items()}
        data = [values[i] for i in handler["inputs"]]
        request = {"data": data, "fn_index": handler["id"], "session_hash": self.session_hash}
        await self.client.post("/gradio_api/queue/join", json=request)
        async with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session_hash}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    message = json.loads(line[6:])
                    yield message["msg"], message.get("output")
                    if message["msg"] == "process_completed":
                        if not message["success"]:
                            raise RuntimeError(f"the page failed: {message}")
                        return
        raise RuntimeError("the page closed the connection")

    async def open(self) -> None:
        """Load the page."""
        for handler in self.handlers("load"):
            async for _ in self.call(handler):
                pass

    async def generate(self, length: int, seed: int) -> tuple[float, float]:
        """Click on Generate; returns seconds until the first character and until the end of the text."""
        start, first = time.perf_counter(), 0.0
        (handler,) = self.handlers("click", "generate")
        async for kind, output in self.call(handler, length=length, seed=seed, lock=True):
            if kind == "process_generating" and not first and FIRST_CHARACTER.search(json.dumps(output)):
                first = time.perf_counter() - start
        return first, time.perf_counter() - start


async def generate_all(address: str, visitors: int, length: int) -> list[tuple[float, float]]:
    """Open the page for each visitor, then click on Generate for all at once; returns the times of each."""
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        config = (await client.get("/config")).json()
        group = [Visitor(client, config) for _ in range(visitors)]
        for visitor in group:
            await visitor.open()
        return await asyncio.gather(*(visitor.generate(length, seed) for seed, visitor in enumerate(group)))


def model_seconds(texts: int, length: int) -> dict[str, float]:
    """Seconds that the model needs for as many texts, one after another and as one batch on all cores."""
    lm = load("gpt-shakespeare")
    params = [SamplingParams(max_new_tokens=length, seed=seed) for seed in range(texts)]
    seconds = {}
    torch.set_num_threads(1)  # as on the page; the C kernel uses all cores
    lm.generate("ROMEO:", params[0])
    start = time.perf_counter()
    for each in params:
        lm.generate("ROMEO:", each)
    seconds["one after another"] = time.perf_counter() - start
    start = time.perf_counter()
    for _ in lm.stream_batch(["ROMEO:"] * texts, params):
        pass
    seconds["one batch"] = time.perf_counter() - start
    return seconds


def main() -> None:
    """Run the benchmark, print medians and write JSON."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("visitors", 32), ("length", 300), ("rounds", 3)):
        top.add_argument(f"--{name}", type=int, default=value)
    args = top.parse_args()
    rounds = []
    with served() as address:
        asyncio.run(generate_all(address, 2, 50))  # warm-up
        for _ in range(args.rounds):
            times = asyncio.run(generate_all(address, args.visitors, args.length))
            first, total = (sorted(column) for column in zip(*times, strict=True))
            rounds.append({"first character, median": statistics.median(first), "first character, last": first[-1]})
            rounds[-1] |= {"all texts": total[-1], **model_seconds(args.visitors, args.length)}
    hardware, date = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join(["python", "benchmarks/bench_page.py", *sys.argv[1:]])
    print(f"{command}, {date}; {hardware['processor']}, {hardware['cores']} cores; medians of {args.rounds} rounds")
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name, seconds in medians.items():
        print(f"{seconds:8.2f} s  {name}")
    for name in ("one after another", "one batch"):
        print(f"{medians['all texts'] / medians[name]:8.2f}    all texts / {name}")
    results = {"command": command, "date": date, "machine": hardware, "seconds": medians, "rounds": rounds}
    Path("bench_page.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
