"""The lessons: how their files are parsed, and that what they say about the models is true."""

import json
import math
import re
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import torch
import torch.nn.functional as F
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gpt import SamplingParams
from gpt.models.registry import MODEL_REGISTRY
from train.data import load_dataset, pad_documents
from ui.families import replay
from ui.lessons import FOLDER, LessonError, list_lessons, load_lessons, parse_lesson, routes
from ui.model_registry import default_model, get_model
from ui.session import GenerationRequest

TABS = {"write", "compare", "score", "inside", "learn", "train", "all-at-once", "families", "turn", "morph"}
STEPS = [(lesson.number, i, step) for lesson in load_lessons() for i, step in enumerate(lesson.steps, start=1)]
PLAIN = """\
---
title: A title
minutes: 3
outcome: What you know.
---

Introduction with **bold** text.

## First

Some text.

[Show me](?model=bigram-shakespeare&prompt=a%20b&at=0)

Which one?

- [ ] no `code`
- [x] yes

Because.
"""


# Parsing


def test_lesson_is_parsed():
    lesson = parse_lesson(PLAIN, "4-some.md")
    assert (lesson.number, lesson.title, lesson.minutes, lesson.outcome) == (4, "A title", 3, "What you know.")
    assert lesson.intro_html == "<p>Introduction with <strong>bold</strong> text.</p>\n"
    (step,) = lesson.steps
    assert (step.title, step.html, step.question_html) == ("First", "<p>Some text.</p>\n", "Which one?")
    assert (step.label, step.query) == ("Show me", "model=bigram-shakespeare&prompt=a%20b&at=0")
    assert [(option.html, option.correct) for option in step.options] == [("no <code>code</code>", False), ("yes", True)]
    assert step.answer_html == "<p>Because.</p>\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("---\ntitle", "title", 1, "between two lines"),
        ("minutes: 3\n", "", 1, "title, minutes and outcome"),
        ("minutes: 3", "minutes: three", 1, "a whole number"),
        ("title: A title", "title: [A", 3, "not YAML"),
        ("## First", "### First", 9, "a step starts with"),
        ("[Show me]", "Text [Show me]", 9, "and has 0"),
        ("Some text.", "[One](?prompt=a)", 9, "and has 2"),
        ("- [ ] no `code`\n- [x] yes\n", "", 9, "one list of answers"),
        ("- [x] yes", "- yes", 18, "starts with"),
        ("- [x] yes", "- [x] yes\n- [x] also", 17, "exactly one"),
        ("- [ ] no `code`\n", "", 17, "two or more"),
        ("- [x] yes", "- [ ] yes", 17, "exactly one"),
        ("Which one?\n\n", "", 15, "is the question"),
        ("\nBecause.\n", "", 17, "a text after"),
        ("Some text.", "See [this](javascript:alert(1)).", 11, "a link leads to"),
        ("Some text.", "See [this](http://example.org).", 11, "a link leads to"),
        ("Because.", "![a picture](https://example.org/a.png)\n\n[x](data:text/html,1)", 22, "a link leads to"),
    ],
)
def test_malformed_lesson_is_one_sentence_with_file_and_line(old, new, line, words):
    assert old in PLAIN
    with pytest.raises(LessonError, match=words) as error:
        parse_lesson(PLAIN.replace(old, new), "1-some.md")
    assert str(error.value).startswith(f"1-some.md, line {line}: ")
    assert "\n" not in str(error.value)


def test_lesson_needs_a_step_and_a_number():
    with pytest.raises(LessonError, match="line 6: there is no step"):
        parse_lesson(PLAIN[: PLAIN.index("## First")], "1-some.md")
    with pytest.raises(LessonError, match="starts with its number"):
        parse_lesson(PLAIN, "some.md")


def test_html_in_a_lesson_is_text():
    hostile = '<img src=x onerror="alert(1)"> <script>alert(1)</script>'
    lesson = parse_lesson(PLAIN.replace("Some text.", hostile).replace("yes", hostile).replace("Because.", hostile), "1-some.md")
    (step,) = lesson.steps
    for html in (step.html, step.options[1].html, step.answer_html):
        assert "<img" not in html
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_link_to_another_site_opens_a_tab_of_its_own():
    lesson = parse_lesson(PLAIN.replace("Because.", "See [a page](https://example.org/)."), "1-some.md")
    assert '<a href="https://example.org/" target="_blank" rel="noopener">a page</a>' in lesson.steps[0].answer_html


