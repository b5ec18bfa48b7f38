"""Masked diffusion: the bound, the model in both directions, filling gaps and proofreading."""

import math
from itertools import combinations, permutations

import pytest
import torch
from tiny import randomized
from torch import nn

from gpt import MaskedDiffusion, MaskedDiffusionConfig, TextDiffusion, Tokenizer, UnmaskingParams, load
from gpt.checkpoint import CheckpointError, save
from gpt.models.diffusion import GAP_LENGTHS, IGNORED, hide_tokens, nelbo

V, T, MASK = 3, 3, 3


class Table(nn.Module):
    """A model that knows a distribution over all texts of three tokens, and predicts each hidden place from what is visible.

    Args:
        joint: (3, 3, 3) probability of each text.
    """

    def __init__(self, joint):
        super().__init__()
        self.joint = joint

    def forward(self, ids):
        logits = torch.empty(*ids.shape, V)
        for b, row in enumerate(ids.tolist()):
            given = self.joint[tuple(slice(None) if token == MASK else slice(token, token + 1) for token in row)]
            for t in range(T):
                other = [d for d in range(T) if d != t]
                marginal = given.sum(dim=other).expand(V) if row[t] != MASK else given.sum(dim=other)
                logits[b, t] = (marginal / marginal.sum()).clamp(min=1e-30).log()
        return logits


def random_model():
    return randomized(MaskedDiffusion(MaskedDiffusionConfig(V, T, 8, 8, 1, 2)))


def joint_distribution():
    joint = torch.rand(V, V, V, generator=torch.Generator().manual_seed(1)) ** 3
    return joint / joint.sum()


@torch.no_grad()
def bound(model, text):
    """The bound of a text in nats a token: the mean over k of the mean over all ways to hide k tokens."""
    total = 0.0
    for k in range(1, T + 1):
        hidden_sets = list(combinations(range(T), k))
        for hidden in hidden_sets:
            is_hidden = torch.tensor([[t in hidden for t in range(T)]])
            ids = torch.tensor([text])
            each = nelbo(model, ids.masked_fill(is_hidden, MASK), ids.masked_fill(~is_hidden, IGNORED))
            total += each.item() / len(hidden_sets) / T
    return total


@torch.no_grad()
def cost_in_order(model, text, order):
    """-log p of a text that is written one token at a time in an order."""
    ids, cost = torch.full((1, T), MASK), 0.0
    for place in order:
        cost -= model(ids)[0, place].log_softmax(-1)[text[place]].item()
        ids[0, place] = text[place]
    return cost


@pytest.mark.parametrize("text", [[0, 1, 2], [2, 2, 0]])
def test_bound_is_the_mean_cost_over_all_orders(text):
    model = random_model()
    costs = [cost_in_order(model, text, order) for order in permutations(range(T))]
    assert T * bound(model, text) == pytest.approx(sum(costs) / len(costs), abs=1e-5)


def test_estimated_bound_equals_the_sum_over_all_masks():
    model, text, B = random_model(), [0, 1, 2], 30_000
    ids = torch.tensor([text]).repeat(B, 1)
    hidden = hide_tokens(ids, MASK, torch.zeros(T, dtype=torch.bool), torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert nelbo(model, *hidden).mean().item() == pytest.approx(bound(model, text), abs=0.01)


def test_bound_of_a_perfect_model_is_the_entropy():
    joint = joint_distribution()
    entropy = -(joint * joint.log()).sum().item()
    texts = torch.cartesian_prod(*[torch.arange(V)] * T).tolist()
    expected = sum(joint[tuple(text)].item() * T * bound(Table(joint), text) for text in texts)
    assert expected == pytest.approx(entropy, abs=1e-4)


def test_number_and_places_of_hidden_tokens_are_uniform():
    B = 60_000
    inputs, targets = hide_tokens(
        torch.zeros(B, T, dtype=torch.long), MASK, torch.zeros(T, dtype=torch.bool), torch.Generator().manual_seed(0)
    )
    assert torch.equal(inputs == MASK, targets == 0)
    assert torch.equal(inputs == 0, targets == IGNORED)
    is_hidden = inputs == MASK
    count = is_hidden.sum(dim=1)
    assert [(count == k).double().mean().item() for k in range(4)] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=1e-3)
    patterns = (is_hidden[count == 2] * torch.tensor([4, 2, 1])).sum(dim=1)
    assert [(patterns == p).double().mean().item() for p in (6, 5, 3)] == pytest.approx([1 / 3] * 3, abs=0.02)


