"""The benchmark runs, on a tiny model: what it compares writes one and the same text, and its figures fit together."""

import json
import sys
from dataclasses import asdict

import bench
import pytest

W = 16
MACHINE = bench.Machine("here", 2, 1e9, 1e9, 2e9)
PLAN = bench.Plan(batches=(1, 3), lengths=(8, 40), rounds=2, seconds=0.02)


def test_every_writer_writes_the_same(folder):
    writers = [make(folder) for make in bench.WRITERS]
    assert len({writer.name for writer in writers}) == len(writers)
    texts = bench.prompts(writers[0].lm, 3, 4)
    assert len(set(texts)) == 3
    turns = [writer.turn(texts, W - 4, 100) for writer in writers]
    assert all(turn.tokens == turns[0].tokens for turn in turns)
    assert [len(row) for row in turns[0].tokens] == [3] * (W - 4)
    for turn in turns:
        assert 0 < turn.times[0]
        assert turn.times == sorted(turn.times)
        assert len(turn.times) == W - 4


def test_a_writer_is_stopped_when_its_turn_is_over(folder):
    for make in bench.WRITERS:
        writer = make(folder)
        assert len(writer.turn(["A"], 50, 0).times) == 2


def test_figures_of_a_tiny_model(folder):
    speeds = list(bench.measure("tiny", folder, PLAN, MACHINE))
    assert [(s.batch, s.length) for s in speeds[::4]] == [(1, 8), (1, 40), (3, 8), (3, 40)]
    for case in (speeds[i : i + 4] for i in range(0, len(speeds), 4)):
        ours = case[0]
        assert ours.times_as_fast == 1
        for s in case:
            assert s.times_as_fast == pytest.approx(ours.tokens / s.tokens)
            assert s.tokens > 0
            assert s.first_ms > 0
            first, last = s.positions
            assert first in ((bench.PROMPT + 1, W + 1) if s.length > W else (bench.PROMPT + 1,))
            assert first < last <= first + s.length - 1
            assert min(s.bandwidth, s.multiply_adds) > 0
    json.dumps([asdict(s) for s in speeds])


def test_shares_are_worked_out_by_hand(tiny_gpt):
    weights = sum(p.numel() for p in tiny_gpt.parameters()) - tiny_gpt.config.vocab_size * 64
    cache = 2 * 2 * 64 * W  # keys and values, layers, width, positions
    read, adds = bench.shares(tiny_gpt, MACHINE, 3, 10 * W, 100)
    assert read == pytest.approx(100 * 4 * (weights + 3 * cache) / 1e9)
    assert adds == pytest.approx(100 * 3 * (weights + cache) / 1e9)


def test_the_machine_and_a_process_are_measured(folder, capsys):
    machine = bench.measure_machine(megabytes=1, size=64)
    assert min(machine.bandwidth, machine.multiply_adds, machine.multiply_adds_of_all) > 0
    seconds, peak = bench.start_once(["-c", "print('AB')"], 2)
    assert seconds > 0
    assert 1 < peak < bench.start_once(["-c", "x = bytearray(100_000_000); print('AB')"], 2)[1] - 80
    with pytest.raises(RuntimeError, match="ended with 1"):
        bench.start_once(["-c", "raise SystemExit(1)"], 1)
    speed = bench.Speed("tiny", 1, 8, "gpt (torch)", (7, 14), 100.0, 1.0, 2.0, 0.01, 0.02)
    bench.report(machine, [speed], [bench.Start("import torch", 1.0, 1.0, 200.0)])
    out = capsys.readouterr().out
    for said in ("7 to 14", "100", "1.0x", "1.0%", "1.00 s", "200 MB"):
        assert said in out


def test_the_command_prints_a_table_and_writes_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "QUICK", bench.Plan(batches=(1,), lengths=(4,), rounds=1, seconds=0))
    monkeypatch.setattr(bench, "measure_machine", lambda: MACHINE)
    monkeypatch.setattr(bench, "measure_starts", lambda *_: [bench.Start("import torch", 1.5, 1.0, 200.0)])
    out = tmp_path / "bench.json"
    monkeypatch.setattr(sys, "argv", ["tests/bench.py", "--quick", "--shapes", "shipped", "wide", "--out", str(out)])
    bench.main()
    facts = json.loads(out.read_text())
    assert facts["command"].startswith("python tests/bench.py --quick")
    assert [(s["shape"], s["length"]) for s in facts["writing"]] == [("shipped", 4)] * 4 + [("wide", 4)] * 4
    assert facts["processes"][0]["seconds"] == 1.5
    assert "transformers, cache" in capsys.readouterr().out
