import math
from itertools import islice

import pytest
import torch

from gpt import Bigram, BigramConfig, LanguageModel, SamplingParams, Tokenizer
from gpt.generation import CHUNK
from gpt.models.base import CausalLM
from gpt.sampling import sampling_probs

PARAMS = SamplingParams(temperature=0.7, top_k=20, top_p=0.95, max_new_tokens=40, seed=7)


@pytest.fixture
def calls(lm):
    """The shape of the ids of every call of the model, which computes each token itself."""
    shapes = []
    lm.engine = "PyTorch"
    lm.model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


def test_steps_and_generation_tell_the_same(lm):
    steps, whole = list(lm.stream("Both ", PARAMS)), lm.generate("Both ", PARAMS)
    assert whole.text == "".join(step.text for step in steps)
    assert whole.token_ids == [step.token_id for step in steps]
    assert whole.logprobs == [step.logprob for step in steps]
    assert whole.text == lm.tokenizer.decode(whole.token_ids)
    assert len(whole.text) == 40


def test_the_prompt_is_not_repeated(lm):
    greedy = lm.generate("The", SamplingParams(temperature=0, max_new_tokens=5))
    more = lm.generate("The" + greedy.text[:2], SamplingParams(temperature=0, max_new_tokens=3))
    assert more.text == greedy.text[2:]


