"""The tab "Three families": lines of all families, their measures, the walk, the replay and the game."""

import json
import os
import re
import sys
from types import SimpleNamespace

import pytest

from benchmarks import bench_families
from gpt import LanguageModel, SamplingParams, TextDiffusion
from gpt.lines import sample_lines
from train.data import load_dataset
from train.sample_metrics import js_divergence
from ui import families
from ui.families import ROUNDS, TEXTS, WALK_STEPS, draw, identify, list_families, play, replay, stage_models, walk, wish
from ui.model_registry import get_model
from ui.schema import schema_of

NAMES_STAGE = ["ngram-names", "gpt-names", "vae-names", "gan-names", "diffusion-names", "latent-diffusion-names"]
PLAYS_STAGE = ["ngram-shakespeare", "gpt-shakespeare", "vae-shakespeare", "diffusion-shakespeare", "latent-diffusion-shakespeare"]


# Drawing lines


def test_lines_of_a_model_of_lines_are_what_it_writes():
    lm = get_model("gpt-names").lm
    text = lm.generate("", SamplingParams(temperature=1, max_new_tokens=200, seed=5)).text
    assert sample_lines(lm, 12, 5) == text.split("\n")[:12]


def test_lines_of_running_text_are_its_whole_lines_without_empty_ones():
    lm = get_model("ngram-shakespeare").lm
    text = lm.generate("", SamplingParams(temperature=1, max_new_tokens=1000, seed=5)).text
    assert sample_lines(lm, 8, 5) == [line for line in text.split("\n") if line][:8]


class Texts(TextDiffusion):
    """Writes texts of two whole lines and one that is cut off; every third text is a single line."""

    eos_token_id, name = None, "texts"

    def __init__(self):
        self.seeds = []

    def sample_batch(self, prompts, seed, params=None):
        seeds = range(seed, seed + len(prompts))
        self.seeds += seeds
        return [prompt + (f"first {i}\n\nsecond {i}\ncut" if i % 3 else "cut") for prompt, i in zip(prompts, seeds, strict=True)]


def test_lines_of_whole_texts_are_not_cut_off():
    lm = Texts()
    lines = sample_lines(lm, 20, 7)
    assert lines == [f"{word} {i}" for i in lm.seeds if i % 3 for word in ("first", "second")]
    assert lm.seeds == list(range(7, 7 + len(lm.seeds)))
    assert len(lines) == 20


def test_model_that_writes_no_lines_is_an_error(monkeypatch):
    monkeypatch.setattr(Texts, "sample_batch", lambda self, prompts, seed: ["no line"] * len(prompts))
    with pytest.raises(ValueError, match="texts writes too few lines"):
        sample_lines(Texts(), 3, 1)


def test_running_text_without_lines_is_an_error(lm, monkeypatch):
    monkeypatch.setattr(LanguageModel, "stream", lambda *_: iter([SimpleNamespace(text="x")]))
    with pytest.raises(ValueError, match="tiny writes too few lines"):
        sample_lines(lm, 3, 1)


# The endpoints


def test_stage_has_the_best_model_of_each_family():
    assert [entry.id for entry in stage_models("names")] == NAMES_STAGE
    assert [entry.id for entry in stage_models("shakespeare")] == PLAYS_STAGE


def test_all_models_on_the_stage_were_measured_as_they_are_shipped():
    answer = list_families()
    assert answer["run"]["command"] == "python benchmarks/bench_families.py"
    for text in answer["texts"]:
        assert text["floor"]["new"] == 0
        lines = {"names": 3203, "shakespeare": 1000}[text["name"]]
        assert [model["measures"]["lines"] for model in text["models"]] == [lines] * len(text["models"])
        assert text["floor"]["lines"] == lines
        for order in range(1, 4):
            assert all(
                model["measures"]["js_divergence"][order] >= 0.9 * text["floor"]["js_divergence"][order]
                for model in text["models"]
            )


