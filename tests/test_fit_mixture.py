import json
import math

import pytest
import torch
from test_lines import DATA as ITEMS

from gpt import GPT, LSTM, CheckpointError, load
from gpt.checkpoint import save
from train.card import card
from train.configs import GPTTrainConfig, LSTMTrainConfig
from train.counting import fit_ngram
from train.data import TextDataset
from train.evaluate import WINDOW, evaluate, token_nll
from train.mixture import fit_mixture, fit_weight
from train.runs import RESUME, TokenizedDataset, fit_counts, train
from train.trainer import Budget, EndEvent, EvalEvent, StepEvent

TINY = GPTTrainConfig(layers=1, width=32, context=16, batch_tokens=64)
BUDGET = Budget(steps=30)


# The weight


def cost(weight, first, second):
    return -(weight * (-first.double()).exp() + (1 - weight) * (-second.double()).exp()).log().mean().item()


def test_the_weight_is_where_the_text_costs_least():
    generator = torch.Generator().manual_seed(0)
    first, second = (3 * torch.rand(500, generator=generator) for _ in range(2))
    weight = fit_weight(first, second - 0.2)
    grid = [i / 1_000 for i in range(1_001)]
    best = min(grid, key=lambda w: cost(w, first, second - 0.2))
    assert weight == pytest.approx(best, abs=1e-3)
    assert 0.1 < weight < 0.5


def test_by_hand():
    """Half of the tokens have 0.8 and 0.2, the other half 0.2 and 0.8; then three quarters of them the first."""
    one, other = -torch.tensor([0.8, 0.2]).log(), -torch.tensor([0.2, 0.8]).log()
    assert fit_weight(one, other) == pytest.approx(0.5, abs=1e-4)
    more = fit_weight(torch.cat((one, one[:1].repeat(2))), torch.cat((other, other[:1].repeat(2))))
    # The mixture gives p to three quarters and 1 - p to the rest, and best is p = 3/4 = 0.8 w + 0.2 (1 - w).
    assert more == pytest.approx((0.75 - 0.2) / 0.6, abs=1e-4)


def test_whoever_is_always_better_has_all_the_weight():
    nats = torch.tensor([0.5, 1.0, 2.0])
    assert fit_weight(nats, nats + 0.1) == 1
    assert fit_weight(nats + 0.1, nats) == 0
    assert fit_weight(nats, torch.full((3,), math.inf)) == 1


# A run


@pytest.fixture(scope="module")
def parts(data, train_tiny, tmp_path_factory):
    """Folders of a GPT and an n-gram that learned from one text."""
    place = tmp_path_factory.mktemp("parts")
    list(fit_counts(data, place / "ngram", 1, "a test", "ngram", lambda t: fit_ngram(t.train, len(t.tokenizer))))
    list(fit_counts(data, place / "bigram", 1, "a test"))
    return {"gpt": str(train_tiny(place / "gpt")), "ngram": str(place / "ngram"), "bigram": str(place / "bigram")}


def start(data, out, parts, names=("gpt", "ngram"), **options):
    options = {"recipe_of": lambda kind: TINY, "budget": BUDGET, "seed": 5} | options
    return fit_mixture(data, out, [parts.get(name, name) for name in names], command="a test", **options)


def facts_of(folder):
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def mixed(data, parts, tmp_path_factory):
    out = tmp_path_factory.mktemp("mixed") / "both"
    return list(start(data, out, parts)), out


