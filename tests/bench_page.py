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
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

import httpx
import torch
from browser import ROOT, served

sys.path.insert(0, str(ROOT))

from gpt import SamplingParams, load
from train.run import machine


async def visit(client: httpx.AsyncClient, handler: int, data: list, started: float) -> tuple[float, float]:
    """Press Generate; seconds from `started` until the first character is there, and until the whole text is."""
    session, first = token_hex(8), 0.0
    await client.post("/gradio_api/queue/join", json={"data": data, "fn_index": handler, "session_hash": session})
    async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
        async for line in lines.aiter_lines():
            if not line.startswith("data: "):
                continue
            told = json.loads(line[6:])
            if told["msg"] == "process_generating" and not first and "writing" in json.dumps(told["output"]):
                first = time.perf_counter() - started
            if told["msg"] == "process_completed":
                assert told["success"], told
                return first, time.perf_counter() - started
    raise RuntimeError("the page hung up")


async def crowd(address: str, visitors: int, length: int) -> list[tuple[float, float]]:
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        config = (await client.get("/config")).json()
        ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        (handler,) = (d for d in config["dependencies"] if [ids["generate"], "click"] in d["targets"])
        values = {part["id"]: part["props"].get("value") for part in config["components"]}

        def data(seed: int) -> list:
            given = {ids["length"]: length, ids["seed"]: seed, ids["lock"]: True}
            return [given.get(i, values[i]) for i in handler["inputs"]]

        started = time.perf_counter()
        return await asyncio.gather(*(visit(client, handler["id"], data(seed), started) for seed in range(visitors)))


def alone(visitors: int, length: int) -> dict[str, float]:
    """Seconds that the model needs for the same texts, one after another on one thread, and as one batch on all."""
    lm = load("gpt-shakespeare")
    params = [SamplingParams(max_new_tokens=length, seed=seed) for seed in range(visitors)]
    threads, seconds = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    lm.generate("ROMEO:", params[0])
    started = time.perf_counter()
    for each in params:
        lm.generate("ROMEO:", each)
    seconds["one after another"] = time.perf_counter() - started
    torch.set_num_threads(threads)
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
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    for name, seconds in medians.items():
        print(f"{seconds:8.2f} s  {name}")
    for name in ("one after another", "one batch"):
        print(f"{medians['all done'] / medians[name]:8.2f}    all done / {name}")
    facts = {"command": " ".join(sys.argv), "started": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    Path("bench_page.json").write_text(json.dumps(facts | {"seconds": medians, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