def test_measures_of_other_weights_are_not_shown(monkeypatch, tmp_path):
    measured = json.loads(families.MEASURES.read_text())
    measured["texts"]["names"]["models"]["gpt-names"]["training_log"] = "0" * 64
    path = tmp_path / "measures.json"
    path.write_text(json.dumps(measured))
    monkeypatch.setattr(families, "MEASURES", path)
    models = {model["id"]: model["measures"] for model in list_families()["texts"][0]["models"]}
    assert models["gpt-names"] is None
    assert models["vae-names"]["training_log"] == identify(get_model("vae-names"))


@pytest.mark.parametrize("model", ["ngram-names", "vae-shakespeare"])
def test_draws_are_those_of_the_model(model):
    count = TEXTS[model.partition("-")[2]][1]
    assert draw(model, 3) == {"lines": sample_lines(get_model(model).lm, count, 3)}
    assert draw(model, 4) != draw(model, 3)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1", None, True])
def test_what_is_no_seed_is_a_sentence(seed):
    for function, values in ((walk, {}), (play, {}), (draw, {"model": "gpt-names"})):
        with pytest.raises(ValueError, match="must be a whole number from 0 to 4,294,967,295"):
            schema_of(function).parse({**values, "seed": seed})


@pytest.mark.parametrize("model", ["bigram-names", "<b>"])
def test_other_models_are_a_sentence(model):
    with pytest.raises(ValueError, match="none of the models on this stage"):
        draw(model, 1)


def test_both_walks_go_between_the_same_names():
    for seed in (1, 2**32 - 1):
        answer = walk(seed)
        gan, vae = answer["gan"], answer["vae"]
        assert len(gan) == len(vae) == WALK_STEPS
        assert gan[0]
        assert gan[-1]
        assert vae == get_model("vae-names").lm.interpolate(gan[0], gan[-1], WALK_STEPS)
        assert walk(seed) == answer
    assert walk(1) != walk(2)


def test_game_pairs_unseen_names_with_new_ones():
    train, held_out = (set(part.documents) for part in load_dataset("names").split())
    rounds = play(7)["rounds"]
    assert len(rounds) == ROUNDS
    assert len({entry["model"] for entry in rounds}) == len(NAMES_STAGE)
    assert {entry["real"] for entry in rounds} == {0, 1}
    for entry in rounds:
        real, made_up = entry["names"][entry["real"]], entry["names"][1 - entry["real"]]
        assert real in held_out - train
        assert made_up not in held_out | train
        assert made_up
        gan = stage_models("names")[3].lm
        assert entry["critic"] == max((0, 1), key=gan.scores(entry["names"]).__getitem__)
        assert entry["percentiles"] == gan.discriminate(entry["names"])
    assert play(7)["rounds"] == rounds
    assert play(8)["rounds"] != rounds


def test_page_without_a_gan_has_no_walk_and_no_game(monkeypatch):
    monkeypatch.setattr(families, "stage_models", lambda text: [get_model("gpt-names")] if text == "names" else [])
    assert list_families()["has_gan"] is False
    for function in (walk, play):
        with pytest.raises(ValueError, match="This page has no GAN"):
            function(1)


def test_replay_has_lines_losses_and_distances():
    points = replay("gan-names")["points"]
    steps = [point["step"] for point in points]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert all(len(point["lines"]) == 20 for point in points)
    assert points[0]["discriminator"] is None
    assert all(0.5 < point[name] < 1 for point in points[1:] for name in ("discriminator", "generator"))
    assert points[0]["distance"] > 2 * points[-1]["distance"]


@pytest.mark.parametrize("content", ["", "[]", '{"points": []}', '{"points": [{"step": 1}]}', "[" * 100_000, "x" * 2_000_000])
def test_damaged_replay_is_a_sentence(monkeypatch, tmp_path, content):
    path = tmp_path / "replay.json"
    path.write_text(content)
    monkeypatch.setattr(families, "replay_path", lambda entry: path)
    with pytest.raises(ValueError, match="The recording of the training of gan-names is damaged"):
        replay("gan-names")