def test_endpoint_sends_all_lessons():
    with TestClient(Starlette(routes=routes())) as client:
        answer = client.get("/page/lessons")
    assert answer.status_code == 200
    assert answer.json() == list_lessons()
    assert [lesson["number"] for lesson in answer.json()["lessons"]] == list(range(1, 9))


def test_the_guide_for_teachers_shows_a_lesson_that_works():
    example = (FOLDER / "README.md").read_text(encoding="utf-8").split("```")[1].removeprefix("markdown\n")
    assert len(parse_lesson(example, "9-my-lesson.md").steps) == 1


# Links


@pytest.mark.parametrize(("number", "index", "step"), STEPS, ids=[f"{n}.{i}" for n, i, _ in STEPS])
def test_link_of_a_step_can_be_shown(number, index, step):
    request = GenerationRequest.from_query(step.query, default_model().id)
    values = {name: value for name, (value,) in parse_qs(step.query, keep_blank_values=True, strict_parsing=True).items()}
    names = {"tab", "model", "models", "prompt", "seed", "length", "temperature", "top_k", "top_p", "min_p", "at", "passage"}
    assert values.keys() <= names
    assert values.get("tab", "write") in TABS
    for model in values.get("models", request.model).split(","):
        get_model(model)
    if "at" in values:
        assert int(values["at"]) < int(values["length"])
    if "prompt" in values:
        assert not get_model(request.model).lm.tokenizer.encode(request.prompt).unknown_chars
    if values.get("tab", "write") == "write":
        assert "seed" in values  # the same text for everybody


# What the lessons say


def answer(number, index):
    """The plain text of a step, whose white space is single spaces."""
    step = load_lessons()[number - 1].steps[index - 1]
    options = " ".join(option.html for option in step.options)
    html = f"{step.html} {step.question_html} {options} {step.answer_html}"
    return " ".join(re.sub(r"<[^>]+>", "", html).replace("&lt;", "<").split())


def right(number, index):
    return next(option.html for option in load_lessons()[number - 1].steps[index - 1].options if option.correct)


def request_of(number, index):
    return GenerationRequest.from_query(load_lessons()[number - 1].steps[index - 1].query, default_model().id)


def lm(name):
    return get_model(name).lm


@cache
def probs(name, prompt):
    """The model's own probability of each next character."""
    model = lm(name)
    step = next(iter(model.stream(prompt, SamplingParams(temperature=1.0, max_new_tokens=1, seed=1))))
    return {model.tokenizer.decode([i]): p for i, p in enumerate(step.probs.tolist())}


@cache
def written(number, index):
    request = request_of(number, index)
    return lm(request.model).generate(request.prompt, request.params).text


@cache
def bits(name):
    return json.loads((Path("weights") / name / "training.json").read_text())["held_out"]["bits_per_character"]


def train_bits(name):
    return json.loads((Path("weights") / name / "training.json").read_text())["train_loss"] / math.log(2)


@cache
def plays():
    """The training text and the held-out text."""
    return tuple(part.text for part in load_dataset("shakespeare").split())


@cache
def names():
    return tuple(part.documents for part in load_dataset("names", is_lines=True).split())


def percent(share):
    return f"{share:.0%}".replace("%", " %")


def test_bigram_after_q():
    train, _ = plays()
    assert f"there are {train.count('q')} small letters q" in answer(1, 1)
    assert train.count("qu") == train.count("q")
    assert f"All {train.count('qu')} are followed by u" in answer(1, 1)
    assert f"gives u {percent(probs('bigram-shakespeare', 'q')['u'])}" in answer(1, 1)
    assert f"{get_model('bigram-shakespeare').training_log['k']} was added" in answer(1, 1)
    assert written(1, 1) == "u"


def test_bigram_sees_one_character():
    assert probs("bigram-shakespeare", "ROMEO:") == probs("bigram-shakespeare", "JULIET:")
    share = percent(probs("bigram-shakespeare", "ROMEO:")["\n"])
    assert f"a new line {share}" in answer(1, 2)
    assert share in right(1, 2)