def test_fixed_places_are_never_hidden():
    is_fixed = torch.tensor([True, False, False])
    inputs, _ = hide_tokens(torch.zeros(999, T, dtype=torch.long), MASK, is_fixed, torch.Generator().manual_seed(0))
    assert (inputs[:, 0] == 0).all()
    assert sorted((inputs == MASK).sum(dim=1).unique().tolist()) == [1, 2]


@torch.no_grad()
def test_each_place_sees_both_sides():
    model = random_model()
    ids = torch.tensor([[0, MASK, 1]])
    for place in (0, 2):
        changed = ids.clone()
        changed[0, place] = 2
        assert not torch.allclose(model(ids)[0, 1], model(changed)[0, 1])


# a model and its tokenizer


@pytest.fixture
def text_lm():
    tokenizer = Tokenizer.from_text("abcdefghijklmnopqrstuvwxyz \n")
    config = MaskedDiffusionConfig(len(tokenizer), 48, 16, 16, 1, 2)
    return TextDiffusion(randomized(MaskedDiffusion(config)), tokenizer)


@pytest.fixture
def line_lm():
    tokenizer = Tokenizer.from_text("abcdefghijklmnopqrstuvwxyz\n")
    config = MaskedDiffusionConfig(len(tokenizer), 9, 16, 16, 1, 2, tokenizer.start_id)
    return TextDiffusion(randomized(MaskedDiffusion(config)), tokenizer)


def test_folder_opens_as_the_same_model(text_lm, tmp_path):
    save(tmp_path, text_lm.model, text_lm.tokenizer)
    lm = load(tmp_path)
    assert type(lm) is TextDiffusion
    assert lm.model.config == text_lm.model.config
    params = UnmaskingParams(8, seed=3)
    assert lm.generate("ab", params) == text_lm.generate("ab", params)
    assert lm.fingerprint("some text") == text_lm.fingerprint("some text")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_size", 18, "a hidden_size of 18 does not divide into 2 heads of an even size"),
        ("context_length", 0, "context_length is 0; it must be a whole number from 1"),
        ("num_hidden_layers", None, "num_hidden_layers is None"),
        ("eos_token_id", 99, "eos_token_id is 99"),
        ("vocab_size", 12, "tokens, config.json says 12"),
    ],
)
def test_damaged_config_is_one_sentence(text_lm, tmp_path, name, value, message):
    save(tmp_path, text_lm.model, text_lm.tokenizer)
    path = tmp_path / "config.json"
    old = f'"{name}": {"null" if text_lm.model.config.to_dict()[name] is None else text_lm.model.config.to_dict()[name]}'
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, f'"{name}": {"null" if value is None else value}'))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_prompt_stays_and_length_is_that_asked_for(text_lm):
    assert len(text_lm.generate("abc", UnmaskingParams(5, seed=1), 20)) == 20
    assert len(text_lm.generate("abc", UnmaskingParams(5, seed=1))) == 45
    canvas = text_lm.canvas("abc", 3)
    assert canvas == [*text_lm.tokenizer.encode("abc").ids, None, None, None]


def test_long_prompt_loses_its_beginning(text_lm):
    prompt = "abcdefghij" * 9
    canvas = text_lm.canvas(prompt, 20)
    assert canvas == [*text_lm.tokenizer.encode(prompt[-28:]).ids, *[None] * 20]


@pytest.mark.parametrize("length", [0, 49])
def test_length_out_of_range_is_an_error(text_lm, length):
    with pytest.raises(ValueError, match=f"length is {length}; it must be a whole number from 1 to 48"):
        text_lm.canvas("", length)


def test_too_many_tokens_are_an_error(text_lm):
    with pytest.raises(ValueError, match="the text has 49 tokens; this model sees up to 48 at once"):
        list(text_lm.unmask([None] * 49))