@pytest.mark.parametrize("model", ["gpt-names", "nobody"])
def test_model_without_drawn_lines_has_no_replay(model):
    with pytest.raises(ValueError, match=f"'{model}' has no recording"):
        replay(model)


# The benchmark


def test_benchmark_measures_the_models_and_the_floor(monkeypatch, tmp_path, capsys):
    entry = get_model("ngram-names")
    stages = {"names": [entry], "shakespeare": [get_model("ngram-shakespeare")]}
    monkeypatch.setattr(bench_families, "stage_models", stages.__getitem__)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)  # the other tests use all cores
    path = tmp_path / "measures.json"
    monkeypatch.setattr(sys, "argv", ["bench_families.py", "--samples", "30", "--json", str(path)])
    bench_families.main()
    result = json.loads(path.read_text())
    assert result["command"].startswith("python benchmarks/bench_families.py --samples 30")
    train, held_out = load_dataset("names").split()
    measured = result["texts"]["names"]["models"]["ngram-names"]
    lines = sample_lines(entry.lm, 30, bench_families.SEED)
    assert measured["js_divergence"][1] == js_divergence(lines, held_out.documents, 2)
    assert measured["new"] == sum(line not in train.documents for line in lines) / 30
    assert measured["training_log"] == identify(entry)
    assert measured["lines_per_second"] > 0
    floor = result["texts"]["shakespeare"]["floor"]
    assert (floor["lines"], floor["new"]) == (30, 0)
    assert "ngram-shakespeare" in capsys.readouterr().out
    monkeypatch.setattr(families, "MEASURES", path)
    models = {model["id"]: model["measures"] for model in list_families()["texts"][0]["models"]}
    assert models["ngram-names"] == measured  # what the page shows


# The page


# Wishes


def test_wished_lines_are_those_of_the_model_and_are_checked():
    lm = get_model("latent-diffusion-names", "draws").lm
    answer = wish("latent-diffusion-names", {"first letter": "k", "length": "5"}, 2, 7)
    assert answer["lines"] == lm.sample(24, 7, {"first letter": "k", "length": "5"}, 2)
    assert answer["met"] == [len(name) == 5 and name[0] == "k" for name in answer["lines"]]
    assert any(answer["met"])
    assert not all(answer["met"])


def test_ignored_wish_changes_nothing():
    plain = wish("latent-diffusion-names", {}, 2, 7)
    assert all(plain["met"])
    ignored = wish("latent-diffusion-names", {"first letter": "k"}, 0, 7)
    assert ignored["lines"] == plain["lines"]
    assert ignored["met"] == [name.startswith("k") for name in plain["lines"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpt-names", {}, 1, 1), "'gpt-names' takes no wishes."),
        (("latent-diffusion-names", {"mood": "sad"}, 1, 1), "does not know this wish; it knows first letter, length."),
        (("latent-diffusion-names", {"length": "99"}, 1, 1), "does not know this wish"),
        (("latent-diffusion-names", ["length"], 1, 1), "The condition is ['length']; it must be values of conditions"),
        (("latent-diffusion-names", {"length": [5]}, 1, 1), "The condition is {'length': [5]}; it must be values"),
        (("latent-diffusion-names", {}, 11, 1), "The guidance is 11; it must be a number from 0 to 10."),
        (("latent-diffusion-names", {}, float("nan"), 1), "The guidance is nan; it must be a number from 0 to 10."),
        (("latent-diffusion-names", {}, True, 1), "The guidance is True; it must be a number from 0 to 10."),
        (("latent-diffusion-names", {}, 1, -1), "The seed is -1; it must be a whole number"),
    ],
)
def test_wrong_wish_is_a_sentence(arguments, message):
    values = dict(zip(("model", "condition", "guidance", "seed"), arguments, strict=True))
    with pytest.raises(ValueError, match=re.escape(message)):
        wish(**dict(schema_of(wish).parse(values)))