def test_probabilities_of_a_step(lm):
    read = lm.tokenizer.encode("Both ").ids
    for step in lm.stream("Both ", PARAMS):
        logits = lm.model(torch.tensor([read]))[0][0, -1]
        torch.testing.assert_close(step.probs, logits.softmax(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(step.sampling_probs, sampling_probs(logits, PARAMS), atol=1e-4, rtol=0)
        assert step.logprob == pytest.approx(math.log(step.probs[step.token_id]), abs=1e-4)
        assert step.sampling_probs[step.token_id] > 0
        assert step.text == lm.tokenizer.decode([step.token_id])
        read.append(step.token_id)


def test_temperature_zero_writes_the_likeliest_whatever_the_seed(lm):
    texts = {lm.generate("Both ", SamplingParams(temperature=0, seed=seed)).text for seed in (1, 2, None)}
    assert len(texts) == 1
    for step in islice(lm.stream("Both ", SamplingParams(temperature=0)), 20):
        assert step.token_id == step.probs.argmax()


def test_no_new_tokens_is_an_empty_stream(lm, calls):
    none = SamplingParams(max_new_tokens=0)
    assert list(lm.stream("Both", none)) == []
    assert list(lm.stream_batch(["Both", ""], [none, none])) == []
    assert list(lm.stream_batch([], [])) == []
    generation = lm.generate("Both", none)
    assert (generation.text, generation.token_ids, generation.logprobs) == ("", [], [])
    assert calls == []


def test_an_empty_prompt_starts_on_a_new_line(lm):
    assert lm.generate("", PARAMS) == lm.generate("\n", PARAMS)


def test_unseen_characters_of_a_prompt_are_told_and_left_out(lm):
    odd, plain = lm.generate("~Bo=th~ ", PARAMS), lm.generate("Both ", PARAMS)
    assert odd.unknown_chars == "~="
    assert plain.unknown_chars == ""
    assert odd.text == plain.text
    assert lm.generate("~=", PARAMS).text == lm.generate("", PARAMS).text


def test_the_seed_that_was_drawn_writes_the_text_again(lm):
    one, other = lm.generate("Both"), lm.generate("Both")
    assert one.seed != other.seed
    assert one.text != other.text
    assert lm.generate("Both", SamplingParams(seed=one.seed)).text == one.text


def test_a_seed_stays_in_step_under_any_settings():
    # With every token alike, the same uniform numbers give the same tokens whether or not a filter looks.
    model = Bigram(BigramConfig(5))
    lm = LanguageModel(model, Tokenizer.from_text("abcd"))
    plain, filtered = SamplingParams(temperature=1, seed=3), SamplingParams(temperature=5, top_k=2, min_p=0.9, seed=3)
    assert lm.generate("a", plain).text == lm.generate("a", filtered).text


def test_a_token_is_computed_when_it_is_asked_for(lm, calls):
    stream = lm.stream("Both", PARAMS)
    assert calls == []
    next(stream)
    assert calls == [(1, 4)]
    next(stream)
    next(stream)
    assert calls == [(1, 4), (1, 1), (1, 1)]


def test_a_long_prompt_is_read_in_chunks_and_gives_the_same(lm, calls, text):
    prompt = (text * 3)[: CHUNK * 2 + 9]
    step = next(lm.stream(prompt, PARAMS))
    assert calls == [(1, CHUNK), (1, CHUNK), (1, 9)]
    logits = lm.model(torch.tensor([lm.tokenizer.encode(prompt).ids]))[0]
    torch.testing.assert_close(step.probs, logits[0, -1].softmax(-1), atol=1e-4, rtol=0)


def test_the_last_token_is_not_read_in_vain(lm, calls):
    list(lm.stream("Both", SamplingParams(max_new_tokens=3)))
    assert calls == [(1, 4), (1, 1), (1, 1)]


def test_prompts_and_parameters_must_pair_up(lm):
    with pytest.raises(ValueError, match="2 prompts came with 1 sets of parameters"):
        lm.stream_batch(["a", "b"], [PARAMS])


def test_score_by_hand():
    # After a new line: a or b alike; after a: b three times in four.
    lm = LanguageModel(Bigram(BigramConfig(3)), Tokenizer.from_text("ab"))
    with torch.no_grad():
        lm.model.logits.copy_(torch.tensor([[0, 0.5, 0.5], [0, 0.25, 0.75], [1, 0, 0]]).log())
    score = lm.score("a~b")
    assert score.tokens == ["a", "b"]
    assert score.nats == pytest.approx([math.log(2), math.log(4 / 3)])
    assert score.bits_per_character == pytest.approx((1 + math.log2(4 / 3)) / 2)
    assert score.unknown_chars == "~"


def test_score_of_a_long_text_agrees_with_one_forward(lm, text):
    long = (text * 3)[: CHUNK * 2 + 9]
    ids = lm.tokenizer.encode(long).ids
    logprobs = lm.model(torch.tensor([[lm.tokenizer.start_id, *ids[:-1]]]))[0][0].detach().log_softmax(-1)
    expected = [-float(row[i]) for row, i in zip(logprobs, ids, strict=True)]
    score = lm.score(long)
    assert "".join(score.tokens) == long
    assert score.nats == pytest.approx(expected, abs=1e-4)
    assert score.bits_per_character == pytest.approx(sum(expected) / len(long) / math.log(2), abs=1e-4)


@pytest.mark.parametrize("nothing", ["", "~=~"])
def test_nothing_to_score_is_an_error(lm, nothing):
    with pytest.raises(ValueError, match="there is nothing to score in"):
        lm.score(nothing)


def test_facts_of_a_model(lm):
    assert lm.window == 16
    assert lm.parameters == sum(tensor.numel() for tensor in lm.model.state_dict().values())
    assert lm.name == "tiny"


def test_writing_takes_no_gradient(lm):
    step = next(lm.stream("Both", PARAMS))
    assert not step.probs.requires_grad
    assert all(p.grad is None for p in lm.model.parameters())


# Tokens that are pieces of words, or parts of a character


class Scripted(CausalLM):
    """Writes the ids of a script, whatever it reads. Its state is how many it wrote."""

    def __init__(self, script, vocab_size):
        super().__init__()
        self.script, self.vocab_size, self.window, self.config = script, vocab_size, 1, BigramConfig(vocab_size)

    def forward(self, ids, state=None):
        logits = torch.full((*ids.shape, self.vocab_size), -20.0)
        logits[..., self.script[state or 0]] = 20.0
        return logits, (state or 0) + 1


def written(tokenizer, script):
    """The texts of the steps of a model that writes these ids, and the whole."""
    lm = LanguageModel(Scripted(script, len(tokenizer)), tokenizer)
    params = SamplingParams(temperature=0, max_new_tokens=len(script))
    whole = lm.generate("", params)
    assert whole.token_ids == script
    steps = [step.text for step in lm.stream("", params)]
    assert whole.text == "".join(steps)
    return steps, whole.text


@pytest.mark.parametrize("script", ["👨\u200d👩\u200d👧", " the 日本語", "e\u0301 ünï👍🏽\n", "é\ufffdé", "   two  spaces"])
def test_no_step_shows_a_part_of_a_character(bpe, script):
    ids = bpe.encode(script).ids
    steps, whole = written(bpe, ids)
    assert whole == bpe.decode(ids) == script
    assert all(step in script for step in steps)
    assert ("" in steps) == (not script.isascii())


def test_a_character_that_a_text_ends_in_the_middle_of_is_not_shown(bpe):
    ids = bpe.encode("the 👍").ids
    for missing in (1, 2, 3):
        assert written(bpe, ids[:-missing])[1] == "the "


def test_bytes_that_are_no_character_are_shown_as_such(bpe):
    ids = [*bpe.encode("a👍").ids[:3], *bpe.encode("b").ids]
    assert written(bpe, ids)[1] == bpe.decode(ids) == "a\ufffdb"


def test_score_of_tokens_that_are_more_or_less_than_a_character(bpe, make_gpt):
    lm = LanguageModel(make_gpt(vocab_size=len(bpe)), bpe)
    text = "Both walked past the 👍"
    score, ids = lm.score(text), bpe.encode(text).ids
    assert score.tokens == [bpe.decode([i]) for i in ids]
    assert score.tokens[-4:] == ["\ufffd"] * 4
    assert len(score.nats) == len(ids) < len(text)
    assert score.bits_per_character == pytest.approx(sum(score.nats) / math.log(2) / len(text))


@pytest.mark.parametrize("engine", ["C", "PyTorch"])
def test_rows_of_pieces_of_words_write_what_each_writes_alone(bpe, make_gpt, engine):
    lm = LanguageModel(make_gpt(vocab_size=len(bpe)), bpe)
    lm.engine = engine
    prompts = ["", "Both walked", "日本", "past the mill's wheel"]
    params = [SamplingParams(seed=seed, max_new_tokens=30 + 7 * seed) for seed in range(4)]
    rows = zip(*lm.stream_batch(prompts, params), strict=True)
    texts = ["".join(step.text for step in row if step) for row in rows]
    assert texts == [lm.generate(prompt, p).text for prompt, p in zip(prompts, params, strict=True)]
