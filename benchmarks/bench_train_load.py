"""How fast the page writes for its readers while one visitor trains a model, compared with nobody training.

    python benchmarks/bench_train_load.py [--readers 4] [--seconds 60] [--rounds 3]

Prints the results and writes bench_train_load.json. It is not a test. The page runs in a process of its own; a reader is
simulated here by one text after another, each with a seed that nobody requested before.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import randbelow

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from gpt.sampling import MAX_SEED
from tests.browser import served
from train.data import load_dataset
from train.runs import machine
from ui.session import MAX_RUN_TOKENS
from ui.visits import HEADER

CHOICES = {"kind": "gpt", "size": "small", "tokenizer": "char", "is_lines": False, "dropout": None}
WARM_UP_S = 2


class Readers:
    """Visitors who read one text after the other.

    Args:
        client: Sends their requests.
        model: What they read.
    """

    def __init__(self, client: httpx.AsyncClient, model: str = "gpt-shakespeare") -> None:
        self.client, self.model, self.tokens = client, model, 0

    @asynccontextmanager
    async def reading(self, readers: int):
        """Read while the context lasts."""
        tasks = [asyncio.create_task(self._read()) for _ in range(readers)]
        try:
            await asyncio.sleep(WARM_UP_S)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            query = f"model={self.model}&prompt=ROMEO:&seed={randbelow(MAX_SEED)}"
            body = {"query": query, "start": 0, "end": MAX_RUN_TOKENS}
            async with self.client.stream("POST", "/page/generate", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    self.tokens += len(json.loads(line).get("ids", []))


async def train(client: httpx.AsyncClient, text: str, seconds: int, readers: Readers) -> dict[str, float]:
    """Train as a visitor does; returns how fast the readers and the training were meanwhile, and what was reached."""
    uploaded = await client.post("/page/train/text", content=text.encode())
    uploaded.raise_for_status()
    headers = {HEADER: uploaded.json()["visit"]}
    begin, tokens, speeds, figures = time.perf_counter(), readers.tokens, [], {}
    async with client.stream("POST", "/page/train/run", json={**CHOICES, "seconds": seconds}, headers=headers) as response:
        async for line in response.aiter_lines():
            event = json.loads(line)
            match event["event"]:
                case "step":
                    speeds.append(event["tokens_per_second"])
                case "end":
                    figures["best held-out loss"] = min(model["held_out"] for model in event["models"])
                case "error":
                    raise RuntimeError(event["message"])
    figures["training, tokens/s"] = statistics.median(speeds)
    figures["from click to result, s"] = elapsed = time.perf_counter() - begin
    figures["readers, tokens/s"] = (readers.tokens - tokens) / elapsed
    await client.post("/page/visit/end", json={}, headers=headers)
    return figures


async def measure(address: str, readers: int, seconds: int, text: str) -> dict[str, float]:
    """One round: readers only, then readers and a training, then a training only."""
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        group = Readers(client)
        async with group.reading(readers):
            begin, tokens = time.perf_counter(), group.tokens
            await asyncio.sleep(seconds)
            quiet = (group.tokens - tokens) / (time.perf_counter() - begin)
            loaded = await train(client, text, seconds, group)
        alone = await train(client, text, seconds, group)
    del alone["readers, tokens/s"]
    return {
        f"{readers} readers, tokens/s": quiet,
        "the same share while one visitor trains": loaded.pop("readers, tokens/s") / quiet,
        **{f"{name}, with readers": value for name, value in loaded.items()},
        **{f"{name}, without": value for name, value in alone.items()},
    }


def main() -> None:
    """Run the benchmark, print medians and write JSON."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--readers", type=int, default=4)
    top.add_argument("--seconds", type=int, default=60, choices=(15, 30, 60, 120))
    top.add_argument("--rounds", type=int, default=3)
    args = top.parse_args()
    text = load_dataset("shakespeare").text
    with served() as address:
        rounds = [asyncio.run(measure(address, args.readers, args.seconds, text)) for _ in range(args.rounds)]
    hardware, date = machine(), datetime.now(UTC).isoformat(timespec="seconds")
    command = " ".join(["python", "benchmarks/bench_train_load.py", *sys.argv[1:]])
    print(f"{command}, {date}; {hardware['processor']}, {hardware['cores']} cores; medians of {args.rounds} rounds")
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name, value in medians.items():
        print(f"{value:10.2f}  {name}")
    results = {"command": command, "date": date, "machine": hardware, "medians": medians, "rounds": rounds}
    Path("bench_train_load.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
