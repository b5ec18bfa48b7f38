"""The text GAN as users open it: lines of latent vectors, walks, scores, files, and what it refuses."""

import math

import pytest
import torch
from tiny import randomized

from gpt import GAN, CheckpointError, GANConfig, TextGAN, Tokenizer, load
from gpt.checkpoint import save
from gpt.models.gan import MAX_LOGIT_RMS, cap_logits, end_lines

T, V, Z = 9, 6, 5  # the longest line has 8 characters
END = 0


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_text("abcde\n")


@pytest.fixture(scope="module")
def lm(tokenizer):
    model = randomized(GAN(GANConfig(V, END, T, 16, 2, Z)))
    with torch.no_grad():  # without biases, the scale of a latent vector would not matter
        for p in model.parameters():
            if p.ndim == 1:
                p.copy_(torch.linspace(0.3, -0.3, len(p)))
    return TextGAN(model, tokenizer)


def test_line_ends_at_its_first_end_token():
    tokens = torch.tensor([[3, 2, 0, 4, 0, 1], [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 1]])
    expected = torch.tensor([[3, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 1]])
    assert torch.equal(end_lines(tokens, END), expected)


def test_capped_logits_keep_their_order():
    logits = 40 * torch.randn(50, V, generator=torch.Generator().manual_seed(0)) + 7
    capped = cap_logits(logits)
    assert torch.equal(capped.argsort(dim=-1), logits.argsort(dim=-1))
    assert torch.allclose(capped.mean(dim=-1), torch.zeros(50), atol=1e-4)
    assert torch.allclose(capped.square().mean(dim=-1).sqrt(), torch.full((50,), MAX_LOGIT_RMS), atol=1e-4)
    small = torch.tensor([1.0, -2.0, 1.0])
    assert torch.allclose(cap_logits(small), small)
    assert cap_logits(torch.zeros(3)).tolist() == [0, 0, 0]


def test_straight_through_lines_are_one_hot_with_the_gradient_of_the_softmax(lm):
    model, z = lm.model, torch.randn(40, Z, generator=torch.Generator().manual_seed(1))
    lines = model.generate_one_hot(z)
    ids = model.generate_ids(z)
    assert torch.allclose(lines, model.one_hot(ids), atol=1e-6)
    weights = torch.randn(lines.shape, generator=torch.Generator().manual_seed(2))
    parameter = model.generator.lm_head.weight
    (gradient,) = torch.autograd.grad((lines * weights).sum(), parameter)
    counts = torch.ones(ids.shape, dtype=torch.bool)  # places up to the first end token
    for row, line in zip(counts, ids.tolist(), strict=True):
        if END in line:
            row[line.index(END) + 1 :] = False
    assert not counts.all()
    probs = model.generator(z).softmax(dim=-1)
    (expected,) = torch.autograd.grad((probs * weights * counts[..., None]).sum(), parameter)
    assert torch.allclose(gradient, expected, atol=1e-5)


def test_seed_and_scale_determine_the_lines(lm):
    lines = lm.sample(50, 3)
    assert lines == lm.sample(50, 3)
    assert lines != lm.sample(50, 4)
    assert lines != lm.sample(50, 3, scale=0.3)
    assert set(lm.sample(50, 3, scale=0.0)) == set(lm.decode([torch.zeros(Z)]))
    assert all("\n" not in line and len(line) <= T for line in lines)
    assert lines[4] == lm.decode([lm.latent(7)])[0] == lm.sample(1, 7)[0]


def test_line_does_not_depend_on_the_others(lm, monkeypatch):
    lines = lm.sample(30, 1)
    scores = lm.scores([line[: T - 1] or "a" for line in lines])
    monkeypatch.setattr("gpt.models.gan.BATCH_LINES", 7)
    assert lm.sample(30, 1) == lines
    assert lm.scores([line[: T - 1] or "a" for line in lines]) == pytest.approx(scores, abs=1e-5)
    assert lm.sample(0, 1) == lm.decode([]) == lm.scores([]) == []


