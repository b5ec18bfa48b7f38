"""The text VAE: the decoder under the contract, the latent space at work, its bounds, and the check of a run."""

import json
import math
from difflib import SequenceMatcher

import pytest
import torch
from gpt.latent import GREEDY
from test_lines import DATA, ITEMS

from gpt import VAE, LatentModel, SamplingParams, Tokenizer, VAEConfig, load
from gpt.models.vae import VAEState
from train.configs import VAETrainConfig
from train.data import padded
from train.runs import TokenizedDataset, train
from train.tasks.vae import (
    check_posterior_collapse,
    encode_and_score,
    iwae_bound,
    iwae_nll,
    kl_divergence,
    line_nll,
    log_normal,
    measure_latent,
    mutual_information,
    vae_loss,
    validation_loss,
)
from train.trainer import Budget

TEXTS = TokenizedDataset.of(DATA, 1)


@pytest.fixture
def vae():
    """A model with weights that all matter."""
    torch.manual_seed(3)
    model = VAE(VAEConfig(len(TEXTS.tokenizer), TEXTS.end_id, 24, 16, 4)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    return model


@pytest.fixture
def lm(vae):
    return LatentModel(vae, TEXTS.tokenizer)


@pytest.fixture
def lines():
    return padded(
        [torch.tensor([TEXTS.end_id, *TEXTS.tokenizer.encode(item).ids, TEXTS.end_id]) for item in ("axxx", "by", "czz")]
    )


# The model


def test_padding_changes_no_line(vae, lines):
    inputs, targets = lines
    lengths = (targets >= 0).sum(dim=1)
    mean, log_variance = vae.encode(inputs, lengths)
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    token_nll = line_nll(vae, inputs, targets, z)
    for i, n in enumerate(lengths.tolist()):
        alone = inputs[i : i + 1, :n], targets[i : i + 1, :n]
        torch.testing.assert_close(vae.encode(alone[0], torch.tensor([n])), (mean[i : i + 1], log_variance[i : i + 1]))
        torch.testing.assert_close(line_nll(vae, *alone, z[i : i + 1]), token_nll[i : i + 1])


def test_the_decoder_depends_on_its_point(vae, lines):
    inputs, _ = lines
    here, there = (vae(inputs, VAEState(torch.full((3, 4), value)))[0] for value in (0.0, 1.0))
    assert (here - there).abs().max() > 0.1
    torch.testing.assert_close(here, vae(inputs)[0])  # without a point: the middle


def test_a_start_is_drawn_from_the_standard_normal_distribution(vae):
    uniforms = iter(torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist())
    points = torch.cat([vae.start(uniforms).z for _ in range(10_000)])
    assert points.mean(dim=0).abs().max() < 0.05
    assert (points.std(dim=0) - 1).abs().max() < 0.05
    assert vae.start(iter([0.0, 1.0, 0.5, 0.5])).z.isfinite().all()


def test_every_line_that_is_written_has_a_point_of_its_own_and_a_seed_repeats_them(lm):
    params = SamplingParams(temperature=0, max_new_tokens=200, seed=4)
    one = lm.generate("", params).text
    assert lm.generate("", params).text == one
    assert lm.generate("", SamplingParams(temperature=0, max_new_tokens=200, seed=5)).text != one  # though nothing else is drawn


def test_lines_only(tmp_path):
    with pytest.raises(ValueError, match="eos_token_id is null; a VAE is of lines, which end"):
        VAEConfig(5, None)
    with pytest.raises(ValueError, match="a VAE learns from lines; give --lines"):
        VAETrainConfig().build(5, None)


# The latent space at work


def test_a_point_gives_one_line_and_a_line_one_point(lm):
    z = lm.encode("axx")
    assert z.shape == (4,)
    assert torch.equal(z, lm.encode("axx"))
    assert lm.decode(z) == lm.decode(z.tolist())
    assert "\n" not in lm.decode(z)


def test_points_together_give_the_lines_that_each_gives_alone(lm):
    points = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    assert lm.decode_all(list(points)) == [lm.decode(point) for point in points]
    reparameterize = lm.decode_all(list(points), SamplingParams(seed=7, max_new_tokens=20))
    assert reparameterize == [lm.decode(point, SamplingParams(seed=7 + i, max_new_tokens=20)) for i, point in enumerate(points)]
    assert all(len(line) <= 20 for line in reparameterize)


def test_a_line_without_an_end_has_as_many_tokens_as_were_asked_for(vae, lm):
    """So nothing that is cut off passes for a line that ended."""
    with torch.no_grad():
        vae.head.bias[TEXTS.end_id] = -1e9
    point = torch.zeros(4)
    lines = [lm.decode(point, SamplingParams(temperature=0, max_new_tokens=n)) for n in (1, 2, 9)]
    assert [len(line) for line in lines] == [1, 2, 9]


@pytest.mark.parametrize("steps", [2, 5])
def test_the_ends_of_a_way_are_what_its_ends_give(lm, steps):
    way = lm.interpolate("axx", "ezzz", steps)
    assert len(way) == steps
    assert (way[0], way[-1]) == (lm.decode(lm.encode("axx")), lm.decode(lm.encode("ezzz")))


@pytest.mark.parametrize("line", ["", "a\nb", "é", "\n"])
def test_what_is_no_line_is_a_sentence(lm, line):
    with pytest.raises(ValueError, match="is no line that this model knows; give one line"):
        lm.encode(line)


def test_what_is_no_point_or_no_way_is_a_sentence(lm):
    with pytest.raises(ValueError, match=r"a point is \(3,\) numbers; this latent space has 4"):
        lm.decode([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="a point is"):
        lm.decode([math.nan] * 4)
    with pytest.raises(ValueError, match="steps is 1; a way has two ends, so it must be 2 or more"):
        lm.interpolate("a", "b", 1)


# Bounds


def test_divergence_by_hand():
    mean, log_variance = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, math.log(4.0)])
    assert kl_divergence(mean, log_variance).tolist() == pytest.approx([0, 0.5, (4 - 1 - math.log(4)) / 2])


