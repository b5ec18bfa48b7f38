import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from gpt import BatchGenerator, Bigram, BigramConfig, LanguageModel, SamplingParams, Tokenizer
from gpt.generation import PREFILL_CHUNK, describe_context
from gpt.models.base import UNBOUNDED_CONTEXT, CausalLM, EmptyState
from gpt.sampling import sample_from_probs, sampling_probs

PARAMS = SamplingParams(temperature=0.7, top_k=20, top_p=0.95, max_new_tokens=40, seed=7)


@pytest.fixture
def calls(lm):
    """The shape of the ids of each call of the model, computed by PyTorch."""
    shapes = []
    lm.engine = "PyTorch"
    lm.model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    return shapes


def test_stream_and_generate_agree(lm):
    steps, generation = list(lm.stream("Both ", PARAMS)), lm.generate("Both ", PARAMS)
    assert generation.text == "".join(step.text for step in steps)
    assert generation.token_ids == [step.token_id for step in steps]
    assert generation.logprobs == [step.logprob for step in steps]
    assert generation.text == lm.tokenizer.decode(generation.token_ids)
    assert len(generation.text) == 40


def test_text_continues_the_prompt_without_repeating_it(lm):
    text = lm.generate("The", SamplingParams(temperature=0, max_new_tokens=5)).text
    assert lm.generate("The" + text[:2], SamplingParams(temperature=0, max_new_tokens=3)).text == text[2:]


def test_probabilities_of_each_step(lm):
    ids = lm.tokenizer.encode("Both ").ids
    for step in lm.stream("Both ", PARAMS):
        logits = lm.model(torch.tensor([ids]))[0][0, -1].detach()
        torch.testing.assert_close(step.probs, logits.softmax(-1), atol=1e-5, rtol=0)
        torch.testing.assert_close(step.sampling_probs, sampling_probs(logits, PARAMS), atol=1e-4, rtol=0)
        assert step.logprob == pytest.approx(math.log(step.probs[step.token_id]), abs=1e-4)
        assert step.sampling_probs[step.token_id] > 0
        assert step.text == lm.tokenizer.decode([step.token_id])
        assert not step.probs.requires_grad
        ids.append(step.token_id)


def test_temperature_zero_takes_the_most_probable_token_for_any_seed(lm):
    texts = {lm.generate("Both ", SamplingParams(temperature=0, seed=seed)).text for seed in (1, 2, None)}
    assert len(texts) == 1
    for step in islice(lm.stream("Both ", SamplingParams(temperature=0)), 20):
        assert step.token_id == step.probs.argmax()


def test_zero_new_tokens_need_no_computation(lm, calls):
    params = SamplingParams(max_new_tokens=0)
    assert list(lm.stream("Both", params)) == []
    assert list(lm.stream_batch(["Both", ""], [params, params])) == []
    assert list(lm.stream_batch([], [])) == []
    generation = lm.generate("Both", params)
    assert (generation.text, generation.token_ids, generation.logprobs) == ("", [], [])
    assert calls == []


def test_empty_prompt_starts_after_a_newline(lm):
    assert lm.generate("", PARAMS) == lm.generate("\n", PARAMS)


def test_unknown_characters_of_a_prompt_are_skipped_and_reported(lm):
    generation = lm.generate("~Bo=th~ ", PARAMS)
    assert generation.unknown_chars == "~="
    assert generation.text == lm.generate("Both ", PARAMS).text
    assert lm.generate("~=", PARAMS).text == lm.generate("", PARAMS).text


def test_prompt_is_lower_cased_where_the_vocabulary_has_no_capitals():
    tokenizer = Tokenizer.from_text("abc")
    lm = LanguageModel(Bigram(BigramConfig(len(tokenizer))).fit_counts(torch.tensor([1, 2, 3, 1]), 0.1), tokenizer)
    assert lm.generate("AB", PARAMS) == lm.generate("ab", PARAMS)
    assert lm.generate("AB", PARAMS).unknown_chars == ""
    assert lm.score("AB") == lm.score("ab")