def test_a_run_leaves_a_whole_folder(mixed, data, parts):
    events, out = mixed
    assert sum(isinstance(event, StepEvent) for event in events) == 30  # the rehearsal
    assert isinstance(events[-1], EndEvent)
    facts, lm, texts = facts_of(out), load(out), TokenizedDataset.of(data, 1)
    assert (facts["kind"], facts["method"], facts["weight"]) == ("mixture", "mixing", lm.model.config.weight)
    assert [part["name"] for part in facts["parts"]] == ["gpt", "ngram"]
    assert facts["held_out"]["nats_per_token"] == pytest.approx(
        evaluate(lm.model, texts.evaluate, WINDOW).nats_per_token, abs=1e-5
    )
    for part in facts["parts"]:
        alone = evaluate(load(parts[part["name"]]).model, texts.evaluate, WINDOW).nats_per_token
        assert part["held_out"]["nats_per_token"] == pytest.approx(alone, abs=1e-5)
    assert load(parts["gpt"]).parameters + load(parts["ngram"]).parameters == lm.parameters
    assert (out / "README.md").read_text() == card(facts, "both")
    for name in ("gpt alone", "ngram alone", "counting pairs of characters (bigram)"):
        assert f"| {name} |" in card(facts, "both")
    assert f"{100 * facts['weight']:.1f} % of gpt, the rest of ngram" in card(facts, "both")


def test_the_weight_is_fitted_where_neither_rehearsed_model_had_learned(mixed, data):
    _, out = mixed
    how = facts_of(out)["rehearsal"]
    rehearsed = out.with_name("both-rehearsal-1")
    cut = int(len(data.text) * 0.9)
    known = data.text[: int(cut * 0.9)]
    assert facts_of(rehearsed)["data"]["characters"] == cut
    assert how["characters"] == cut - len(known) - 1
    texts = TokenizedDataset.of(TextDataset("chain", data.text[:cut], "", None), 1)
    assert texts.tokenizer.decode(texts.train.tolist()) == known
    nats = token_nll(load(rehearsed).model, texts.evaluate, WINDOW)
    assert how["nats"][0] == pytest.approx(nats.mean().item(), abs=1e-5)
    assert how["mixed"] <= min(how["nats"]) + 1e-6


def test_the_held_out_part_changes_nothing(mixed, data, parts, tmp_path, monkeypatch):
    cut = int(len(data.text) * 0.9)
    other = TextDataset("chain", data.text[:cut] + data.text[cut:][::-1], data.sha256, None)
    list(start(other, tmp_path / "both", parts))
    one, two = facts_of(mixed[1]), facts_of(tmp_path / "both")
    assert (one["weight"], one["rehearsal"]) == (two["weight"], two["rehearsal"])
    assert one["held_out"] != two["held_out"]


def test_what_was_counted_needs_no_rehearsal_of_steps(data, parts, tmp_path):
    events = list(start(data, tmp_path / "out", parts, ("ngram", "bigram")))
    assert [type(event) for event in events] == [EvalEvent, EndEvent]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert facts_of(tmp_path / "out")["weight"] > 0


def test_a_stopped_rehearsal_goes_on(mixed, data, parts, tmp_path):
    out = tmp_path / "both"
    run = start(data, out, parts)
    next(event for event in run if event.step == 12)
    run.close()
    assert (tmp_path / "both-rehearsal-1" / RESUME).is_file()
    after = list(start(data, out, parts, resume=True))
    assert [event.step for event in after if isinstance(event, StepEvent)] == list(range(13, 31))
    assert facts_of(out)["weight"] == facts_of(mixed[1])["weight"]


def test_a_finished_rehearsal_is_taken_up_and_another_refused(mixed, data, parts, tmp_path):
    out = tmp_path / "both"
    list(start(data, out, parts))
    for path in out.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="both-rehearsal-1 holds a rehearsal with other settings; repeat them, or remove it"):
        list(start(data, out, parts, resume=True, seed=6))
    assert not [event for event in start(data, out, parts, resume=True) if isinstance(event, StepEvent)]
    assert facts_of(out)["weight"] == facts_of(mixed[1])["weight"]


