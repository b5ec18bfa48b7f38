"""The text VAE: encoder and decoder, the latent space, and the bound that scores a text."""

import json
import math
import zlib

import pytest
import torch
from torch.distributions import Normal

from gpt import VAE, LatentModel, SamplingParams, Tokenizer, VAEConfig, load
from gpt.checkpoint import WEIGHTS
from gpt.models.vae import IWAE_BATCH_SIZE, IWAE_SAMPLES, iwae_nll, reparameterize

NEWLINE = 0  # the token that starts and ends a line


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def vae():
    """A model with random weights in every tensor."""
    model = VAE(VAEConfig(vocab_size=7, eos_token_id=NEWLINE, hidden_size=24, embedding_size=16, latent_size=4)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.4, generator=generator(3))
    return model


@pytest.fixture
def lm(vae):
    return LatentModel(vae, Tokenizer.from_text("abcxyz"))


@pytest.fixture
def lines(lm):
    """Inputs and targets (3, 5) of three lines, padded as in training."""
    inputs, targets = torch.zeros(3, 5, dtype=torch.long), torch.full((3, 5), -1)
    for i, line in enumerate(("axxx", "by", "czz")):
        ids = torch.tensor([NEWLINE, *lm.tokenizer.encode(line).ids, NEWLINE])
        inputs[i, : len(ids) - 1], targets[i, : len(ids) - 1] = ids[:-1], ids[1:]
    return inputs, targets


# Encoder and decoder


@torch.no_grad()
def test_padding_changes_neither_posterior_nor_likelihood(vae, lines):
    inputs, targets = lines
    lengths = (targets >= 0).sum(dim=1)
    posterior, z = vae.encode(inputs, lengths), torch.randn(3, 4, generator=generator(1))
    nll = vae.token_nll(inputs, targets, z)
    assert (nll[targets < 0] == 0).all()
    for i, n in enumerate(lengths.tolist()):
        one, following = inputs[i : i + 1, :n], targets[i : i + 1, :n]
        alone = vae.encode(one, torch.tensor([n]))
        torch.testing.assert_close((alone.mean, alone.stddev), (posterior.mean[i : i + 1], posterior.stddev[i : i + 1]))
        torch.testing.assert_close(vae.token_nll(one, following, z[i : i + 1]), nll[i : i + 1, :n])


@torch.no_grad()
def test_decoder_depends_on_z(vae, lines):
    zero, one = (vae(lines[0], vae.state_from(torch.full((3, 4), value)))[0] for value in (0.0, 1.0))
    assert (zero - one).abs().max() > 0.1
    torch.testing.assert_close(zero, vae(lines[0])[0])  # without a state, z is the prior's mean


@pytest.mark.slow
def test_z_of_a_generated_line_is_standard_normal(vae):
    uniform = iter(torch.rand(40_000, generator=generator(), dtype=torch.float64).tolist())
    z = torch.cat([vae.init_state(uniform).z for _ in range(10_000)])
    assert z.mean(dim=0).abs().max() < 0.05
    assert (z.std(dim=0) - 1).abs().max() < 0.05
    assert vae.init_state(iter([0.0, 1 - 2**-53, 0.5, 0.5])).z.isfinite().all()


