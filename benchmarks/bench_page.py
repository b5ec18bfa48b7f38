"""Response times of the page for many visitors at once, compared with the time that the model needs for the same texts.

    python benchmarks/bench_page.py [--visitors 32] [--length 300] [--rounds 3]

Prints the results and writes bench_page.json. It is not a test. The page runs in a process of its own; a visitor is
simulated here by the request that a browser sends for a click on Generate.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from secrets import randbelow

import httpx
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from gpt import SamplingParams, load
from gpt.sampling import MAX_SEED
from tests.browser import served
from train.runs import machine


async def generate(client: httpx.AsyncClient, length: int, seed: int) -> tuple[float, float]:
    """Request a text as the page does; returns seconds until the first character and until the end."""
    start, first = time.perf_counter(), 0.0
    body = {"query": f"model=gpt-shakespeare&prompt=ROMEO:&seed={seed}", "start": 0, "end": length}
    async with client.stream("POST", "/page/generate", json=body) as response:
        response.raise_for_status()
        characters = 0
        async for line in response.aiter_lines():
            characters += sum(map(len, json.loads(line).get("texts", [])))
            if characters and not first:
                first = time.perf_counter() - start
    if characters != length:
        raise RuntimeError(f"the page sent {characters} characters of {length}")
    return first, time.perf_counter() - start


async def generate_all(address: str, visitors: int, length: int) -> list[tuple[float, float]]:
    """Request a text for each visitor, all at once and each with a seed that nobody requested before; returns the times."""
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        return await asyncio.gather(*(generate(client, length, randbelow(MAX_SEED)) for _ in range(visitors)))


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