def test_lines_mix_as_lines(tmp_path):
    """Its parts and its rehearsals are of lines, and what it writes ends where a line does."""
    list(fit_counts(ITEMS, tmp_path / "ngram", 1, "a test", "ngram", lambda t: fit_ngram(t.train, len(t.tokenizer), t.end_id)))
    config = GPTTrainConfig(layers=1, width=32, context=6, batch_tokens=96)
    list(train("gpt", config, ITEMS, tmp_path / "gpt", BUDGET, 1, "a test"))
    parts = {name: str(tmp_path / name) for name in ("gpt", "ngram")}
    list(start(ITEMS, tmp_path / "both", parts, recipe_of=lambda kind: config))
    facts, lm, texts = facts_of(tmp_path / "both"), load(tmp_path / "both"), TokenizedDataset.of(ITEMS, 1)
    assert lm.end_id == texts.end_id
    assert facts["data"]["lines"] == 60
    assert facts_of(tmp_path / "both-rehearsal-1")["data"]["lines"] == 54
    assert facts["rehearsal"]["characters"] == len("\n".join(["", *ITEMS.parts[0][1:-1].split("\n")[48:], ""])) - 1
    assert facts["held_out"]["tokens"] == len(texts.evaluate) - 1
    each = [token_nll(load(folder).model, texts.evaluate, WINDOW).double() for folder in parts.values()]
    weight = facts["weight"]
    by_hand = -(weight * (-each[0]).exp() + (1 - weight) * (-each[1]).exp()).log().mean().item()
    assert facts["held_out"]["nats_per_token"] == pytest.approx(by_hand, abs=1e-5)


def test_each_kind_has_a_rehearsal_of_its_own(data, parts, tmp_path):
    recipes = {"gpt": TINY, "lstm": LSTMTrainConfig(layers=1, width=16, context=16, batch_tokens=64)}
    list(train("lstm", recipes["lstm"], data, tmp_path / "lstm", BUDGET, 1, "a test"))
    list(start(data, tmp_path / "both", parts, ("gpt", str(tmp_path / "lstm")), recipe_of=recipes.__getitem__))
    models = [load(tmp_path / f"both-rehearsal-{i}").model for i in (1, 2)]
    assert [type(model) for model in models] == [GPT, LSTM]
    assert {kind: config["width"] for kind, config in facts_of(tmp_path / "both")["rehearsal"]["recipes"].items()} == {
        "gpt": 32,
        "lstm": 16,
    }


# What is refused


def test_lines_and_a_running_text_are_told_apart(data, parts, tmp_path):
    cut = TextDataset.from_lines("chain", ("\n".join(data.text[i : i + 20] for i in range(0, 2_000, 20))).encode())
    with pytest.raises(ValueError, match=r"gpt learned from a running text; leave out --lines"):
        list(start(cut, tmp_path / "out", parts))
    list(fit_counts(ITEMS, tmp_path / "items", 1, "a test"))
    with pytest.raises(ValueError, match=r"items learned from lines; give --lines"):
        list(start(data, tmp_path / "out", parts, ("gpt", str(tmp_path / "items"))))


def test_a_vae_is_refused(data, parts, tmp_path):
    with pytest.raises(
        ValueError, match=r"vae-names starts each line from a point of its own, which no other model has; mix two"
    ):
        list(start(data, tmp_path / "out", parts, ("vae-names", "ngram")))


def test_models_of_another_text_are_refused(data, parts, tmp_path):
    other = TextDataset("other", data.text[::-1], "1" * 64, None)
    with pytest.raises(ValueError, match=r"gpt did not learn from this text; mix two models that both did"):
        list(start(other, tmp_path / "out", parts))
    assert not (tmp_path / "out").exists()


def test_a_mixture_in_a_mixture_is_refused(mixed, data, parts, tmp_path):
    with pytest.raises(ValueError, match="both is a mixture itself; mix two other models"):
        list(start(data, tmp_path / "out", parts, (str(mixed[1]), "ngram")))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"kind": "gpt", "data": {}}'])
def test_a_folder_that_no_run_wrote_is_refused(data, parts, tmp_path, content):
    lm = load(parts["ngram"])
    save(tmp_path / "odd", lm.model, lm.tokenizer)
    if content is not None:
        (tmp_path / "odd" / "training.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"odd/training.json is missing or damaged; mix what `python -m train run` wrote"):
        list(start(data, tmp_path / "out", parts, ("gpt", str(tmp_path / "odd"))))


def test_a_folder_in_use_is_refused_before_anything_is_learned(data, parts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name another folder"):
        list(start(data, tmp_path, parts))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}-*"))
