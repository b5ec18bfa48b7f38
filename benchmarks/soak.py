"""Many clients use the page for a long time: is each seeded text the library's, does memory stay flat, how long does a call take?

    python benchmarks/soak.py [--clients 32] [--minutes 120] [--texts 256] [--length 300]

Half of the clients write as the page does, the others leave early, call the API or score a text; models, prompts, seeds and
lengths are mixed. Prints a line a minute and a summary, and writes soak.json. It fails if a text differs, a call fails, or the
memory from the tenth minute on varies by more than 5 %. It needs Linux, and the page runs in a process of its own.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from benchmarks.bench_page import read_text
from benchmarks.record import run_facts
from gpt import SamplingParams, load
from gpt.checkpoint import names
from gpt.generation import LanguageModel
from tests.browser import page_process

PROMPTS = ("", "ROMEO:", "To be, or not to be", "emma\n", "Café № 9\n", "MENENIUS:\nI tell you, friends. " * 40)
ACTIONS = {"write": 5, "leave": 2, "api": 2, "score": 1}  # what clients do, with weights
SETTLED_MINUTES = 10  # from then on, memory is flat
MAX_GROWTH = 0.05


@dataclass(frozen=True)
class Text:
    """A seeded text.

    Attributes:
        query: The link that shows it.
        arguments: The arguments of the API that ask for it.
        pieces: What the library generates, token by token.
        nll: What `score` says of the prompt, summed up; None for an empty one.
    """

    query: str
    arguments: dict[str, Any]
    pieces: list[str]
    nll: float | None


@dataclass
class Record:
    """What happened in a minute, or in the whole run."""

    calls: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, other: "Record") -> None:
        """Add what happened in a minute."""
        self.calls += other.calls
        for name in ("seconds", "first", "mismatches", "errors"):
            getattr(self, name).extend(getattr(other, name))

    def summary(self) -> dict[str, Any]:
        """Figures for a table."""
        return {
            "calls": self.calls.total(),
            "mismatches": len(self.mismatches),
            "errors": len(self.errors),
            "first_p95": round(percentile(self.first, 95), 3),
            "p50": round(percentile(self.seconds, 50), 3),
            "p95": round(percentile(self.seconds, 95), 3),
            "slowest": round(max(self.seconds, default=0.0), 3),
        }


def percentile(values: list[float], percent: int) -> float:
    """A percentile of some values; 0 if there are fewer than two."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else 0.0


def writing_models() -> dict[str, LanguageModel]:
    """The shipped models that write, by id."""
    models = {name: load(name) for name in names()}
    return {name: lm for name, lm in models.items() if isinstance(lm, LanguageModel)}


def make_texts(count: int, length: int) -> list[Text]:
    """Seeded texts of all models in turn, as the library generates them."""
    models, texts = writing_models(), []
    for seed in range(count):
        name, prompt = list(models)[seed % len(models)], PROMPTS[seed % len(PROMPTS)]
        lm, temperature = models[name], (0.8, 0.0, 1.5)[seed % 3]
        pieces = [step.text for step in lm.stream(prompt, SamplingParams(temperature, max_new_tokens=length, seed=seed))]
        nll = sum(lm.score(prompt).nll) if lm.tokenizer.encode(lm.tokenizer.normalize(prompt)).ids else None
        arguments = {"model": name, "prompt": prompt, "temperature": temperature, "seed": seed}
        texts.append(Text(urlencode(arguments), arguments, pieces, nll))
    return texts


async def write(client: httpx.AsyncClient, text: Text, length: int, record: Record) -> None:
    """Write a text as the page does."""
    generated, first, seconds = await read_text(client, text.query, length)
    record.first.append(first)
    record.seconds.append(seconds)
    if generated != "".join(text.pieces[:length]):
        record.mismatches.append(f"{text.query}&length={length}")