def test_bigram_writes_names_of_any_length():
    train, held_out = names()
    lengths = [len(name) for name in (*train, *held_out)]
    assert f"{len(lengths):,} first names, of {min(lengths)} to {max(lengths)} letters" in answer(1, 3)
    lengths = [len(name) for name in written(1, 3).split("\n")[:-1]]
    assert f"One of them has {max(lengths)} letters" in answer(1, 3)
    assert lengths[:10].count(1) == 3
    assert "three of the first ten" in answer(1, 3)


def test_size_of_the_bigram():
    assert lm("bigram-shakespeare").num_parameters == 4225
    assert len(lm("bigram-shakespeare").tokenizer) == 65
    assert right(1, 4).startswith("4,225")


def test_loss_before_learning():
    assert f"{math.log(65):.2f}" in right(2, 1)
    assert f"log₂ 65 = {math.log2(65):.2f}" in answer(2, 1)


def test_gradient_of_one_pair():
    logits = torch.zeros(65, 65, requires_grad=True)
    q, u = 5, 9
    F.cross_entropy(logits[[q]], torch.tensor([u])).backward()
    gradient = logits.grad
    assert (gradient != 0).sum(dim=1).nonzero().tolist() == [[q]]
    torch.testing.assert_close(gradient[q], F.softmax(torch.zeros(65), dim=0) - F.one_hot(torch.tensor(u), 65))
    assert gradient[q, u] < 0 < gradient[q].masked_fill(F.one_hot(torch.tensor(u), 65).bool(), 1).min()
    assert right(2, 2) == "All 65 in the row of q"


def test_share_of_a_batch():
    pairs = len(plays()[0]) - 1
    assert pairs / 1024 == pytest.approx(1000, rel=0.05)
    assert "a thousandth of the work" in right(2, 3)
    assert pairs == pytest.approx(1e6, rel=0.01)


def test_padding_is_ignored():
    documents = [torch.arange(len(name) + 2) for name in ("emma", "christopher")]  # a start, the letters and an end
    _, targets = pad_documents(documents)
    assert (targets == -1).sum().item() == 7
    assert (targets != -1).sum().item() == 17
    for part in ("7 places", "5 characters", "12", "the 17 real characters", "target −1"):
        assert part in answer(2, 4)
    logits = torch.randn(2, 12, 27)
    mean = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    real = torch.cat((logits[0, :5], logits[1]))
    torch.testing.assert_close(mean, F.cross_entropy(real, targets[targets != -1]))


def test_counted_loss():
    assert f"{get_model('bigram-shakespeare').training_log['train_loss']:.2f} nats" in right(2, 5)


def test_greedy_bigram_loops():
    assert written(3, 1).startswith("ur the the the the ")


def tempered(prompt, temperature):
    powers = {text: p ** (1 / temperature) for text, p in probs("bigram-shakespeare", prompt).items()}
    total = sum(powers.values())
    return {text: power / total for text, power in powers.items()}


def test_temperature_after_th():
    own, cold, hot = (tempered("th", t) for t in (1, 0.5, 2))
    assert f"e {percent(own['e'])}, a {percent(own['a'])}, i {percent(own['i'])}" in answer(3, 2)
    assert percent(cold["e"]) in right(3, 2)
    assert f"{percent(cold['e'])} for e, {percent(cold['a'])} for a" in answer(3, 2)
    assert f"{cold['e'] / cold['a']:.1f} times as likely" in answer(3, 2)
    assert 1.8 < own["e"] / own["a"] < 2
    assert f"e has {percent(hot['e'])} and a {percent(hot['a'])}" in answer(3, 3)
    order = sorted(own, key=own.get)
    assert sorted(cold, key=cold.get) == order == sorted(hot, key=hot.get)


def count_top_p(prompt, p):
    total = 0.0
    for count, share in enumerate(sorted(probs("bigram-shakespeare", prompt).values(), reverse=True), start=1):
        total += share
        if total >= p:
            return count
    return None


def test_top_p_after_a_space():
    assert count_top_p("q", 0.9) == 1
    assert (count_top_p(" ", 0.9), right(3, 4)) == (19, "Nineteen")
    assert request_of(3, 4).params.top_p == 0.9