def test_random_seed_is_reported_and_repeats_the_text(lm):
    first, second = lm.generate("Both"), lm.generate("Both")
    assert first.seed != second.seed
    assert first.text != second.text
    assert lm.generate("Both", SamplingParams(seed=first.seed)).text == first.text


def test_seed_uses_one_number_for_each_token_with_any_filters():
    # All tokens are equally probable, so the same uniform numbers give the same tokens with and without filters.
    lm = LanguageModel(Bigram(BigramConfig(5)), Tokenizer.from_text("abcd"))
    plain, filtered = SamplingParams(temperature=1, seed=3), SamplingParams(temperature=5, top_k=2, min_p=0.9, seed=3)
    assert lm.generate("a", plain).text == lm.generate("a", filtered).text


@pytest.mark.parametrize("engine", ["C", "PyTorch"])
def test_forced_token_is_given_and_the_text_goes_on_from_it(lm, engine):
    lm.engine = engine
    plain = lm.generate("Both ", PARAMS)
    other = (plain.token_ids[10] + 1) % len(lm.tokenizer)
    branch = lm.generate("Both ", replace(PARAMS, forced=((10, other),)))
    assert branch.token_ids[:10] == plain.token_ids[:10]
    assert branch.token_ids[10] == other
    assert len(branch.token_ids) == 40
    # The rest is what the text with the forced token has, chosen by the same random numbers.
    numbers = torch.rand(40, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for step, number in list(zip(lm.stream("Both ", replace(PARAMS, forced=((10, other),))), numbers, strict=True))[11:]:
        assert step.token_id == sample_from_probs(step.sampling_probs, number)
    # Forcing what the model would take anyway changes nothing.
    assert lm.generate("Both ", replace(PARAMS, forced=((10, plain.token_ids[10]),))).token_ids == plain.token_ids


def test_forced_token_outside_the_vocabulary_is_refused(lm):
    with pytest.raises(ValueError, match="the forced token 999 does not exist; ids go from 0 to"):
        lm.generate("Both ", replace(PARAMS, forced=((0, 999),)))


def test_forced_tokens_of_one_sequence_leave_the_others_of_its_batch_alone(lm):
    forced = replace(PARAMS, forced=((2, 3), (5, 4)))
    steps = list(lm.stream_batch(["A", "A"], [PARAMS, forced]))
    for i, params in enumerate((PARAMS, forced)):
        assert [step[i].token_id for step in steps] == lm.generate("A", params).token_ids


def test_tokens_are_computed_on_demand(lm, calls):
    stream = lm.stream("Both", SamplingParams(max_new_tokens=3))
    assert calls == []
    next(stream)
    assert calls == [(1, 4)]
    assert len(list(stream)) == 2
    assert calls == [(1, 4), (1, 1), (1, 1)]  # the last token is not read


def test_long_prompt_is_read_in_chunks(lm, calls, text):
    prompt = (text * 3)[: PREFILL_CHUNK * 2 + 9]
    sequence = lm.prefill(prompt, PARAMS)
    assert calls == [(1, PREFILL_CHUNK), (1, PREFILL_CHUNK), (1, 9)]
    logits = lm.model(torch.tensor([lm.tokenizer.encode(prompt).ids]))[0][0, -1].detach()
    torch.testing.assert_close(sequence.logits, logits, atol=1e-4, rtol=0)
    assert sequence.logits.untyped_storage().nbytes() == sequence.logits.nbytes  # it does not keep those of the chunk


def test_each_prompt_needs_parameters(lm):
    with pytest.raises(ValueError, match="2 prompts came with 1 sets of parameters"):
        lm.stream_batch(["a", "b"], [PARAMS])


def test_unknown_engine_is_rejected(lm):
    with pytest.raises(ValueError, match="the engine is 'Rust'; it must be one of C, PyTorch"):
        lm.engine = "Rust"


def test_attributes_of_a_language_model(lm):
    assert lm.context_length == 16
    assert lm.context_description == "the last 16 characters"
    assert lm.num_parameters == sum(tensor.numel() for tensor in lm.model.state_dict().values())
    assert lm.name == "tiny"


def test_context_is_described():
    assert describe_context(1, "character", False) == "the last character"
    assert describe_context(6, "character", True) == "the last 6 characters"  # also where a document is a line
    assert describe_context(UNBOUNDED_CONTEXT, "token", True) == "the line so far"
    assert describe_context(UNBOUNDED_CONTEXT, "token", False) == "everything before it"


def test_removed_sequence_can_join_another_batch_after_its_document_ended():
    """A batch that it left must not write to its state."""
    tokenizer = Tokenizer.from_text("ab")
    lm = LanguageModel(Recorder(len(tokenizer)), tokenizer)
    first, second = BatchGenerator(lm), BatchGenerator(lm)
    one, other = (lm.prefill("a", SamplingParams(seed=seed, max_new_tokens=50)) for seed in (0, 1))
    first.insert(one)
    first.insert(other)
    # Until `one` starts a new document while both are merged.
    while len(first._merged) < 2 or one.state is None or other.state is not None:
        first.step()
    first.remove(one)
    second.insert(one)
    second.insert(lm.prefill("a", SamplingParams(seed=2, max_new_tokens=50)))
    while one.state is not None:  # until it is merged into the second batch
        second.step()
    first.step()
    first.remove(other)
    assert one.state is None


class Recorder(CausalLM):
    """Ends a document half of the time. Its state counts the tokens since then."""

    def __init__(self, vocab_size):
        super().__init__()
        self.config, self.context_length = BigramConfig(vocab_size, 0), 1

    def forward(self, ids, state=None):
        logits = torch.zeros((*ids.shape, self.config.vocab_size))
        logits[..., 0] = 0.7
        return logits, Count(torch.ones(len(ids), 1) if state is None else state.tokens + 1)


class Count:
    def __init__(self, tokens):
        self.tokens = tokens

    @classmethod
    def merge(cls, states):
        return cls(torch.cat([state.tokens for state in states]))

    def extract(self, i):
        return Count(self.tokens[i : i + 1].clone())


# Scores


def test_score_by_hand():
    # After a newline: a or b with 1/2 each; after a: b with 3/4.
    lm = LanguageModel(Bigram(BigramConfig(3)), Tokenizer.from_text("ab"))
    with torch.no_grad():
        lm.model.logits.copy_(torch.tensor([[0, 0.5, 0.5], [0, 0.25, 0.75], [1, 0, 0]]).log())
    score = lm.score("a~b")
    assert score.tokens == ["a", "b"]
    assert score.nll == pytest.approx([math.log(2), math.log(4 / 3)])
    assert score.bits_per_character == pytest.approx((1 + math.log2(4 / 3)) / 2)
    assert score.unknown_chars == "~"


def test_score_of_a_long_text_agrees_with_one_forward(lm, text):
    long = (text * 3)[: PREFILL_CHUNK * 2 + 9]
    ids = lm.tokenizer.encode(long).ids
    logprobs = lm.model(torch.tensor([[lm.tokenizer.start_id, *ids[:-1]]]))[0][0].detach().log_softmax(-1)
    expected = [-float(row[i]) for row, i in zip(logprobs, ids, strict=True)]
    score = lm.score(long)
    assert "".join(score.tokens) == long
    assert score.nll == pytest.approx(expected, abs=1e-4)
    assert score.bits_per_character == pytest.approx(sum(expected) / len(long) / math.log(2), abs=1e-4)


@pytest.mark.parametrize("unknown", ["", "~=~"])
def test_text_without_known_characters_cannot_be_scored(lm, unknown):
    with pytest.raises(ValueError, match="there is nothing to score in"):
        lm.score(unknown)


@pytest.mark.parametrize("text", ["ab", "ab|", "ab|ba", "ab|ba|", "|", "||", "a||b"])
def test_end_token_that_is_not_the_newline_separates_documents(make_gpt, text):
    """Each document is read from the end token of the one before it, whichever token that is."""
    tokenizer = Tokenizer.from_text("ab|")
    eos = tokenizer.vocab["|"]
    assert eos != tokenizer.start_id
    lm = LanguageModel(make_gpt(vocab_size=len(tokenizer), eos_token_id=eos), tokenizer)
    expected = []
    for document in text.split("|"):
        ids = [eos, *tokenizer.encode(document + "|").ids]
        logprobs = lm.model(torch.tensor([ids[:-1]]))[0][0].detach().log_softmax(-1)
        expected += [-float(row[i]) for row, i in zip(logprobs, ids[1:], strict=True)]
    score = lm.score(text)
    assert "".join(score.tokens) == text
    assert score.nll == pytest.approx(expected[: len(text)], abs=1e-4)  # the end of an unfinished document is not scored


def test_prompt_is_read_from_its_last_end_token(make_gpt):
    tokenizer = Tokenizer.from_text("ab|")
    lm = LanguageModel(make_gpt(vocab_size=len(tokenizer), eos_token_id=tokenizer.vocab["|"]), tokenizer)
    params = SamplingParams(seed=1, max_new_tokens=30)
    assert lm.generate("a|b", params).text == lm.generate("b", params).text
    assert lm.generate("a|", params).text == lm.generate("", params).text
    generation = lm.generate("", params)
    assert "|" in generation.text
    assert [-nll for nll in lm.score(generation.text).nll] == pytest.approx(generation.logprobs, abs=1e-4)


# Tokens that are parts of words or of characters


class Scripted(CausalLM):
    """Predicts the ids of a script for any input."""

    def __init__(self, script, vocab_size):
        super().__init__()
        self.script, self.context_length, self.config = iter(script), 1, BigramConfig(vocab_size)

    def forward(self, ids, state=None):
        logits = torch.full((*ids.shape, self.config.vocab_size), -20.0)
        logits[..., next(self.script)] = 20.0
        return logits, EmptyState()


def step_texts(tokenizer, script):
    """The text of each step of a model that generates these ids."""
    lm = LanguageModel(Scripted(script, len(tokenizer)), tokenizer)
    steps = list(lm.stream("", SamplingParams(temperature=0, max_new_tokens=len(script))))
    assert [step.token_id for step in steps] == script
    return [step.text for step in steps]


@pytest.mark.parametrize("odd", ["👨\u200d👩\u200d👧", " the 日本語", "e\u0301 ünï👍🏽\n", "é\ufffdé", "   two  spaces"])
def test_step_never_shows_a_part_of_a_character(bpe, odd):
    steps = step_texts(bpe, bpe.encode(odd).ids)
    assert "".join(steps) == odd
    assert all(step in odd for step in steps)
    assert ("" in steps) == (not odd.isascii())


def test_incomplete_character_at_the_end_is_not_shown(bpe):
    ids = bpe.encode("the 👍").ids
    for missing in (1, 2, 3):
        assert "".join(step_texts(bpe, ids[:-missing])) == "the "


def test_invalid_bytes_are_shown_as_replacement_characters(bpe):
    ids = [*bpe.encode("a👍").ids[:3], *bpe.encode("b").ids]
    assert "".join(step_texts(bpe, ids)) == bpe.decode(ids) == "a\ufffdb"


def test_bits_per_character_do_not_depend_on_the_tokens(bpe, make_gpt):
    lm = LanguageModel(make_gpt(vocab_size=len(bpe)), bpe)
    text = "Both walked past the 👍"
    score, ids = lm.score(text), bpe.encode(text).ids
    assert score.tokens == [bpe.decode([i]) for i in ids]
    assert score.tokens[-4:] == ["\ufffd"] * 4
    assert len(score.nll) == len(ids) < len(text)
    assert score.bits_per_character == pytest.approx(sum(score.nll) / math.log(2) / len(text))


@pytest.mark.parametrize("engine", ["C", "PyTorch"])
def test_batch_of_byte_level_texts_equals_single_ones(bpe, make_gpt, engine):
    lm = LanguageModel(make_gpt(vocab_size=len(bpe)), bpe)
    lm.engine = engine
    prompts = ["", "Both walked", "日本", "past the mill's wheel"]
    params = [SamplingParams(seed=seed, max_new_tokens=30 + 7 * seed) for seed in range(4)]
    batch = zip(*lm.stream_batch(prompts, params), strict=True)
    texts = ["".join(step.text for step in steps if step) for steps in batch]
    assert texts == [lm.generate(prompt, p).text for prompt, p in zip(prompts, params, strict=True)]
