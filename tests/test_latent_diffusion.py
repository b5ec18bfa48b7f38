"""Latent diffusion: the sampler, the denoiser, conditions, and the VAE that a model needs."""

import json
import shutil

import pytest
import torch
from tiny import randomized

from gpt import (
    VAE,
    CheckpointError,
    LatentDiffusion,
    LatentDiffusionConfig,
    LatentModel,
    TextLatentDiffusion,
    Tokenizer,
    VAEConfig,
    load,
)
from gpt.checkpoint import save, sha256_of_file
from gpt.models.base import BaseModel
from gpt.models.latent_diffusion import condition_ids, line_traits, noise_levels, sample_vectors
from train.tasks.latent_diffusion import denoising_loss, find_conditions
from train.tokenizers import tokenize

WEIGHTS = torch.tensor([0.7, 0.3])  # of a mixture of two normal distributions in the plane
MEANS = torch.tensor([[-1.0, 0.5], [1.5, -1.0]])
STDDEV = 0.2
CONDITIONS = {"first letter": ["a", "b"], "length": ["2", "3"]}


def draw_mixture(n, generator):
    """Points (n, 2) of the mixture, and their components (n,)."""
    component = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    return MEANS[component] + STDDEV * torch.randn(n, 2, generator=generator), component


def assert_is_mixture(x, tolerance, weights=WEIGHTS):
    component = torch.cdist(x, MEANS).argmin(dim=1)
    for i, weight in enumerate(weights):
        part = x[component == i]
        assert len(part) / len(x) == pytest.approx(weight.item(), abs=tolerance)
        if weight:
            torch.testing.assert_close(part.mean(dim=0), MEANS[i], atol=tolerance, rtol=0)
            torch.testing.assert_close(part.std(dim=0), torch.full((2,), STDDEV), atol=tolerance, rtol=0)


def tiny_denoiser(vocab_size=9, base=BaseModel("vae", "0" * 64), latent_size=4, conditions=CONDITIONS):
    return LatentDiffusion(LatentDiffusionConfig(vocab_size, 0, latent_size, base, conditions, 32, 2))


# Sampling


def test_noise_levels_fall_from_the_highest_to_zero():
    levels = noise_levels(5)
    assert levels[[0, 4, 5]].tolist() == pytest.approx([20, 0.01, 0])
    middle = ((20 ** (1 / 7) + 0.01 ** (1 / 7)) / 2) ** 7
    assert levels[2].item() == pytest.approx(middle)
    assert (levels.diff() < 0).all()


def test_sampler_with_an_exact_denoiser_draws_a_known_mixture():
    def denoise(x, level):
        """The mean of the points that x may come from."""
        variance = STDDEV**2 + level**2
        log_weights = WEIGHTS.log() - (x[:, None] - MEANS).square().sum(dim=-1) / (2 * variance)
        each = (STDDEV**2 * x[:, None] + level[:, None] ** 2 * MEANS) / variance[:, None]  # (B, 2 components, 2)
        return (log_weights.softmax(dim=1)[..., None] * each).sum(dim=1)

    noise = torch.randn(5_000, 2, generator=torch.Generator().manual_seed(0))
    assert_is_mixture(sample_vectors(denoise, noise, steps=32), tolerance=0.02)


