"""Training latent diffusion: a run and its folder, resuming, what it measures and refuses, its card, and publishing it."""

import json
import re
import shutil
import sys
from dataclasses import asdict

import pytest
import torch

from gpt import CheckpointError, load
from gpt.checkpoint import save
from gpt.hub import HubError
from gpt.models.latent_diffusion import EXAMPLE_LINES, line_traits
from train import __main__ as command_line
from train.card import render_card, render_loss_curve
from train.configs import LatentDiffusionTrainConfig, VAETrainConfig
from train.publish import publish, space_files
from train.runs import train
from train.sample_metrics import js_divergence, measure_lines, texts_of
from train.tasks import latent_diffusion as module
from train.tokenizers import tokenize
from train.trainer import Budget, EndEvent, ReplayEvent, StepEvent

CONFIG = LatentDiffusionTrainConfig(layers=1, width=16, context=7, batch_lines=16)
SAMPLES = 60  # instead of thousands

# the client itself passes httpx2 a file as `data` when it uploads
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture(scope="module")
def vae(line_data, tmp_path_factory):
    """The folder of a VAE."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    list(train("vae", VAETrainConfig(width=32, latent=4, context=7), line_data, out, Budget(steps=150), seed=1, command="a test"))
    return out


def start(data, out, vae, steps=60, **options):
    return train("latent-diffusion", CONFIG, data, out, Budget(steps=steps), seed=2, command="a test", vae=vae, **options)


def measure_less(patch):
    """Draw few lines, of which most may be equal: there are only 54 different ones to learn."""
    patch.setattr(module, "SAMPLE_LINES", SAMPLES)
    patch.setattr("train.sample_metrics.MIN_UNIQUE", 0.0)


@pytest.fixture(scope="module")
def run(line_data, vae):
    """The folder of a finished run, and its events."""
    patch = pytest.MonkeyPatch()
    measure_less(patch)
    out = vae.parent / "latents"
    events = list(start(line_data, out, vae))
    patch.undo()
    return out, events


@pytest.fixture
def few_samples(monkeypatch):
    measure_less(monkeypatch)


def facts_of(out):
    return json.loads((out / "training.json").read_text(encoding="utf-8"))


# A run


def test_run_writes_what_it_measures(run, line_data):
    out, events = run
    assert isinstance(events[-1], EndEvent)
    facts, lm, tokens = facts_of(out), load(out), tokenize(line_data)
    held_out, known = texts_of(tokens, tokens.held_out), texts_of(tokens, tokens.train)
    lines = lm.sample(SAMPLES, module.SAMPLE_SEED)
    samples = dict(facts["samples"])
    prior = samples.pop("prior")
    assert samples == asdict(measure_lines(lines, held_out, known, None))
    z = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(module.PRIOR_SEED))
    assert prior == asdict(measure_lines(lm.decode(z), held_out, known, None))
    assert "held_out" not in facts
    assert facts["base_model"]["name"] == "vae"
    assert lm.sample(EXAMPLE_LINES, facts["sample"]["seed"]) == facts["sample"]["text"].split("\n")
    assert lm.fingerprint(facts["check"]["text"]) == pytest.approx(facts["check"]["nll"], abs=1e-4)


def test_curve_and_replay_have_the_divergence_of_three_grams(run, line_data):
    out, events = run
    curve, tokens = facts_of(out)["curve"], tokenize(line_data)
    lines = load(out).sample(SAMPLES, module.SELECTION_SEED)
    best = min(point["held_out"] for point in curve)
    assert js_divergence(lines, texts_of(tokens, tokens.held_out), 3) == pytest.approx(best, abs=0.02)  # weights are rounded
    points = json.loads((out / "replay.json").read_text())["points"]
    assert [point["step"] for point in points] == [event.step for event in events if isinstance(event, ReplayEvent)]
    assert all(len(point["lines"]) == EXAMPLE_LINES for point in points)
    assert points[0]["lines"] != points[-1]["lines"]


def test_conditions_are_measured(run):
    facts, lm = facts_of(run[0]), load(run[0])
    shares = facts["conditions"]["shares"]
    assert shares.keys() == lm.conditions.keys() == {"first letter", "length"}
    obeyed = 0
    for i, value in enumerate(lm.conditions["length"]):
        lines = lm.sample(module.CONDITION_LINES, module.SAMPLE_SEED + i * module.CONDITION_LINES, {"length": value})
        obeyed += sum(line_traits(line)["length"] == value for line in lines)
    assert shares["length"] == obeyed / (module.CONDITION_LINES * len(lm.conditions["length"]))


def test_resumed_run_equals_an_uninterrupted_one(run, line_data, vae, few_samples):
    out, events = vae.parent / "resumed", []
    work = start(line_data, out, vae)
    for event in work:
        events.append(event)
        if isinstance(event, StepEvent) and event.step == 33:
            work.close()
            break
    events += start(line_data, out, vae, resume=True)
    step = [event.loss for event in events if isinstance(event, StepEvent)]
    assert step == [event.loss for event in run[1] if isinstance(event, StepEvent)]
    saved, other = (torch.load(folder / "resume.pt", weights_only=True)["trainer"] for folder in (out, run[0]))
    for name, tensor in saved["module"].items():  # the weights and their average
        assert torch.equal(tensor, other["module"][name]), name
    assert facts_of(out)["samples"] == facts_of(run[0])["samples"]


def test_average_follows_the_weights(line_data, vae):
    base = load(vae)
    task = module.LatentDiffusionTask(CONFIG, tokenize(line_data), "", 0, "cpu", base, module.BaseModel("vae", "0" * 64))
    before, own = task.model.in_proj.weight.clone(), task.network.in_proj.weight
    with torch.no_grad():
        own.add_(1)
    task.on_step_end(1)  # a decay of 2 / 11
    torch.testing.assert_close(task.model.in_proj.weight, 2 / 11 * before + 9 / 11 * own)
    task.on_step_end(10**6)
    torch.testing.assert_close(task.model.in_proj.weight, 0.999 * (2 / 11 * before + 9 / 11 * own) + 0.001 * own)


def test_vectors_are_standardized(line_data, vae):
    base = load(vae)
    task = module.LatentDiffusionTask(CONFIG, tokenize(line_data), "", 0, "cpu", base, module.BaseModel("vae", "0" * 64))
    z = torch.cat([base.encode(line)[None] for line in task.train_lines])
    torch.testing.assert_close(task.model.latent_mean, z.mean(dim=0), atol=1e-5, rtol=1e-4)
    spread = (z.var(dim=0) + task.posterior.stddev.square().mean(dim=0)).sqrt()
    torch.testing.assert_close(task.model.latent_stddev, spread, atol=1e-5, rtol=1e-4)


def test_collapsed_model_fails_the_run(line_data, vae, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SAMPLE_LINES", SAMPLES)
    monkeypatch.setattr("gpt.TextLatentDiffusion.sample", lambda self, n, *args: ["ax"] * n)
    shutil.copytree(vae, tmp_path / "vae")
    with pytest.raises(ValueError, match="has collapsed"):
        list(start(line_data, tmp_path / "out", tmp_path / "vae", steps=3))
    assert facts_of(tmp_path / "out")["finished"]


# What is refused


def run_command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train", "run", *map(str, words)])
    with pytest.raises(SystemExit) as error:
        command_line.main()
    return str(error.value)


def test_wrong_options_are_a_sentence(monkeypatch, vae, tmp_path, line_data):
    path = tmp_path / "items.txt"
    path.write_text("\n".join(sorted(line_data.documents)) + "\n")
    out = ["--lines", "--out", tmp_path / "out", "--steps", 1]
    needed = run_command(monkeypatch, "latent-diffusion", "--data", path, *out)
    assert needed.endswith("a latent diffusion model needs a VAE made from the same text; name it with --vae")
    assert "does not take --vae" in run_command(monkeypatch, "gpt", "--data", path, *out, "--vae", vae)
    other = run_command(monkeypatch, "latent-diffusion", "--data", "names", *out[1:], "--vae", vae)
    assert "was not trained on this text; give a model that was" in other
    bigram = run_command(monkeypatch, "latent-diffusion", "--data", "names", *out[1:], "--vae", "bigram-names")
    assert bigram.endswith("bigram-names is a bigram, not a VAE; give another model with --vae")
    assert not (tmp_path / "out").exists()


def test_vae_that_would_not_be_found_is_refused(line_data, vae, tmp_path):
    with pytest.raises(ValueError, match=r"must be beside .* or under weights/"):
        next(start(line_data, tmp_path / "out", vae))
    assert not (tmp_path / "out").exists()


def test_other_vae_does_not_resume(run, line_data, vae, few_samples, tmp_path):
    for folder in (run[0], vae):
        shutil.copytree(folder, tmp_path / folder.name)
    lm = load(vae)
    with torch.no_grad():
        lm.model.lm_head.bias.add_(1)
    save(tmp_path / "other", lm.model, lm.tokenizer)
    with pytest.raises(ValueError, match=r"resume it with the same settings"):
        next(start(line_data, tmp_path / "latents", tmp_path / "other", steps=80, resume=True))


# The card


def test_card_compares_lines_and_claims_no_likelihood(run):
    facts = facts_of(run[0])
    card = render_card(facts, "alice/latents")
    assert "assigns no probability to a given line" in card
    assert not re.search(r"\| bits per character|bits per byte|nats per", card)
    samples = facts["samples"]
    row = f"{samples['js_divergence'][2]:.4f} | {samples['prior']['js_divergence'][2]:.4f} | {samples['floor'][2]:.4f}"
    assert f"| JSD of 3-grams | {row} |" in card
    assert f"| distinct lines | {samples['unique']:.1%} | {samples['prior']['unique']:.1%} |  |" in card
    assert "cost under" not in card  # no judge was trained on this text
    assert f"first letter {facts['conditions']['shares']['first letter']:.0%}" in card
    assert "\nbase_model: alice/vae\n" in card
    assert "steps of gradient descent on the latent vectors of vae." in card
    judged = samples | {"judge": "gpt-items", "nll_per_character": 1.25, "prior": samples["prior"] | {"nll_per_character": 2.5}}
    assert "| cost under gpt-items, nats per character | 1.250 | 2.500 |  |" in render_card(facts | {"samples": judged}, "x")


def test_commands_of_the_card_draw_its_sample(run, monkeypatch, capsys):
    facts = facts_of(run[0])
    card = render_card(facts, str(run[0]))
    code = re.search(r"```python\n(.*?)\n```", card, re.DOTALL)[1]
    *lines, last = code.split("\n")
    scope = {}
    exec("\n".join(lines), scope)
    assert eval(last, scope) == facts["sample"]["text"].split("\n")
    assert f"--samples {EXAMPLE_LINES} --seed {facts['sample']['seed']}" in card


def test_card_of_an_unfinished_run(run):
    facts = {name: value for name, value in facts_of(run[0]).items() if name not in ("samples", "conditions")}
    assert "JSD" not in render_card(facts | {"finished": False}, "x")


def test_curve_shows_only_the_divergence(run):
    svg = render_loss_curve(facts_of(run[0]))
    assert svg.count("<polyline") == 1
    assert "divergence of 3-grams, in bits" in svg
    assert "train" not in svg


# The Hub


@pytest.fixture
def send(monkeypatch, hub, run):
    def run_publish(folder=run[0], repo="alice/latents", **options):
        monkeypatch.setenv("HF_TOKEN", hub.WRITE)
        return list(publish(folder, repo, **options))

    return run_publish


def test_model_is_published_beside_its_vae_only(hub, send, vae, run):
    command = rf"python -m train publish {vae} --repo alice/vae"
    with pytest.raises(HubError, match=rf"alice/latents needs alice/vae, which is not on the Hub; publish it first: {command}$"):
        send()
    assert not hub.repos
    send(vae, "alice/vae")
    send()
    assert load("alice/latents").sample(3, 1) == load(run[0]).sample(3, 1)


def test_vae_with_other_weights_on_the_hub_is_refused(hub, send, vae, tmp_path):
    other = shutil.copytree(vae, tmp_path / "vae")
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes() + b" ")
    hub.add_folder(other, "alice/vae")
    with pytest.raises(HubError, match=r"alice/vae on the Hub has other weights than alice/latents needs; publish those first"):
        send()


def test_model_without_its_vae_is_not_published(send, run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "latents")
    with pytest.raises(CheckpointError, match="needs vae with the weights that it was trained with"):
        send(folder)


def test_dry_run_names_what_is_needed(hub, send):
    out = "\n".join(send(dry_run=True))
    assert "It needs alice/vae on the Hub, which a dry run does not ask for." in out
    assert hub.requests == []


def test_space_has_the_vae_once(hub, send, vae, monkeypatch, tmp_path):
    """It is pinned beside the model, unless it is one of those under weights/."""
    send(vae, "alice/vae")
    for weights, pinned in ((tmp_path, ["alice/vae", "alice/latents"]), (vae.parent, ["alice/latents"])):
        for name in ("gpt.checkpoint.WEIGHTS", "train.publish.WEIGHTS"):
            monkeypatch.setattr(name, weights)
        send(space="alice/page")
        files = hub.repos["space", "alice/page"].files()
        assert list(json.loads(files["weights/hub.json"])) == pinned
        assert ("weights/vae/model.safetensors" in files) == (weights == vae.parent)


def test_space_pins_both_models(run):
    files = space_files(run[0], {"alice/vae": "0" * 40, "alice/latents": "1" * 40})
    assert json.loads(files["weights/hub.json"]) == {"alice/vae": "0" * 40, "alice/latents": "1" * 40}
    front_matter = files["README.md"].decode()
    for repo in ("alice/vae", "alice/latents"):
        assert re.search(rf"- {repo} config\.json,tokenizer\.json,model\.safetensors", front_matter)