class Gaussian:
    """A model whose every quantity is known: z is standard normal, and a "line" x is a number, normal around z with a
    variance of 1. So x is normal with a variance of 2, and z given x normal around x / 2 with a variance of 1 / 2."""

    def __init__(self, mean_of=0.5, log_variance=math.log(0.5)):
        self.mean_of, self.log_variance = mean_of, log_variance

    def encode(self, x, lengths):
        return self.mean_of * x, torch.full_like(x, self.log_variance)


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setattr("train.tasks.vae.line_nll", lambda model, x, targets, z: -log_normal(x, z, torch.zeros_like(x)))
    x = torch.tensor([[0.3], [-1.0], [2.5]])
    return x, -log_normal(x, torch.zeros_like(x), torch.full_like(x, math.log(2.0)))


def test_with_the_true_posterior_the_bound_is_the_cost_itself(linear):
    x, truth = linear
    for points in (1, 5):
        token_nll = iwae_nll(Gaussian(), x, x, points, torch.Generator().manual_seed(1))
        torch.testing.assert_close(token_nll, truth, atol=1e-5, rtol=0)


def test_with_another_one_it_lies_above_and_more_points_bring_it_down(linear):
    x, truth = linear
    wrong = Gaussian(0.3, 0.0)
    means = []
    for points in (1, 10, 100):
        generator = torch.Generator().manual_seed(2)
        means.append(torch.stack([iwae_nll(wrong, x, x, points, generator) for _ in range(100)]).mean(dim=0))
    assert (means[0] > means[1]).all()
    assert (means[1] > means[2]).all()
    torch.testing.assert_close(means[2], truth, atol=0.02, rtol=0)
    kl = (1 / 0.5 + ((0.3 * x - 0.5 * x) ** 2)[:, 0] / 0.5 - 1 + math.log(0.5)) / 2  # of the wrong one to the true one
    torch.testing.assert_close(means[0], truth + kl, atol=0.15, rtol=0)


def test_the_bound_counts_each_token_once(vae):
    result = iwae_bound(vae, TEXTS.evaluate, 256, 3)
    assert result.tokens == len(TEXTS.evaluate) - 1
    assert result.nats_per_token == pytest.approx(iwae_bound(vae, TEXTS.evaluate, 99, 3).nats_per_token)
    assert result.bits_per_character == pytest.approx(result.nats_per_token / math.log(2))


def test_the_aim_is_the_bound_but_for_what_is_free(vae):
    lines, tokens = 6, len(TEXTS.evaluate) - 1
    mean, log_variance, nats = encode_and_score(vae, TEXTS.evaluate, torch.Generator().manual_seed(0))
    each = kl_divergence(mean, log_variance).mean(dim=0)
    whole = (nats.sum() + lines * each.sum()).item() / tokens
    assert validation_loss(vae, 0.0, TEXTS.evaluate, 256).nats_per_token == pytest.approx(whole, abs=1e-5)
    free = each.median().item()
    dearer = lines * (free - each[each < free]).sum().item() / tokens
    assert validation_loss(vae, free, TEXTS.evaluate, 256).nats_per_token == pytest.approx(whole + dearer, abs=1e-5)


def test_information_by_hand():
    """Points that lie far apart tell which line they were drawn for, all of it; those that lie together tell nothing."""
    far = torch.arange(50.0)[:, None] * 1_000
    assert mutual_information(far, torch.zeros(50, 1), torch.Generator().manual_seed(1)) == pytest.approx(math.log(50))
    assert mutual_information(torch.zeros(50, 1), torch.zeros(50, 1), torch.Generator().manual_seed(1)) == pytest.approx(
        0, abs=1e-4
    )