def test_top_1_is_greedy():
    request = request_of(3, 5)
    greedy = lm(request.model).generate(request.prompt, SamplingParams(temperature=0, max_new_tokens=200)).text
    assert request.params.top_k == 1
    assert written(3, 5) == greedy


def test_context_after_kingdo():
    assert percent(probs("bigram-shakespeare", "My kingdo")["m"]).startswith(("5", "6"))
    assert probs("bigram-shakespeare", "My kingdo")["m"] < min(probs("bigram-shakespeare", "o")[text] for text in "ur")
    assert percent(probs("ngram-shakespeare", "My kingdo")["m"]) == right(4, 2)
    train, _ = plays()
    assert train.count("kingdom") > 0.97 * train.count("kingdo")
    assert lm("ngram-shakespeare").context_length == 6
    assert lm("gpt-shakespeare").context_length == 256
    assert probs("ngram-shakespeare", "Zkingdo") == probs("ngram-shakespeare", "My kingdo")


def share_unseen(length):
    train, held_out = plays()
    seen = {train[i : i + length] for i in range(len(train) - length + 1)}
    places = range(len(held_out) - length + 1)
    return sum(held_out[i : i + length] not in seen for i in places) / len(places)


@pytest.mark.slow
def test_long_sequences_never_come_back():
    assert share_unseen(20) > 0.99
    assert "Less than 1 in 100" in answer(4, 3)
    assert f"{percent(share_unseen(7))} never occurred" in answer(4, 3)
    assert share_unseen(29) > 0.999  # lesson 7: by heart
    train, _ = plays()
    assert len({train[i : i + 29] for i in range(len(train) - 28)}) > 0.99 * len(train)


def test_counting_beats_small_neural_models():
    text = answer(4, 4)
    for name, words in (("bigram", "the bigram needs"), ("ngram", "The n-gram needs"), ("lstm", "the LSTM")):
        assert f"{words} {bits(f'{name}-shakespeare'):.2f}" in text
    assert bits("ngram-shakespeare") < bits("lstm-shakespeare")
    assert bits("gpt-shakespeare") < 2.1 < bits("ngram-shakespeare")
    assert f"{lm('lstm-shakespeare').num_parameters / 1e6:.1f} million learned numbers" in text
    assert get_model("lstm-shakespeare").training_log["seconds"] / 60 == pytest.approx(40, rel=0.05)
    assert get_model("ngram-shakespeare").training_log["seconds"] / 60 == pytest.approx(1, abs=0.3)


def gpt_logits(ids):
    model = lm("gpt-shakespeare").model
    with torch.no_grad():
        return model(torch.tensor(ids))[0]


def test_attention_is_masked_and_stays_within_a_text():
    tokenizer = lm("gpt-shakespeare").tokenizer
    first, second, other = (
        tokenizer.encode(text).ids for text in ("ROMEO: But, soft!", "ROMEO: But, s was ", "JULIET: O Romeo, R")
    )
    first, second, other = (ids[:17] for ids in (first, second, other))
    same = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    torch.testing.assert_close(gpt_logits([first])[0, :same], gpt_logits([second])[0, :same])
    assert not torch.allclose(gpt_logits([first])[0, same:], gpt_logits([second])[0, same:])
    torch.testing.assert_close(gpt_logits([first, other])[0], gpt_logits([first])[0])


def test_attention_has_no_order_without_positions():
    query, keys, values = torch.randn(1, 64), torch.randn(9, 64), torch.randn(9, 64)
    order = torch.tensor([3, 1, 0, 2, 7, 5, 6, 4, 8])  # the last one stays
    attend = F.scaled_dot_product_attention
    torch.testing.assert_close(attend(query, keys, values), attend(query, keys[order], values[order]))


def test_length_of_queries_and_keys():
    assert lm("gpt-shakespeare").model.config.head_dim == 64
    assert "they have 64 numbers here, so by 8" in answer(5, 1)
    assert "at most the last 256 characters" in answer(5, 2)