class Tab:
    """The tab of a visitor, who scrolls to each part."""

    def __init__(self, visitor):
        self.visitor, self.page = visitor, visitor.page
        visitor.open_tab("families")
        self.page.wait_for_selector(".families-columns li")

    def part(self, name):
        """Scroll to a part."""
        part = self.page.locator(f".families-{name}")
        part.scroll_into_view_if_needed()
        return part

    def texts(self, selector):
        return self.page.locator(selector).all_inner_texts()

    def move(self, part, value):
        """Move the slider of a part."""
        self.page.locator(f".families-{part} input[type=range]").fill(str(value))


@pytest.fixture
def tab(visit):
    """A function that opens the tab."""
    return lambda path="", **options: Tab(visit(path, **options))


@pytest.mark.browser
def test_columns_have_the_same_number_of_lines(tab):
    one = tab()
    lines = ".families-columns article:nth-child({}) li"
    for i in range(len(NAMES_STAGE)):
        one.visitor.until(lambda i=i: one.page.locator(lines.format(i + 1)).count() == TEXTS["names"][1], f"column {i}")
    assert one.texts(lines.format(1)) == draw("ngram-names", 1)["lines"]
    before = one.texts(".families-columns li")
    one.page.click("text=Draw others")
    one.visitor.until(lambda: len(after := one.texts(".families-columns li")) == len(before) and after != before, "other names")
    assert len(set(before) & set(one.texts(".families-columns li"))) < len(before) / 2
    one.page.check("input[name=families-text][value=shakespeare]", force=True)
    count = TEXTS["shakespeare"][1] * len(PLAYS_STAGE)
    one.visitor.until(lambda: one.page.locator(".families-columns li").count() == count, "lines of the plays")


@pytest.mark.browser
def test_bars_show_the_measures_and_the_floor(tab):
    one = tab()
    text = list_families()["texts"][0]
    one.page.wait_for_selector(".families-measure")
    triples = one.page.locator(".families-measure", has_text="Distance in triples")
    values = [model["measures"]["js_divergence"][2] for model in text["models"]]
    assert triples.locator(".bar-name").all_inner_texts() == [model["label"] for model in text["models"]]
    assert triples.locator(".bar-value").all_inner_texts() == [f"{value:.3f}" for value in values]
    mark = float(triples.locator(".bar").first.evaluate("bar => bar.style.getPropertyValue('--mark')"))
    assert mark == pytest.approx(text["floor"]["js_divergence"][2] / max(values))
    new = one.page.locator(".families-measure", has_text="Not in the training text")
    assert new.locator(".marked").count() == 0  # training lines are no comparison there


@pytest.mark.browser
def test_walk_moves_both_names(tab):
    one = tab()
    one.part("walk")
    one.page.wait_for_selector(".families-path li")
    gan, vae = (one.texts(f".families-pair article[aria-label={name}] li") for name in ("GAN", "VAE"))
    assert len(gan) == len(vae) == WALK_STEPS
    assert one.texts(".families-current") == [gan[0], vae[0]]
    one.move("walk", WALK_STEPS - 1)
    assert one.texts(".families-current") == [gan[-1], vae[-1]]
    assert one.page.locator(".families-path .selected").all_inner_texts() == [gan[-1], vae[-1]]
    assert one.page.locator(".families-walk input").get_attribute("aria-valuetext") == f"Step 15: GAN {gan[-1]}, VAE {vae[-1]}"
    one.page.click("text=Two other names")
    one.visitor.until(lambda: one.texts(".families-path li")[: len(gan)] != gan, "another walk")


@pytest.mark.browser
def test_wishes_steer_the_same_noise(tab):
    one = tab()
    one.part("wishes")
    names = ".families-wished li"
    one.visitor.until(lambda: one.texts(names) == wish("latent-diffusion-names", {}, 2, 1)["lines"], "names without a wish")
    one.page.get_by_label("First letter").select_option("k")
    answer = wish("latent-diffusion-names", {"first letter": "k"}, 2, 1)
    one.visitor.until(lambda: one.texts(names) == answer["lines"], "names that begin with k")
    assert one.page.inner_text(".families-wishes .status") == f"{sum(answer['met'])} of 24 meet the wish."
    assert one.texts(".families-wished .unmet") == [n for n in answer["lines"] if not n.startswith("k")]
    one.page.check("input[name=families-guidance][value='0']", force=True)
    one.visitor.until(lambda: one.texts(names) == wish("latent-diffusion-names", {}, 2, 1)["lines"], "an ignored wish")
    one.page.click("text=Other noise")
    one.visitor.until(lambda: one.texts(names) != wish("latent-diffusion-names", {}, 2, 1)["lines"], "other names")


