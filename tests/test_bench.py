"""The benchmark runs on a tiny model: its backends generate the same text, and its figures are consistent."""

import json
import sys
from dataclasses import asdict

import pytest
import torch

from benchmarks import bench_generation as bench
from benchmarks import bench_training
from gpt import Tokenizer
from train.data import TokenizedDataset

W = 16
MACHINE = bench.Machine("here", 2, 1e9, 1e9, 2e9)
PLAN = bench.Plan(batch_sizes=(1, 3), lengths=(8, 40), rounds=2, seconds=0.02)


@pytest.mark.slow
def test_all_backends_generate_the_same(folder):
    backends = [backend(folder) for backend in bench.BACKENDS]
    assert len({backend.name for backend in backends}) == len(backends)
    texts = bench.make_prompts(backends[0].lm, 3, 4)
    assert len(set(texts)) == 3
    runs = [backend.run(texts, W - 4, 100) for backend in backends]
    assert all(run.tokens == runs[0].tokens for run in runs)
    assert [len(step) for step in runs[0].tokens] == [3] * (W - 4)
    for run in runs:
        assert 0 < run.times[0]
        assert run.times == sorted(run.times)
        assert len(run.times) == W - 4


@pytest.mark.slow
def test_a_run_stops_at_its_time_limit(folder):
    for backend in bench.BACKENDS:
        assert len(backend(folder).run(["A"], 50, 0).times) == 2


@pytest.mark.slow
def test_figures_of_a_tiny_model(folder):
    speeds = list(bench.measure("tiny", folder, PLAN, MACHINE))
    assert [(s.batch_size, s.length) for s in speeds[::4]] == [(1, 8), (1, 40), (3, 8), (3, 40)]
    for case in (speeds[i : i + 4] for i in range(0, len(speeds), 4)):
        ours = case[0]
        assert ours.gpt_speedup == 1
        for s in case:
            assert s.gpt_speedup == pytest.approx(ours.tokens_per_second / s.tokens_per_second)
            assert s.tokens_per_second > 0
            assert s.first_token_ms > 0
            first, last = s.positions
            assert first in ((bench.PROMPT + 1, W + 1) if s.length > W else (bench.PROMPT + 1,))
            assert first < last <= first + s.length - 1
            assert min(s.bandwidth, s.multiply_adds) > 0
    json.dumps([asdict(s) for s in speeds])


def test_utilization_equals_a_count_by_hand(tiny_gpt):
    weights = sum(p.numel() for p in tiny_gpt.parameters()) - tiny_gpt.config.vocab_size * 64
    cache = 2 * 2 * 64 * W  # keys and values, layers, width, positions
    bandwidth, adds = bench.utilization(tiny_gpt, MACHINE, 3, 10 * W, 100)
    assert bandwidth == pytest.approx(100 * 4 * (weights + 3 * cache) / 1e9)
    assert adds == pytest.approx(100 * 3 * (weights + cache) / 1e9)


def test_the_machine_and_a_process_are_measured(folder, capsys):
    machine = bench.measure_machine(megabytes=1, size=64)
    assert min(machine.bandwidth, machine.multiply_adds, machine.multiply_adds_of_all) > 0
    seconds, peak = bench.time_process(["-c", "print('AB')"], 2)
    assert seconds > 0
    assert 1 < peak < bench.time_process(["-c", "x = bytearray(100_000_000); print('AB')"], 2)[1] - 80
    with pytest.raises(RuntimeError, match="ended with 1"):
        bench.time_process(["-c", "raise SystemExit(1)"], 1)
    speed = bench.Speed("tiny", 1, 8, "gpt (torch)", (7, 14), 100.0, 1.0, 2.0, 0.01, 0.02)
    bench.report(machine, [speed], [bench.ProcessResult("import torch", 1.0, 1.0, 200.0)])
    out = capsys.readouterr().out
    for text in ("7 to 14", "100", "1.0x", "1.0%", "1.00 s", "200 MB"):
        assert text in out


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "QUICK", bench.Plan(batch_sizes=(1,), lengths=(4,), rounds=1, seconds=0))
    monkeypatch.setattr(bench, "measure_machine", lambda: MACHINE)
    monkeypatch.setattr(bench, "measure_processes", lambda *_: [bench.ProcessResult("import torch", 1.5, 1.0, 200.0)])
    out = tmp_path / "bench.json"
    monkeypatch.setattr(sys, "argv", ["bench_generation.py", "--quick", "--shapes", "shipped", "wide", "--out", str(out)])
    bench.main()
    results = json.loads(out.read_text())
    assert results["command"].startswith("python benchmarks/bench_generation.py --quick")
    assert [(s["shape"], s["length"]) for s in results["generation"]] == [("shipped", 4)] * 4 + [("wide", 4)] * 4
    assert results["processes"][0]["seconds"] == 1.5
    assert "transformers, cache" in capsys.readouterr().out


def test_training_losses_are_measured_in_windows_of_one_context(tiny_gpt):
    """Both models predict each token from at most CONTEXT - 1 tokens before it, for any context of their own."""
    context = bench_training.CONTEXT
    ids = torch.randint(
        len(tiny_gpt.model["embed_tokens"].weight), (3 * context + 5,), generator=torch.Generator().manual_seed(0)
    )
    windows = [ids[start : start + context + 1] for start in range(0, 3 * context, context)]
    nll = [-tiny_gpt(window[None, :-1])[0][0].log_softmax(-1).gather(-1, window[1:, None]).mean() for window in windows]
    assert bench_training.held_out_loss(tiny_gpt, ids) == pytest.approx(sum(nll).item() / 3)


@pytest.mark.slow
def test_nanogpt_recipe_trains():
    ids = torch.arange(400) % 7
    data = TokenizedDataset(Tokenizer.from_text("abcdef"), [ids], [ids], "char", None)
    baseline = bench_training.Baseline(data)
    baseline.run(20)
    assert len(baseline.seconds) == 20
    assert bench_training.held_out_loss(baseline.model, ids) < 1.5  # nats; log 7 is 1.95
