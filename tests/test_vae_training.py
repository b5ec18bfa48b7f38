"""Training a text VAE: its loss, its bound, and the measurements and checks of a run."""

import json
import math
from dataclasses import asdict
from difflib import SequenceMatcher

import pytest
import torch
from generators import run_to_end
from torch.distributions import Normal, kl_divergence

from gpt import VAE, LatentModel, VAEConfig, load
from gpt.models.vae import IWAE_SAMPLES
from train.configs import VAETrainConfig
from train.data import LineSampler, pad_documents, target_text
from train.runs import train
from train.tasks import vae as module
from train.tasks.vae import (
    VAETask,
    check_posterior_collapse,
    encode_and_score,
    iwae_bound,
    measure_latent,
    mutual_information,
    vae_loss,
    validation_loss,
)
from train.tokenizers import tokenize
from train.trainer import Budget, EndEvent, ProgressEvent, ReplayEvent, StepEvent, Trainer


@pytest.fixture(scope="module")
def tokens(line_data):
    return tokenize(line_data)


@pytest.fixture
def vae(tokens):
    """A small model whose weights all matter."""
    torch.manual_seed(3)
    model = VAE(VAEConfig(len(tokens.tokenizer), tokens.eos_token_id, 24, 16, 4)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return model


@pytest.fixture
def batch(tokens):
    return pad_documents(tokens.train[:3])


# Losses and bounds


def test_bound_counts_each_token_once(vae, tokens):
    result = iwae_bound(vae, tokens.held_out, tokens.held_out_text, samples=3)
    assert result.tokens == sum(len(document) - 1 for document in tokens.held_out)
    assert result.bits_per_character == pytest.approx(result.nats_per_token / math.log(2))


def test_more_samples_tighten_the_bound(vae, tokens):
    one, many = (iwae_bound(vae, tokens.train, samples=samples).nats_per_token for samples in (1, 30))
    assert many < one


def test_validation_loss_is_the_bound_with_a_floor_under_the_kl_divergence(vae, tokens):
    num_lines, num_tokens = len(tokens.held_out), sum(len(document) - 1 for document in tokens.held_out)
    posterior, nll = encode_and_score(vae, tokens.held_out, torch.Generator().manual_seed(0))
    kl = kl_divergence(posterior, vae.prior(num_lines)).mean(dim=0)
    elbo = (nll.sum() + num_lines * kl.sum()).item() / num_tokens
    assert validation_loss(vae, 0.0, tokens.held_out).nats_per_token == pytest.approx(elbo, abs=1e-5)
    free_bits = kl.median().item()
    raised = num_lines * (free_bits - kl[kl < free_bits]).sum().item() / num_tokens
    assert validation_loss(vae, free_bits, tokens.held_out).nats_per_token == pytest.approx(elbo + raised, abs=1e-5)


def test_mutual_information_of_separate_and_of_equal_posteriors():
    generator = torch.Generator().manual_seed(1)
    separate = Normal(torch.arange(50.0)[:, None] * 1_000, torch.ones(50, 1))
    equal = Normal(torch.zeros(50, 1), torch.ones(50, 1))
    assert mutual_information(separate, generator) == pytest.approx(math.log(50))
    assert mutual_information(equal, generator) == pytest.approx(0, abs=1e-4)


def test_kl_weight_rises_and_free_bits_are_a_floor(vae, batch):
    inputs, targets = batch

    def loss(progress, **settings):
        config = VAETrainConfig(**({"word_dropout": 0.0, "warmup": 0.5} | settings))
        return vae_loss(vae, config, inputs, targets, progress, torch.Generator().manual_seed(1))["loss"].item()

    posterior = vae.encode(inputs, (targets >= 0).sum(dim=1))
    num_tokens = (targets >= 0).sum().item()
    kl = 3 * kl_divergence(posterior, vae.prior(3)).mean(dim=0).sum().item() / num_tokens
    reconstruction = loss(0.0, free_bits=0.0)
    assert loss(0.25, free_bits=0.0) == pytest.approx(reconstruction + kl / 2, abs=1e-4)
    assert loss(0.5, free_bits=0.0) == loss(1.0, free_bits=0.0) == pytest.approx(reconstruction + kl, abs=1e-4)
    assert loss(1.0, free_bits=100.0) == pytest.approx(reconstruction + 3 * 400 / num_tokens, abs=1e-3)


def test_word_dropout_hides_tokens_from_the_decoder_only(vae, batch, tokens, monkeypatch):
    seen = []
    forward, encode = VAE.forward, VAE.encode
    monkeypatch.setattr(VAE, "forward", lambda self, ids, state=None: (seen.append(ids), forward(self, ids, state))[1])
    monkeypatch.setattr(VAE, "encode", lambda self, ids, lengths: (seen.append(ids), encode(self, ids, lengths))[1])
    vae_loss(vae, VAETrainConfig(word_dropout=1.0), *batch, 1.0, torch.Generator())
    encoder, decoder = seen
    assert torch.equal(encoder, batch[0])
    assert (decoder[:, 0] == tokens.eos_token_id).all()
    assert (decoder[:, 1:] == len(tokens.tokenizer)).all()


def test_noise_comes_from_the_generator_of_the_step(tokens):
    torch.manual_seed(1)
    task = VAETask(VAETrainConfig(24, 4, batch_tokens=64), tokens)
    batch = task.sample_batch(0.0, torch.Generator())
    state = torch.get_rng_state()
    losses = [task.training_step(batch, 1.0, 0, torch.Generator().manual_seed(seed))["loss"].item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's own use of it
def test_low_precision_reaches_the_custom_loss(tokens, monkeypatch):
    torch.manual_seed(1)
    task, outputs = VAETask(VAETrainConfig(24, 4, batch_tokens=64), tokens), []
    for layer in (task.model.posterior_head, task.model.latent_to_state, task.model.lm_head):
        layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    posteriors, encode = [], task.model.encode
    monkeypatch.setattr(task.model, "encode", lambda *args: posteriors.append(encode(*args)) or posteriors[-1])
    trainer = Trainer(task, Budget(steps=1), low_precision=True)
    with torch.backends.mkldnn.flags(enabled=False):  # whose LSTM needs a CPU with bfloat16
        events = trainer.run()
        assert isinstance(next(events), ReplayEvent)  # of the untrained model, which samples in float32
        outputs.clear()
        posteriors.clear()
        step = next(events)
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 3
    assert posteriors[0].mean.dtype == posteriors[0].stddev.dtype == torch.float32
    assert math.isfinite(step.loss)
    assert {p.dtype for p in task.module.parameters()} == {torch.float32}


# Measurements


def test_lines_decoded_in_one_batch_are_those_of_the_model(vae, tokens):
    lm = LatentModel(vae, tokens.tokenizer)
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    assert [tokens.tokenizer.decode(line) for line in vae.decode_lines(z)] == lm.decode_all(list(z))


@pytest.mark.slow
def test_sampled_lines_follow_the_distribution(vae):
    lines = vae.decode_lines(torch.zeros(4_000, 4), torch.Generator().manual_seed(1))
    first = torch.tensor([line[0] if line else vae.config.eos_token_id for line in lines]).bincount(minlength=9) / 4_000
    probs = vae(torch.tensor([[vae.config.eos_token_id]]))[0][0, 0].softmax(-1)
    torch.testing.assert_close(first, probs.detach(), atol=0.03, rtol=0)


def test_reconstructions_and_prior_samples_are_counted(vae, tokens, monkeypatch):
    texts = [tokens.tokenizer.decode(document.tolist()[1:-1]) for document in tokens.held_out]
    known = tokens.train[0].tolist()[1:-1]
    new, empty, long = known[::-1], [], known * 9

    def fake(model, z, generator=None):
        """The first held-out line from every posterior mean; of the samples, one in four is new."""
        lines = [tokens.held_out[0].tolist()[1:-1]] if generator is None else [new, empty, known, long]
        return (lines * len(z))[: len(z)]

    monkeypatch.setattr(VAE, "decode_lines", fake)
    progress, latent = run_to_end(measure_latent(vae, tokens, 60))
    assert progress[-1] == 1
    assert progress == sorted(progress)
    assert latent["short_lines"] == {"characters": 8, "lines": len(texts), "exact": 1}
    assert latent["prior_samples"]["lines"] == 1_000
    assert latent["prior_samples"]["unique"] == 4
    assert latent["prior_samples"]["new"] == pytest.approx(250, abs=2)
    similarity = [SequenceMatcher(None, text, texts[0]).ratio() for text in texts]
    assert latent["mean_similarity"] == pytest.approx(sum(similarity) / len(texts))


@pytest.mark.parametrize(("seconds_for_one_sample", "samples", "lines"), [(0.01, 64, 60), (1, 10, 60), (4, 8, 18)])
def test_time_limits_samples_then_lines_of_the_bound(vae, tokens, monkeypatch, seconds_for_one_sample, samples, lines):
    """With 10 s for 60 lines."""
    documents = [*tokens.train, *tokens.held_out]
    monkeypatch.setattr(module, "MIN_MEASURED_LINES", 15)

    def fake_seconds(model, probe):
        share = sum(len(d) - 1 for d in probe) / sum(len(d) - 1 for d in documents)
        return seconds_for_one_sample * share

    monkeypatch.setattr(module, "_seconds_for_one_sample", fake_seconds)
    dataset = type(tokens)(tokens.tokenizer, tokens.train, documents, "char", tokens.eos_token_id)
    _, held_out = run_to_end(module._measure_bound(vae, dataset, 10))
    assert held_out["iwae_samples"] == samples
    assert held_out["lines"] == lines
    assert held_out["tokens"] == len(target_text(tokens.tokenizer, documents[: held_out["lines"]]))


def test_time_limits_the_lines_that_are_decoded(vae, tokens, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_LINES", 2)
    _, latent = run_to_end(measure_latent(vae, tokens, 0))
    assert (latent["lines"], latent["prior_samples"]["lines"]) == (2, 2)


# A run


@pytest.fixture(scope="module")
def trained(line_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("vae") / "out"
    config = VAETrainConfig(48, 8, context=6, batch_tokens=384, adam_rate=0.01, word_dropout=0.2)
    return list(train("vae", config, line_data, out, Budget(steps=300), seed=1, command="a test")), out


@pytest.mark.slow
def test_run_records_how_the_latent_space_is_used(trained, tokens):
    events, out = trained
    facts, lm = json.loads((out / "training.json").read_text()), load(out)
    assert isinstance(lm, LatentModel)
    latent = facts["latent"]
    assert latent["mutual_information"] > 1  # of log 6 = 1.79
    assert latent["mutual_information_lines"] == latent["lines"] == 6
    assert latent["active_units"] >= 3
    assert latent["kl_divergence"] > 2
    assert latent["prior_samples"]["lines"] == 1_000
    expected = asdict(iwae_bound(lm.model, tokens.held_out, tokens.held_out_text))
    held_out = facts["held_out"]
    assert (held_out.pop("iwae_samples"), held_out.pop("lines")) == (IWAE_SAMPLES, 6)
    assert held_out == pytest.approx(expected, abs=1e-4)
    known = [
        line
        for line in map(tokens.tokenizer.decode, (d.tolist()[1:-1] for d in tokens.train))
        if lm.decode(lm.encode(line)) == line
    ]
    assert len(known) > 20
    assert all("kl_divergence" in event.metrics for event in events if isinstance(event, StepEvent))


@pytest.mark.slow
def test_measurements_report_progress_and_are_timed(trained):
    events, out = trained
    progress = [event.progress for event in events if isinstance(event, ProgressEvent)]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert isinstance(events[-1], EndEvent)
    assert events[-1].timings["measuring"] > 0
    assert json.loads((out / "training.json").read_text())["timings"] == events[-1].timings


@pytest.mark.slow
def test_posterior_collapse_fails_the_run(line_data, tmp_path):
    """Without free bits, warm-up and word dropout, the decoder learns to ignore the latent vector."""
    config = VAETrainConfig(24, 4, context=6, batch_tokens=192, adam_rate=0.01, free_bits=0.0, warmup=1e-9, word_dropout=0.0)
    with pytest.raises(ValueError, match=r"the posterior has collapsed: .* nats, below 0\.5; train longer"):
        list(train("vae", config, line_data, tmp_path / "out", Budget(steps=60), seed=1, command="a test"))
    assert json.loads((tmp_path / "out" / "training.json").read_text())["latent"]["mutual_information"] < 0.5


def test_check_posterior_collapse():
    check_posterior_collapse({"mutual_information": 0.51})
    with pytest.raises(ValueError, match="the posterior has collapsed"):
        check_posterior_collapse({"mutual_information": 0.1})


def test_running_text_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="a VAE is trained on lines; give --lines"):
        next(train("vae", VAETrainConfig(), data, tmp_path / "out", Budget(steps=1), seed=1, command="a test"))
    assert not (tmp_path / "out").exists()


def test_batches_are_sampled_by_bucket(tokens):
    task = VAETask(VAETrainConfig(24, 4, batch_tokens=64), tokens)
    assert isinstance(task.line_sampler, LineSampler)
    inputs, targets = task.sample_batch(0.0, torch.Generator())
    assert inputs.shape == targets.shape == (8, 8)
