"""Response times of the page for many visitors at once, compared with the time that the model needs for the same texts.

    python benchmarks/bench_page.py [--visitors 32] [--crowd 128] [--length 300] [--rounds 3]

Visitors of one model, of all models that write, and a crowd of one model. Prints the results and writes bench_page.json. It is
not a test. The page runs in a process of its own; a visitor is simulated here by the request that a browser sends for a click
on Generate.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from secrets import randbelow

import httpx
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from benchmarks.record import run_facts
from gpt import SamplingParams, load
from gpt.sampling import MAX_SEED
from tests.browser import served

MODEL = "gpt-shakespeare"


async def read_text(client: httpx.AsyncClient, query: str, length: int) -> tuple[str, float, float]:
    """Request a text as the page does.

    Args:
        client: A client of the page.
        query: The link to the text.
        length: Number of tokens.

    Returns:
        The text, and the seconds until its first character and until its end.
    """
    start, first, tokens, text = time.perf_counter(), 0.0, 0, ""
    async with client.stream("POST", "/page/generate", json={"query": query, "start": 0, "end": length}) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            update = json.loads(line)
            if "error" in update:
                raise RuntimeError(update["error"])
            tokens += len(update.get("texts", []))
            text += "".join(update.get("texts", []))
            if tokens and not first:
                first = time.perf_counter() - start
    if tokens != length:
        raise RuntimeError(f"the page sent {tokens} tokens of {length}")
    return text, first, time.perf_counter() - start


async def read_all(address: str, models: list[str], visitors: int, length: int) -> dict[str, float]:
    """Request a text for each visitor, all at once and each with a seed that nobody requested before; returns the times.

    Args:
        address: Of the page.
        models: Their ids; the visitors take them in turn.
        visitors: How many there are.
        length: Number of tokens of each text.
    """
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        queries = [f"model={models[i % len(models)]}&prompt=A&seed={randbelow(MAX_SEED)}" for i in range(visitors)]
        answers = await asyncio.gather(*(read_text(client, query, length) for query in queries))
    first, total = (sorted(answer[i] for answer in answers) for i in (1, 2))
    p95 = statistics.quantiles(total, n=20, method="inclusive")[-1]
    return {
        "first character, median, s": statistics.median(first),
        "first character, last, s": first[-1],
        "whole text, p95, s": p95,
        "all texts, s": total[-1],
        "slowest / fastest visitor": total[-1] / total[0],
    }


async def writing_models(address: str) -> list[str]:
    """The ids of the models that write."""
    async with httpx.AsyncClient(base_url=address) as client:
        return [model["id"] for model in (await client.get("/page/models")).json()["models"]]


def model_seconds(texts: int, length: int) -> dict[str, float]:
    """Seconds that the model needs for as many texts, one after another and as one batch on all cores."""
    lm = load(MODEL)
    params = [SamplingParams(max_new_tokens=length, seed=seed) for seed in range(texts)]
    seconds = {}
    torch.set_num_threads(1)  # as on the page; the C kernel uses all cores
    lm.generate("ROMEO:", params[0])
    start = time.perf_counter()
    for each in params:
        lm.generate("ROMEO:", each)
    seconds["one after another, s"] = time.perf_counter() - start
    start = time.perf_counter()
    for _ in lm.stream_batch(["ROMEO:"] * texts, params):
        pass
    seconds["one batch, s"] = time.perf_counter() - start
    return seconds


def main() -> None:
    """Run the benchmark, print medians and write JSON."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("visitors", 32), ("crowd", 128), ("length", 300), ("rounds", 3)):
        top.add_argument(f"--{name}", type=int, default=value)
    args = top.parse_args()
    cases: dict[str, list[dict[str, float]]] = {}
    with served() as address:
        models = asyncio.run(writing_models(address))
        asyncio.run(read_all(address, models, len(models), 50))  # warm-up
        for _ in range(args.rounds):
            for title, ids, visitors in (
                (f"{args.visitors} visitors of {MODEL}", [MODEL], args.visitors),
                (f"{args.visitors} visitors of {len(models)} models", models, args.visitors),
                (f"{args.crowd} visitors of {MODEL}", [MODEL], args.crowd),
            ):
                cases.setdefault(title, []).append(asyncio.run(read_all(address, ids, visitors, args.length)))
            cases.setdefault(f"{args.visitors} texts without the page", []).append(model_seconds(args.visitors, args.length))
    facts = run_facts()
    machine = facts["machine"]
    print(
        f"{facts['command']}, {facts['date']}; {machine['processor']}, {machine['cores']} cores; medians of {args.rounds} rounds"
    )
    medians = {title: {name: statistics.median(r[name] for r in rounds) for name in rounds[0]} for title, rounds in cases.items()}
    for title, values in medians.items():
        print(title)
        for name, value in values.items():
            print(f"{value:10.2f}  {name}")
    Path("bench_page.json").write_text(json.dumps({**facts, "medians": medians, "rounds": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