@pytest.fixture(scope="module")
def trained():
    """A denoiser of the mixture, with the component as the first letter."""
    torch.manual_seed(0)
    model = tiny_denoiser(latent_size=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(1)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 600)
        x, component = draw_mixture(512, generator)
        ids = torch.stack((component + 1, torch.zeros_like(component)), dim=1)
        is_left_out = torch.rand(512, 1, generator=generator) < 0.5
        loss = denoising_loss(model, x, ids.masked_fill(is_left_out, 0), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def draw(model, condition, guidance):
    noise = torch.randn(4_000, 2, generator=torch.Generator().manual_seed(2))
    ids = torch.tensor([condition]).expand(4_000, -1)
    return sample_vectors(lambda x, level: model.denoise(x, level, ids, guidance), noise)


def test_trained_denoiser_recovers_a_known_mixture(trained):
    assert_is_mixture(draw(trained, [0, 0], 1.0), tolerance=0.05)


@pytest.mark.parametrize("component", [0, 1])
def test_condition_selects_a_component(trained, component):
    x = draw(trained, [component + 1, 0], 1.0)
    assert_is_mixture(x, tolerance=0.05, weights=torch.eye(2)[component])


def test_guidance_zero_ignores_the_condition(trained):
    torch.testing.assert_close(draw(trained, [2, 0], 0.0), draw(trained, [0, 0], 1.0), atol=1e-4, rtol=0)


def test_guidance_extrapolates_from_without_to_with_condition(trained):
    x, level = torch.tensor([[0.3, -0.2]]), torch.tensor([[0.8]])
    without, given = (trained(x, level, torch.tensor([ids])) for ids in ([0, 0], [2, 0]))
    assert not torch.allclose(without, given, atol=1e-2)
    guided = trained.denoise(x, level, torch.tensor([[2, 0]]), 3.0)
    torch.testing.assert_close(guided, without + 3 * (given - without))


def test_loss_of_a_new_model_is_that_of_a_normal_distribution():
    """It starts as the ideal denoiser of a standard normal distribution, whose weighted error is 1 at each noise level."""
    x = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    loss = denoising_loss(tiny_denoiser(), x, torch.zeros(20_000, 2, dtype=torch.long), torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(1, abs=0.02)


# Conditions


@pytest.mark.parametrize(
    ("line", "letter", "length", "tens", "kind"),
    [
        ("emma", "e", "4", "1-10", "prose"),
        ("First Citizen:", "f", "14", "11-20", "speaker"),
        ("The king is to blame for this:", "t", "30", "21-30", "verse"),
        ("'Tis", "'", "4", "1-10", "verse"),
        ("", "", "0", "1-10", "verse"),
    ],
)
def test_traits_of_a_line(line, letter, length, tens, kind):
    assert line_traits(line) == {"first letter": letter, "length": length, "length range": tens, "kind": kind}


def test_condition_ids_are_zero_where_nothing_is_known():
    assert condition_ids({"first letter": "b", "length": "9"}, CONDITIONS) == [2, 0]
    assert condition_ids({}, CONDITIONS) == [0, 0]


def test_conditions_are_what_tells_lines_apart():
    assert find_conditions(["emma", "olga", "ed", "-x"]) == {
        "first letter": ["e", "o"],
        "length": ["2", "4"],
        "kind": ["prose", "verse"],
    }
    lines = [f"A{'b' * n}" for n in range(30)] + ["ROMEO:"]
    expected = {"first letter": ["a", "r"], "length range": ["1-10", "11-20", "21-30"], "kind": ["speaker", "verse"]}
    assert find_conditions(lines) == expected


def test_rare_values_are_no_conditions():
    assert "q" not in find_conditions(["ab", "bcd"] * 1_000 + ["qq"])["first letter"]


# The model of text and its VAE


@pytest.fixture
def folders(tmp_path, line_tokenizer):
    """The folders of a VAE and of a latent diffusion model beside it."""
    vae = randomized(VAE(VAEConfig(len(line_tokenizer), 0, 24, 16, 4)))
    save(tmp_path / "vae", vae, line_tokenizer)
    base = BaseModel("vae", sha256_of_file(tmp_path / "vae" / "model.safetensors"))
    save(tmp_path / "latents", randomized(tiny_denoiser(len(line_tokenizer), base)), line_tokenizer)
    return tmp_path


@pytest.fixture
def line_tokenizer(line_data):
    return tokenize(line_data).tokenizer


@pytest.fixture
def lm(folders):
    return load(folders / "latents")


def error_of(folder):
    """The message of an error when a model is opened: one sentence."""
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_model_opens_with_the_vae_beside_it(lm, folders):
    assert isinstance(lm, TextLatentDiffusion)
    assert isinstance(lm.vae, LatentModel)
    assert lm.conditions == CONDITIONS
    expected = LatentModel(lm.vae.model, lm.tokenizer).decode_all(list(lm.latents(4, 7)))
    assert lm.sample(4, 7) == expected
    assert len(set(expected)) > 1


def test_model_opens_with_the_vae_under_weights(folders, monkeypatch, tmp_path):
    shipped = tmp_path / "weights"
    shutil.move(folders / "vae", shipped / "vae")
    assert "neither beside it nor under weights/" in error_of(folders / "latents")
    monkeypatch.setattr("gpt.checkpoint.WEIGHTS", shipped)
    assert load(folders / "latents").sample(2, 1)


def test_line_depends_on_its_own_seed_only(lm):
    assert lm.sample(3, 5)[1:] == lm.sample(2, 6)
    torch.testing.assert_close(lm.latents(3, 5)[1:], lm.latents(2, 6))


def test_latents_are_scaled_back(lm):
    before = lm.latents(3, 1)
    lm.model.latent_mean += 2
    lm.model.latent_stddev *= 3
    torch.testing.assert_close(lm.latents(3, 1), 3 * before + 2, atol=1e-4, rtol=1e-4)


def test_condition_and_guidance_change_the_lines(lm):
    plain = lm.latents(5, 1)
    given = lm.latents(5, 1, {"first letter": "b"})
    assert not torch.allclose(plain, given, atol=1e-3)
    assert not torch.allclose(given, lm.latents(5, 1, {"first letter": "b"}, guidance=0.5), atol=1e-3)
    torch.testing.assert_close(plain, lm.latents(5, 1, {"first letter": "b"}, guidance=0))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"first letter": "é"}, "first letter is 'é'; it must be one of: a, b"),
        ({"mood": "sad"}, "the condition is 'mood'; it must be one of: first letter, length"),
    ],
)
def test_unknown_condition_is_a_sentence(lm, condition, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        lm.sample(1, 0, condition)


def test_fingerprint_depends_on_every_weight(lm):
    before = lm.fingerprint("ax\n")
    assert len(before) == 12
    assert before == lm.fingerprint("ax\n")
    for name, weight in [*lm.model.named_parameters(), *lm.model.named_buffers()]:
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.add_(0.1 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)))
        assert max(abs(a - b) for a, b in zip(before, lm.fingerprint("ax\n"), strict=True)) > 1e-3, name
        weight.data = kept
    assert before == lm.fingerprint("ax\n")