def test_walk_goes_from_one_line_to_the_other(lm):
    z1, z2 = lm.latent(1), lm.latent(2)
    walk = lm.interpolate(z1, z2, 5)
    assert walk == lm.decode([z1 + (z2 - z1) * share for share in (0, 0.25, 0.5, 0.75, 1)])
    assert lm.interpolate(z1.tolist(), z2.tolist(), 5) == walk
    with pytest.raises(ValueError, match="steps is 1; both ends are included"):
        lm.interpolate(z1, z2, 1)


@pytest.mark.parametrize("z", [[0.0] * (Z - 1), [math.nan] * Z, [[0.0] * Z], [math.inf] * Z])
def test_damaged_latent_vector_is_an_error(lm, z):
    with pytest.raises(ValueError, match=f"it must be {Z} finite numbers"):
        lm.decode([[0.0] * Z, z])


def test_score_of_a_line_is_that_of_its_one_hot_vectors(lm):
    ids = torch.tensor([[*lm.tokenizer.encode("abe").ids, *[END] * (T - 3)]])
    assert lm.scores(["abe"]) == pytest.approx(lm.model.discriminator(torch.eye(V)[ids]).tolist())
    assert lm.scores(["a!b?e"]) == lm.scores(["abe"])  # unknown characters are skipped


def test_lines_are_ranked_among_real_ones(lm):
    scores = lm.scores(["ab", "ccc", "deed"])
    low, high = min(scores), max(scores)
    lm.model.reference_scores.copy_(torch.linspace(low - 1, high + 1, len(lm.model.reference_scores)))
    shares = [(score - low + 1) / (high - low + 2) for score in scores]
    assert lm.discriminate(["ab", "ccc", "deed"]) == pytest.approx(shares, abs=0.01)
    lm.model.reference_scores.fill_(high + 1)
    assert lm.discriminate(["ab"]) == [0]
    lm.model.reference_scores.fill_(low - 1)
    assert lm.discriminate(["ab"]) == [1]


@pytest.mark.parametrize("line", ["", "!?", "ab\ncd", "abcdeabcd"])
def test_what_is_no_line_cannot_be_scored(lm, line):
    with pytest.raises(ValueError, match=r"is not a line that this model knows|has 9 characters; this model reads up to 8"):
        lm.scores(["ab", line])


def test_saved_model_opens_the_same(lm, tmp_path):
    save(tmp_path / "saved", lm.model, lm.tokenizer)
    opened = load(tmp_path / "saved")
    assert type(opened) is TextGAN
    assert opened.model.config == lm.model.config
    assert opened.sample(20, 5) == lm.sample(20, 5)
    assert opened.discriminate(["ab", "e"]) == lm.discriminate(["ab", "e"])
    assert opened.fingerprint("abc\nde") == lm.fingerprint("abc\nde")
    assert len(opened.example("", 1)["text"].split("\n")) == 20


def test_fingerprint_changes_with_either_network(lm):
    before = lm.fingerprint("abc\nde")
    for parameter in (lm.model.generator.lm_head.bias, lm.model.discriminator.score_head.bias):
        with torch.no_grad():
            parameter[0] += 1
        changed = lm.fingerprint("abc\nde")
        assert changed != pytest.approx(before)
        with torch.no_grad():
            parameter[0] -= 1
    assert all(map(math.isfinite, [*lm.fingerprint("abcdeabcdeabc"), *lm.fingerprint("\nab")]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("latent_size", "0", "latent_size is 0; it must be a whole number from 1"),
        ("eos_token_id", "null", "eos_token_id is null; a GAN models lines, which end"),
        ("eos_token_id", "99", "eos_token_id is 99"),
        ("context_length", "12", "reads"),
        ("hidden_size", '"x"', "hidden_size is 'x'"),
    ],
)
def test_damaged_config_is_one_sentence(lm, tmp_path, name, value, message):
    save(tmp_path, lm.model, lm.tokenizer)
    path = tmp_path / "config.json"
    content = path.read_text()
    old = f'"{name}": {lm.model.config.to_dict()[name]}'
    assert old in content
    path.write_text(content.replace(old, f'"{name}": {value}'))
    with pytest.raises(CheckpointError, match="config.json needs" if message == "reads" else message):
        load(tmp_path)