def test_n_gram_writes_pieces_that_are_new_together():
    train, _ = plays()
    text = written(6, 1)
    longest = max(
        end - start
        for start in range(len(text))
        for end in range(start, min(start + 40, len(text) + 1))
        if text[start:end] in train
    )
    assert f"the longest piece that was copied has {longest} characters" in answer(6, 1)
    assert longest < 20
    sevens = [text[i : i + 7] in train for i in range(len(text) - 6)]
    assert sum(sevens) / len(sevens) == pytest.approx(0.75, abs=0.02)
    assert "Three of four" in answer(6, 1)


def test_names_that_are_known():
    train, held_out = names()
    known, unseen = set(train), set(held_out)
    assert f"counted on {len(train):,} names" in answer(6, 2)
    assert f"{len(held_out):,} names that were kept" in answer(6, 3)
    warm, cold = (written(6, i).split("\n")[:-1] for i in (2, 3))
    assert f"It writes {len(warm)} names" in answer(6, 2)
    assert f"{sum(name in known for name in warm)} of {len(warm)}" in answer(6, 2)
    for name in ("keland", "zelisa", "esmo"):
        assert name in warm
        assert name not in known | unseen
    new = [name for name in cold if name not in known]
    assert f"{len(cold) - len(new)} of {len(cold)} are on its list" in answer(6, 3)
    assert len(new) == 3
    assert {"alexandre", "arianna"} == set(new) & unseen


def test_hamlet_is_not_in_the_text():
    whole = "".join(plays())
    assert "that is the question" not in whole.lower()
    assert "hamlet" not in whole.lower()
    for seed in range(3):
        params = SamplingParams(temperature=0.8, max_new_tokens=60, seed=seed)
        assert "that is the question" not in lm("gpt-shakespeare").generate("To be, or not to be", params).text


def test_bits_on_seen_and_unseen_text():
    assert f"needs {train_bits('bigram-shakespeare'):.2f} bits" in answer(7, 1)
    assert right(7, 1).startswith(f"{bits('bigram-shakespeare'):.2f}")
    assert f"needs {train_bits('ngram-shakespeare'):.2f} bits" in answer(7, 2)
    assert right(7, 2) == f"{bits('ngram-shakespeare'):.2f}"
    assert f"difference, {bits('ngram-shakespeare') - train_bits('ngram-shakespeare'):.2f} bits" in answer(7, 2)
    assert lm("ngram-shakespeare").num_parameters // 2 > 200_000  # an id and a probability for each sequence


def test_passages_that_are_scored():
    train, held_out = plays()
    seen, unseen = (parse_qs(load_lessons()[6].steps[i].query)["passage"][0] for i in (0, 1))
    assert seen in train
    assert unseen in held_out
    costs = {
        name: [lm(f"{name}-shakespeare").score(text).bits_per_character for text in (seen, unseen)]
        for name in ("bigram", "ngram")
    }
    assert f"cost it {costs['ngram'][1]:.2f} bits" in answer(7, 2)
    assert f"seen, {costs['ngram'][0]:.2f}" in answer(7, 2)
    assert abs(costs["bigram"][0] - costs["bigram"][1]) < 0.1


def test_losses_of_a_gan_say_nothing():
    first, *_, last = points = replay("gan-names")["points"]
    assert last["distance"] < first["distance"] / 2
    losses = [point[name] for point in points if point["step"] >= 1000 for name in ("discriminator", "generator")]
    assert max(losses) - min(losses) < 0.05
    assert right(8, 4) == "Both become better at the same pace"


def test_abilities_of_the_families():
    likelihood = {name: family.likelihood for name, family in MODEL_REGISTRY.items()}
    assert (likelihood["gpt"], likelihood["vae"], likelihood["diffusion"], likelihood["gan"]) == (
        "exact",
        "bound",
        "bound",
        "none",
    )
    assert right(8, 1) == "The GAN"
    can = {name: family.abilities for name, family in MODEL_REGISTRY.items()}
    assert "infills" in can["diffusion"] - can["gpt"]
    assert right(8, 2) == "The masked diffusion model"
    assert "encodes" in can["vae"] - can["gan"]
    assert "has nothing that turns a name into numbers" in right(8, 3)


def test_critic_is_no_judge_of_other_words():
    words = ["qwerty", "hello", "python", "zzzzz"]
    shares = get_model("gan-names", "draws").lm.discriminate(words)
    assert sum(share > 0.2 for share in shares) >= 2  # they look more real to it than a fifth of the real names