def test_missing_vae_is_a_sentence(folders):
    shutil.rmtree(folders / "vae")
    assert "latents needs vae with the weights that it was trained with" in error_of(folders / "latents")


def test_other_vae_is_a_sentence(folders, line_tokenizer):
    save(folders / "vae", VAE(VAEConfig(len(line_tokenizer), 0, 24, 16, 4)), line_tokenizer)
    assert "latents needs vae with the weights that it was trained with" in error_of(folders / "latents")


def test_damaged_vae_is_a_sentence(folders):
    (folders / "vae" / "config.json").write_text("{")
    assert "vae/config.json is damaged" in error_of(folders / "latents")


def test_base_model_that_is_no_vae_is_a_sentence(folders, tiny_bigram, tokenizer):
    save(folders / "vae", tiny_bigram, tokenizer)
    edit_base(folders, sha256=sha256_of_file(folders / "vae" / "model.safetensors"))
    assert "vae is not a VAE" in error_of(folders / "latents")


def test_model_that_is_its_own_base_is_a_sentence(folders):
    edit_base(folders, name="latents", sha256=sha256_of_file(folders / "latents" / "model.safetensors"))
    assert "names latents as its base model, which needs one itself" in error_of(folders / "latents")


@pytest.mark.parametrize(
    "change",
    [
        {"base_model": None},
        {"base_model": {"name": "../vae", "sha256": "0" * 64}},
        {"base_model": {"name": "..", "sha256": "0" * 64}},
        {"base_model": {"name": "vae", "sha256": 7}},
        {"conditions": {"mood": ["sad"]}},
        {"conditions": {"length": ["2", "2"]}},
        {"conditions": ["length"]},
        {"latent_size": 0},
        {"eos_token_id": None},
    ],
)
def test_damaged_config_is_a_sentence(folders, change):
    path = folders / "latents" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert "config.json is damaged or does not fit" in error_of(folders / "latents")


def test_vae_of_another_size_is_a_sentence(folders):
    path = folders / "latents" / "config.json"
    config = json.loads(path.read_text()) | {"latent_size": 5}
    path.write_text(json.dumps(config))
    model = tiny_denoiser(config["vocab_size"], BaseModel(**config["base_model"]), latent_size=5)
    save(folders / "latents", model, Tokenizer.from_file(folders / "latents" / "tokenizer.json"))
    assert "its latent_size is 5, and that of vae is 4" in error_of(folders / "latents")


def edit_base(folders, **changes):
    path = folders / "latents" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model": config["base_model"] | changes}))


# The Hub


def test_vae_is_downloaded_from_the_same_user(hub, folders, lm):
    for name in ("vae", "latents"):
        hub.add_folder(folders / name, f"alice/{name}")
    expected = lm.sample(3, 1)
    assert load("alice/latents").sample(3, 1) == expected
    hub.close()
    assert load("alice/latents", local_files_only=True).sample(3, 1) == expected


def test_vae_that_is_not_on_the_hub_is_a_sentence(hub, folders):
    hub.add_folder(folders / "latents", "alice/latents")
    assert error_of("alice/latents").startswith("alice/vae is not on the Hub")


def test_newer_vae_on_the_hub_is_a_sentence(hub, folders, line_tokenizer):
    save(folders / "vae", VAE(VAEConfig(len(line_tokenizer), 0, 24, 16, 4)), line_tokenizer)
    for name in ("vae", "latents"):
        hub.add_folder(folders / name, f"alice/{name}")
    assert "alice/latents was trained with another vae than there is now" in error_of("alice/latents")