def test_free_bits_and_the_rising_weight(vae, lines):
    inputs, targets = lines

    def loss(progress, **settings):
        torch.manual_seed(1)
        return vae_loss(
            vae, VAETrainConfig(**({"word_dropout": 0.0, "warmup": 0.5} | settings)), inputs, targets, progress
        ).item()

    mean, log_variance = vae.encode(inputs, (targets >= 0).sum(dim=1))
    each, tokens = kl_divergence(mean, log_variance).mean(dim=0), (targets >= 0).sum().item()
    whole = 3 * each.sum().item() / tokens
    nothing = loss(0.0, free_bits=0.0)
    assert loss(0.25, free_bits=0.0) == pytest.approx(nothing + whole / 2, abs=1e-4)
    assert loss(0.5, free_bits=0.0) == loss(1.0, free_bits=0.0) == pytest.approx(nothing + whole, abs=1e-4)
    assert loss(1.0, free_bits=100.0) == pytest.approx(nothing + 3 * 400 / tokens, abs=1e-3)


def test_tokens_that_the_decoder_is_not_told_are_the_encoders_all_the_same(vae, lines, monkeypatch):
    seen = []
    forward = VAE.forward
    monkeypatch.setattr(VAE, "forward", lambda self, ids, state=None: (seen.append(ids), forward(self, ids, state))[1])
    encode = VAE.encode
    monkeypatch.setattr(VAE, "encode", lambda self, ids, lengths: (seen.append(ids), encode(self, ids, lengths))[1])
    vae_loss(vae, VAETrainConfig(word_dropout=1.0), *lines, 1.0)
    read, told = seen
    assert torch.equal(read, lines[0])
    assert (told[:, 0] == TEXTS.end_id).all()
    assert (told[:, 1:] == len(TEXTS.tokenizer)).all()


# A run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("vae") / "out"
    config = VAETrainConfig(48, 8, context=6, batch_tokens=384, adam_rate=0.01, word_dropout=0.2)
    return list(train("vae", config, DATA, out, Budget(steps=300), 1, "a test")), out


def test_a_run_tells_how_the_space_is_used(trained):
    _, out = trained
    facts, lm = json.loads((out / "training.json").read_text()), load(out)
    assert isinstance(lm, LatentModel)
    use = facts["latent"]
    assert use["information"] > 1  # of log 6 = 1.79
    assert use["active"] >= 3
    assert use["divergence"] > 2
    assert use["lines"] == 6
    assert use["prior"]["lines"] == 1_000
    told = " ".join((out / "README.md").read_text().split())
    assert f"reconstruction {use['reconstruction']:.2f} nats a line, KL divergence {use['kl_divergence']:.2f}" in told
    assert f"among 6 lines a point tells {use['mutual_information']:.2f} nats of its own, of 1.79 that it could" in told
    assert f"{use['active']} of 8 numbers are active" in told
    assert facts["held_out"]["points"] == 64
    assert facts["held_out"]["nats_per_token"] == pytest.approx(
        iwae_bound(lm.model, TEXTS.evaluate, 256, 64).nats_per_token, abs=1e-4
    )
    known = [item for item in ITEMS if lm.decode(lm.encode(item)) == item]
    assert len(known) > 20


def test_a_collapsed_space_fails_the_run(tmp_path, monkeypatch):
    """Without free bits, and with all that the decoder needs before it, it learns to do without its point."""
    config = VAETrainConfig(24, 4, context=6, batch_tokens=192, adam_rate=0.01, free_bits=0.0, warmup=1e-9, word_dropout=0.0)
    with pytest.raises(
        ValueError, match=r"the latent space is not used: its points tell -?0\.\d\d nats of their lines, less than 0\.5"
    ):
        list(train("vae", config, DATA, tmp_path / "out", Budget(steps=60), 1, "a test"))
    assert json.loads((tmp_path / "out" / "training.json").read_text())["latent"]["information"] < 0.5


def test_the_check_by_hand():
    check_posterior_collapse({"information": 0.51})
    with pytest.raises(ValueError, match=r"less than 0\.5; train longer, or with more free bits"):
        check_posterior_collapse({"information": 0.1})


def test_a_line_that_comes_back_is_counted_and_what_is_new_too(lm):
    train, held = (part[1:-1].split("\n") for part in DATA.parts)

    def decode_all(points, params=GREEDY):
        """The first held-out line from all their points; and of those drawn, one in four is new."""
        return ([held[0]] if params.temperature == 0 else ["new", "", train[0], "m" * 16]) * len(points)

    lm.decode_all = lambda points, *params: decode_all(points, *params)[: len(points)]
    use = measure_latent(lm, DATA, TEXTS.evaluate)
    assert use["short"] == {"characters": 8, "lines": len(held), "exact": 1}
    assert use["prior"]["new"] == pytest.approx(250, abs=2)
    assert use["prior"]["different"] == 4
    assert use["alike"] == pytest.approx(sum(SequenceMatcher(None, line, held[0]).ratio() for line in held) / len(held))


def test_a_tokenizer_of_a_vae_is_its_own(trained):
    _, out = trained
    assert load(out).tokenizer.vocab == Tokenizer.from_text(DATA.text).vocab