@pytest.mark.browser
def test_replay_shows_the_names_of_a_moment(tab):
    one = tab()
    points = replay("gan-names")["points"]
    one.part("replay")
    one.page.wait_for_selector(".families-replay li")
    assert one.texts(".families-replay li") == points[-1]["lines"]
    one.move("replay", 0)
    assert one.page.inner_text(".families-moment") == "before training"
    shown = [line or "(nothing)" for line in points[0]["lines"]]
    assert one.texts(".families-replay li") == shown
    labels = [image.get_attribute("aria-label") for image in one.page.locator(".families-replay svg").all()]
    assert labels[0].startswith(f"The distance from unseen lines goes from {points[0]['distance']:.3f} to ")
    assert labels[1].startswith("The loss of the critic goes from ")


@pytest.mark.browser
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, {"width": 390, "height": 844}])
def test_game_keeps_the_score_of_visitor_and_critic(tab, viewport):
    one = tab(viewport=viewport)
    train, held_out = (set(part.documents) for part in load_dataset("names").split())
    one.part("game")
    right = critic = 0
    for played in range(1, ROUNDS + 2):  # more names are requested after the last ones
        one.visitor.until(lambda: one.page.inner_text(".families-message") == "Which one is real?", "the next two names")
        names = one.texts(".families-name")
        real = next(i for i, name in enumerate(names) if name in held_out)
        assert names[1 - real] not in train | held_out
        choice = played % 2
        one.page.locator(".families-name").nth(choice).focus()
        one.page.keyboard.press("Enter")
        message = one.page.inner_text(".families-message")
        assert message.startswith(
            f"{'Yes' if choice == real else 'No'}: {names[real]} is real, and {names[1 - real]} was made up"
        )
        right, critic = right + (choice == real), critic + ("The critic was right" in message)
        assert one.texts(".families-results > div:first-child .bar-value")[:2] == [
            f"{right} of {played}",
            f"{critic} of {played}",
        ]
        one.page.locator(".families-name").nth(0).click(force=True)  # a choice is final
        assert one.page.inner_text(".families-message") == message
        one.page.get_by_role("button", name="Next two names").click()
    wrong = [text.split(" of ") for text in one.texts(".families-results > div:last-child .bar-value")]
    assert sum(int(times) for times, _ in wrong) == played - right
    assert sum(int(of) for _, of in wrong) == played
    assert one.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


@pytest.mark.browser
def test_tab_requests_nothing_before_it_is_opened_and_tries_again(visit):
    first = visit()
    first.page.wait_for_load_state("networkidle")
    assert not [path for path in first.requests if path.startswith("families")]
    first.page.route("**/page/families", lambda route: route.abort())
    first.open_tab("families")
    first.page.wait_for_selector("text=The server does not answer.")
    first.faults.clear()  # the browser logs the failure
    first.page.unroute("**/page/families")
    first.page.locator(".families").get_by_role("button", name="Try again").click()
    first.page.wait_for_selector(".families-columns li")


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_whole_tab_is_accessible(tab, theme, width):
    one = tab(f"/?__theme={theme}", viewport={"width": width, "height": 900}, color_scheme=theme)
    for part in ("walk", "replay", "game"):
        one.part(part)
    for selector in (".families-path li", ".families-replay li", ".families-name:not(:empty)"):
        one.page.wait_for_selector(selector)
    one.page.locator(".families-name").first.click()
    assert one.visitor.violations() == []
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    one.visitor.screenshot(f"families-whole-{width}-{theme}")