def test_lines_end_at_their_first_end_token(line_lm):
    end = line_lm.eos_token_id
    ids = [end, *line_lm.tokenizer.encode("abc").ids, end, *line_lm.tokenizer.encode("de").ids, end, end]
    assert line_lm.decode(ids) == "abc"
    assert line_lm.decode([end, *line_lm.tokenizer.encode("abcdefgh").ids]) == "abcdefgh"
    lines = line_lm.sample(20, 1)
    assert len(lines) == 20
    assert all(len(line) <= 8 and "\n" not in line for line in lines)
    assert line_lm.sample(1, 4) == [line_lm.sample(5, 0)[4]]


def test_gap_of_more_underscores_has_that_many_characters(text_lm):
    filling = text_lm.fill("ab ______ cd ____ ef", UnmaskingParams(seed=1))
    assert filling.spans == [(3, 9), (13, 17)]
    assert len(filling.text) == 20
    assert (filling.text[:3], filling.text[9:13], filling.text[17:]) == ("ab ", " cd ", " ef")


def test_model_chooses_the_length_of_a_gap_of_three_underscores(text_lm):
    canvases, _ = text_lm.gaps("ab ___ cd")
    assert [len(canvas) for canvas in canvases] == [6 + length for length in GAP_LENGTHS]
    params = UnmaskingParams(8, seed=1)
    filling = text_lm.fill("ab ___ cd", params)
    costs = {len(c): text_lm._mean_nll(list(text_lm.unmask(c, params))) for c in canvases}
    assert len(filling.text) == min(costs, key=costs.get)
    assert (filling.text[:3], filling.text[-3:]) == ("ab ", " cd")


def test_lengths_that_do_not_fit_are_not_tried(text_lm):
    canvases, _ = text_lm.gaps("___" + "a" * 30)
    assert [len(canvas) for canvas in canvases] == [34, 38, 42, 46]
    with pytest.raises(ValueError, match="the text is too long; with its gaps it may have 48 characters"):
        text_lm.gaps("___" + "a" * 45)


def test_unknown_characters_of_a_text_with_gaps_are_reported(text_lm):
    filling = text_lm.fill("aé ____ bé!", UnmaskingParams(seed=1))
    assert filling.unknown_chars == "é!"
    assert (filling.text[:2], filling.text[-2:]) == ("a ", " b")


def test_gap_in_a_line(line_lm):
    filling = line_lm.fill("a____b", UnmaskingParams(seed=1))
    assert filling.canvas[0] == filling.canvas[-1] == line_lm.eos_token_id
    assert filling.text.startswith("a")


def test_each_token_is_judged_while_it_is_hidden(text_lm):
    text = "abcdefghijklm"
    before, after = text_lm.proofread(text), text_lm.proofread(f"{text[:5]}z{text[6:]}")
    assert torch.equal(before.logits[5], after.logits[5])  # it does not depend on the token itself
    assert not torch.equal(before.logits[6], after.logits[6])
    logprobs = before.logits.double().log_softmax(-1)
    assert before.nll == pytest.approx([-logprobs[i, token].item() for i, token in enumerate(before.token_ids)])
    hidden = torch.tensor([before.token_ids]).clone()
    hidden[0, 5::8] = text_lm.model.mask_id
    assert torch.allclose(text_lm.denoise(hidden)[0, 5], before.logits[5], atol=1e-5)


def test_long_text_is_read_in_parts(text_lm):
    text = "the quick brown fox jumps over the lazy dog " * 4
    whole = text_lm.proofread(text)
    assert len(whole.nll) == len(text)
    assert torch.allclose(whole.logits[:20], text_lm.proofread(text[:48]).logits[:20], atol=1e-5)
    assert torch.allclose(whole.logits[-10:], text_lm.proofread(text[-(len(text) - 5 * 24) :]).logits[-10:], atol=1e-5)


def test_nothing_to_proofread_is_an_error(text_lm, line_lm):
    with pytest.raises(ValueError, match="it has no character that this model knows"):
        text_lm.proofread("!!!")
    with pytest.raises(ValueError, match="passes is 1; it must be 2 or more"):
        text_lm.proofread("abc", 1)
    with pytest.raises(ValueError, match="this model reads one line of up to 8 characters"):
        line_lm.proofread("abcdefghi")
    with pytest.raises(ValueError, match="this model reads one line"):
        line_lm.proofread("ab\ncd")


def test_line_is_proofread_with_its_end_in_view(line_lm):
    assert len(line_lm.proofread("abc").nll) == 3
    assert all(map(math.isfinite, line_lm.fingerprint("\nabc")))