def test_reparameterized_samples_follow_the_posterior():
    posterior = Normal(torch.tensor([[1.0, -2.0]]).expand(20_000, 2), torch.tensor([[0.5, 3.0]]).expand(20_000, 2))
    z = reparameterize(posterior, generator())
    torch.testing.assert_close(z.mean(dim=0), torch.tensor([1.0, -2.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(z.std(dim=0), torch.tensor([0.5, 3.0]), atol=0.05, rtol=0)


def test_config_without_an_end_token_is_rejected():
    with pytest.raises(ValueError, match="eos_token_id is null; a VAE models lines"):
        VAEConfig(5, None)


# Generation


@pytest.mark.slow
def test_seed_determines_the_text_at_temperature_zero(lm):
    def text(seed):
        return lm.generate("", SamplingParams(temperature=0, max_new_tokens=200, seed=seed)).text

    assert text(4) == text(4)
    assert text(4) != text(5)  # z is sampled, although the tokens are not


def test_each_generated_line_has_a_z_of_its_own():
    params = SamplingParams(temperature=0, max_new_tokens=100, seed=4)
    assert len(set(load(WEIGHTS / "vae-names").generate("", params).text.split("\n"))) > 5


# Latent space


@pytest.mark.slow
def test_encode_and_decode_are_deterministic(lm):
    z = lm.encode("axx")
    assert z.shape == (4,)
    assert torch.equal(z, lm.encode("axx"))
    assert lm.decode(z) == lm.decode(z.tolist())
    assert "\n" not in lm.decode(z)


@pytest.mark.slow
def test_lines_decoded_together_equal_lines_decoded_alone(lm):
    zs = list(torch.randn(5, 4, generator=generator(2)))
    assert lm.decode_all(zs) == [lm.decode(z) for z in zs]
    sampled = lm.decode_all(zs, SamplingParams(seed=7, max_new_tokens=20))
    assert sampled == [lm.decode(z, SamplingParams(seed=7 + i, max_new_tokens=20)) for i, z in enumerate(zs)]


def test_decoded_line_without_an_end_has_max_new_tokens(lm):
    """So a truncated line can be told from one that ended."""
    lm.model.lm_head.bias.data[NEWLINE] = -1e9
    lines = [lm.decode(torch.zeros(4), SamplingParams(temperature=0, max_new_tokens=n)) for n in (0, 1, 9)]
    assert [len(line) for line in lines] == [0, 1, 9]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 5])
def test_interpolation_includes_both_ends(lm, steps):
    path = lm.interpolate("axx", "czzz", steps)
    assert len(path) == steps
    assert (path[0], path[-1]) == (lm.decode(lm.encode("axx")), lm.decode(lm.encode("czzz")))


@pytest.mark.parametrize("line", ["", "a\nb", "é", "\n"])
def test_encode_rejects_what_is_not_one_line(lm, line):
    with pytest.raises(ValueError, match="is not a line that this model knows"):
        lm.encode(line)


def test_capitals_are_lower_cased_where_the_vocabulary_has_none(lm):
    assert torch.equal(lm.encode("AXX"), lm.encode("axx"))
    assert lm.score("AXX\n") == lm.score("axx\n")


def test_invalid_z_and_steps_are_rejected(lm):
    for z in ([0.0, 1.0, 2.0], [math.nan] * 4):
        with pytest.raises(ValueError, match="must be 4 finite numbers"):
            lm.decode(z)
    with pytest.raises(ValueError, match="steps is 1"):
        lm.interpolate("a", "b", 1)


# The importance-weighted bound


class LinearGaussian:
    """A model with a known likelihood: z ~ N(0, 1) and a "line" x ~ N(z, 1).

    So x ~ N(0, 2), and z given x is N(x / 2, 1 / 2).
    """

    def __init__(self, slope=0.5, variance=0.5):
        self.slope, self.variance = slope, variance

    def encode(self, x, lengths):
        return Normal(self.slope * x, torch.full_like(x, math.sqrt(self.variance)))

    def prior(self, batch_size):
        return Normal(torch.zeros(batch_size, 1), torch.ones(batch_size, 1))

    def token_nll(self, x, targets, z):
        return -Normal(z, torch.ones_like(z)).log_prob(x)


X = torch.tensor([[0.3], [-1.0], [2.5]])
TRUE_NLL = -Normal(0.0, math.sqrt(2)).log_prob(X)


def test_bound_with_the_true_posterior_is_exact():
    for samples in (1, 5):
        nll = iwae_nll(LinearGaussian(), X, X, samples, generator(1))
        torch.testing.assert_close(nll, TRUE_NLL, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_bound_tightens_with_more_samples():
    model, means = LinearGaussian(0.3, 1.0), []
    for samples in (1, 10, 100):
        rng = generator(2)
        means.append(torch.stack([iwae_nll(model, X, X, samples, rng) for _ in range(100)]).mean(dim=0))
    assert (means[0] > means[1]).all()
    assert (means[1] > means[2]).all()
    torch.testing.assert_close(means[2], TRUE_NLL, atol=0.02, rtol=0)
    kl = torch.distributions.kl_divergence(model.encode(X, None), LinearGaussian().encode(X, None))
    torch.testing.assert_close(means[0], TRUE_NLL + kl, atol=0.15, rtol=0)  # one sample: the ELBO


@torch.no_grad()
def test_bound_does_not_depend_on_how_samples_are_batched(vae, lines, monkeypatch):
    assert IWAE_BATCH_SIZE > 7 * len(lines[0])
    together = iwae_nll(vae, *lines, 7, generator(5))
    monkeypatch.setattr("gpt.models.vae.IWAE_BATCH_SIZE", 2)
    torch.testing.assert_close(iwae_nll(vae, *lines, 7, generator(5)), together)


# Scores


@torch.no_grad()
def bound(lm, line: str) -> float:
    """The bound of a line, its end included, in nats."""
    ids = torch.tensor([[NEWLINE, *lm.tokenizer.encode(line).ids, NEWLINE]])
    targets, noise = ids[:, 1:], generator(zlib.crc32(str(ids[0, 1:].tolist()).encode()))
    posterior = lm.model.encode(ids[:, :-1], torch.tensor([targets.shape[1]]))
    z = posterior.mean + posterior.stddev * torch.randn(IWAE_SAMPLES, posterior.mean.shape[1], generator=noise)
    nll = lm.model.token_nll(ids[:, :-1].repeat(len(z), 1), targets.repeat(len(z), 1), z).sum(dim=1)
    log_weights = (lm.model.prior(1).log_prob(z) - posterior.log_prob(z)).sum(dim=1) - nll
    return math.log(IWAE_SAMPLES) - log_weights.logsumexp(dim=0).item()


def test_score_of_a_line_is_its_bound(lm):
    for line in ("axx", "b", "czzzzz"):
        score = lm.score(line + "\n")
        assert math.fsum(score.nll) == pytest.approx(bound(lm, line), rel=1e-5)
        assert score.bits_per_character == pytest.approx(bound(lm, line) / math.log(2) / (len(line) + 1), rel=1e-5)
        assert "".join(score.tokens) == line + "\n"


def test_score_of_several_lines_is_that_of_each(lm):
    together = lm.score("axx\nb\n\ncz")
    apart = [lm.score(part).nll for part in ("axx\n", "b\n", "\n", "cz")]
    assert together.nll == pytest.approx([nll for part in apart for nll in part], rel=1e-5)


def test_score_of_an_unfinished_line_leaves_out_the_end(lm):
    assert lm.score("axx").nll == pytest.approx(lm.score("axx\n").nll[:-1], rel=1e-5)


@pytest.mark.slow
def test_shipped_names_are_scored_as_on_their_card():
    """Names as common as those of the training text cost a little less than the held-out ones on the card."""
    lm = load(WEIGHTS / "vae-names")
    held_out = json.loads((WEIGHTS / "vae-names" / "training.json").read_text(encoding="utf-8"))["held_out"]
    names = "emma olivia ava isabella sophia charlotte mia amelia liam noah oliver elijah lucas mason logan kaysen marlowe zuri"
    scores = [lm.score(name + "\n") for name in names.split()]
    nll = math.fsum(value for score in scores for value in score.nll)
    assert nll == pytest.approx(sum(bound(lm, name) for name in names.split()), rel=1e-4)
    bits_per_character = nll / math.log(2) / sum(len(score.nll) for score in scores)
    assert held_out["bits_per_character"] - 0.7 < bits_per_character < held_out["bits_per_character"] + 0.3