async def leave(client: httpx.AsyncClient, text: Text, length: int, record: Record) -> None:
    """Ask for a long text, and leave at its first characters."""
    body = {"query": text.query + "&temperature=1", "start": 0, "end": 5_000}
    async with client.stream("POST", "/page/generate", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if "texts" in json.loads(line):
                break


async def api(client: httpx.AsyncClient, text: Text, length: int, record: Record) -> None:
    """Write a text as a program does."""
    start = time.perf_counter()
    if await call(client, "generate", {**text.arguments, "length": length}) != "".join(text.pieces[:length]):
        record.mismatches.append(f"API: {text.query}&length={length}")
    record.seconds.append(time.perf_counter() - start)


async def score(client: httpx.AsyncClient, text: Text, length: int, record: Record) -> None:
    """Score a prompt as a program does."""
    if text.nll is None:
        return
    result = await call(client, "score", {"model": text.arguments["model"], "text": text.arguments["prompt"]})
    if abs(sum(result["nll"]) - text.nll) > 1e-3 * abs(text.nll):
        record.mismatches.append(f"score: {text.query}")


async def call(client: httpx.AsyncClient, name: str, arguments: dict[str, Any]) -> Any:
    """The last result of an API endpoint."""
    posted = await client.post(f"/gradio_api/call/v2/{name}", json=arguments)
    posted.raise_for_status()
    event = ""
    async with client.stream("GET", f"/gradio_api/call/v2/{name}/{posted.json()['event_id']}") as response:
        async for line in response.aiter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                event = value
            elif key == "data" and event in ("complete", "error"):
                if event == "error":
                    raise RuntimeError(value)
                return json.loads(value)[0]
    raise RuntimeError("the answer ended too early")


async def visit(address: str, texts: list[Text], rng: random.Random, end: float, records: list[Record]) -> None:
    """One client: calls the page again and again until the end."""
    functions = {"write": write, "leave": leave, "api": api, "score": score}
    async with httpx.AsyncClient(base_url=address, timeout=120, trust_env=False) as client:
        while time.monotonic() < end:
            action, text = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0], rng.choice(texts)
            try:
                await functions[action](client, text, rng.randint(1, len(text.pieces)), records[-1])
            except (httpx.HTTPError, RuntimeError) as error:
                records[-1].errors.append(f"{action} {text.query}: {error!r}")
            records[-1].calls[action] += 1


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def soak(address: str, pid: int, texts: list[Text], clients: int, minutes: float) -> tuple[Record, list[dict[str, Any]]]:
    """Run the clients; returns what happened, and the lines of the table."""
    end, records, total, rows = time.monotonic() + minutes * 60, [Record()], Record(), []
    tasks = [asyncio.create_task(visit(address, texts, random.Random(i), end, records)) for i in range(clients)]  # noqa: S311
    print(
        f"{'minute':>6} {'MB':>7} {'calls':>6} {'differ':>6} {'errors':>6} {'first p95':>9} {'p50':>6} {'p95':>6} {'slowest':>7}"
    )
    while any(not task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=60, return_when=asyncio.ALL_COMPLETED)
        done, records[:] = records[-1], [Record()]
        total.add(done)
        rows.append({"minute": len(rows) + 1, "resident_mb": round(resident_mb(pid), 1), **done.summary()})
        print("{:6} {:7.1f} {:6} {:6} {:6} {:9.2f} {:6.2f} {:6.2f} {:7.2f}".format(*rows[-1].values()), flush=True)
    await asyncio.gather(*tasks)
    return total, rows


def main() -> None:
    """Run the clients, print the table, and write JSON."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("clients", 32), ("texts", 256), ("length", 300)):
        top.add_argument(f"--{name}", type=int, default=value)
    top.add_argument("--minutes", type=float, default=120.0)
    args = top.parse_args()
    facts = run_facts()
    print(f"{facts['command']}, {facts['date']}; {facts['machine']['processor']}, {facts['machine']['cores']} cores")
    torch.set_num_threads(1)
    texts = make_texts(args.texts, args.length)
    with page_process() as (address, server):
        total, rows = asyncio.run(soak(address, server.pid, texts, args.clients, args.minutes))
        server.terminate()
        status = server.wait(timeout=60)
    settled = [row["resident_mb"] for row in rows if row["minute"] >= SETTLED_MINUTES]
    growth = max(settled) / min(settled) - 1 if settled else None
    print(json.dumps(total.summary()), f"exit status {status}")
    print(f"memory from minute {SETTLED_MINUTES} on varied by {'(too short a run)' if growth is None else f'{growth:.1%}'}")
    for line in (*total.mismatches[:5], *total.errors[:5]):
        print(line)
    results = {**facts, "rows": rows, "total": total.summary(), "calls": total.calls, "growth": growth, "exit_status": status}
    Path("soak.json").write_text(json.dumps(results, indent=1) + "\n")
    if total.mismatches or total.errors or status or (growth or 0) > MAX_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
