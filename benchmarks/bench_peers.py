"""Speed of a GPT against llama.cpp, with the same weights in float32: one sequence, batches, and reading a prompt.

llama.cpp's tools come with the source package of llama-cpp-python on PyPI. Build them in its folder vendor/llama.cpp:

    cmake -S . -B build -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_SERVER=OFF && cmake --build build -t llama-bench llama-batched-bench

and put build/bin on the PATH. The package gguf writes the file that they open. llama.cpp is measured without sampling or text;
gpt with sampling, text and log-probabilities. Both are measured in turn; the figures are medians of the rounds.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from record import run_facts

from gpt import LanguageModel, SamplingParams, load
from gpt.engine.binding import cores

TOOLS = ("llama-bench", "llama-batched-bench")
TOKENS = 200
PROMPT_TOKENS = 2_000
BATCHES = (8, 32)
GOALS = {"1 sequence": 1.5, "8 sequences": 1.3, "32 sequences": 1.3, "prefill": 1.0}  # times llama.cpp's tokens a second


def generate(lm: LanguageModel, batch_size: int) -> float:
    """Tokens a second of all sequences together, with the prefill of a short prompt."""
    params = [SamplingParams(temperature=1, max_new_tokens=TOKENS, seed=seed) for seed in range(batch_size)]
    start = time.perf_counter()
    tokens = sum(len(list(filter(None, steps))) for steps in lm.stream_batch(["ROMEO:"] * batch_size, params))
    return tokens / (time.perf_counter() - start)


def prefill(lm: LanguageModel) -> float:
    """Tokens a second of a long prompt."""
    prompt = lm.generate("ROMEO:", SamplingParams(max_new_tokens=PROMPT_TOKENS, seed=1)).text
    start = time.perf_counter()
    lm.prefill(prompt)
    return PROMPT_TOKENS / (time.perf_counter() - start)


def llama_bench(gguf: Path, *options: str) -> dict[int, float]:
    """Tokens a second for each number of threads."""
    command = ["llama-bench", "-m", gguf, "-r", "1", "-o", "json", "-t", ",".join(str(n + 1) for n in range(cores())), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {result["n_threads"]: result["avg_ts"] for result in json.loads(done.stdout)}


def llama_batched_bench(gguf: Path) -> dict[int, float]:
    """Tokens a second of all sequences together, for each number of sequences."""
    sizes = ["-npp", "8", "-ntg", str(TOKENS), "-npl", ",".join(map(str, BATCHES)), "-c", str(max(BATCHES) * (TOKENS + 8))]
    command = ["llama-batched-bench", "-m", gguf, "-t", str(cores()), "--output-format", "jsonl", *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {result["pl"]: result["speed_tg"] for result in results}


def measure(lm: LanguageModel, gguf: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of tokens a second, for each row and program."""
    speeds: dict[str, dict[str, list[float]]] = {row: defaultdict(list) for row in GOALS}
    for _ in range(rounds):
        speeds["1 sequence"]["gpt"].append(generate(lm, 1))
        for threads, speed in llama_bench(gguf, "-p", "0", "-n", str(TOKENS)).items():
            speeds["1 sequence"][f"llama.cpp, {threads} threads"].append(speed)
        for batch_size, speed in llama_batched_bench(gguf).items():
            speeds[f"{batch_size} sequences"]["gpt"].append(generate(lm, batch_size))
            speeds[f"{batch_size} sequences"]["llama.cpp"].append(speed)
        speeds["prefill"]["gpt"].append(prefill(lm))
        for threads, speed in llama_bench(gguf, "-n", "0", "-p", str(PROMPT_TOKENS)).items():
            speeds["prefill"][f"llama.cpp, {threads} threads"].append(speed)
    return {row: {name: median(values) for name, values in columns.items()} for row, columns in speeds.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gpt-shakespeare")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench_peers.json"))
    args = parser.parse_args()
    missing = [tool for tool in TOOLS if not shutil.which(tool)] + ["gguf"] * (find_spec("gguf") is None)
    if missing:
        print(f"skipped: {', '.join(missing)} not found; the first lines of {Path(__file__).name} say how to install llama.cpp")
        return
    from gpt.gguf import export_gguf

    lm = load(args.model)
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "model.gguf"
        export_gguf(lm, gguf)
        generate(lm, 1)  # compiles the kernel
        results = measure(lm, gguf, args.rounds)
    facts = {**run_facts(), "rounds": args.rounds, "engine": lm.engine, "tokens_per_s": results}
    args.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{facts['date']}; {facts['machine']}; {cores()} cores; medians of {args.rounds} rounds, tokens/s")
    for row, columns in results.items():
        best = max(speed for name, speed in columns.items() if name != "gpt")
        listed = "  ".join(f"{name} {speed:,.0f}" for name, speed in columns.items())
        print(f"{row:<14}{columns['gpt'] / best:5.2f}x (goal {GOALS[row]}x)  {listed}")


if __name__ == "__main__":
    main()
