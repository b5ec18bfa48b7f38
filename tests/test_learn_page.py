"""The tab Watch it learn: what the server sends, and the tab in a real browser."""

import json
import math
import shutil

import pytest
from browser import served
from starlette.applications import Starlette
from starlette.testclient import TestClient

from ui import model_registry
from ui.model_registry import add_local_model
from ui.tabs import learn


@pytest.fixture
def offered(monkeypatch, run_folder, tmp_path):
    """A copy of the folder of a run, which the page offers as "tiny"."""
    monkeypatch.setattr(model_registry, "_local_models", {})
    folder = shutil.copytree(run_folder, tmp_path / "tiny")
    add_local_model(str(folder))
    return folder


def get(path):
    """The status and the content of the answer to a GET."""
    response = TestClient(Starlette(routes=learn.routes())).get(path)
    return response.status_code, response.json()


def test_models_with_a_replay_are_listed(offered):
    assert "tiny" in get("/page/replays")[1]
    (offered / "replay.json").unlink()
    assert "tiny" not in get("/page/replays")[1]


def test_replay_has_points_and_curve_in_bits(offered):
    status, replay = get("/page/replay/tiny")
    recorded, log = (json.loads((offered / name).read_text()) for name in ("replay.json", "training.json"))
    assert status == 200
    assert [point["step"] for point in replay["points"]] == [0, 10, 20]
    assert replay["points"][0]["train"] is None
    for ours, point in zip(replay["points"], recorded["points"], strict=True):
        assert ours["held_out"] == pytest.approx(point["held_out"] / math.log(2))
        assert ours["token_ids"] == point["token_ids"]
        assert ours["distributions"] == point["distributions"]
    assert [point["held_out"] for point in replay["curve"]] == pytest.approx([p["held_out"] / math.log(2) for p in log["curve"]])
    assert replay["bigram"] == pytest.approx(log["baselines"]["bigram"] / math.log(2))
    assert replay["points"][0]["held_out"] == pytest.approx(replay["uniform"])  # log2 of the size of the vocabulary


def test_model_without_a_replay_is_a_sentence(offered):
    (offered / "replay.json").unlink()
    assert get("/page/replay/tiny") == (422, {"error": "tiny has no recording of its training."})
    status, answer = get("/page/replay/zebra")
    assert status == 422
    assert "zebra" in answer["error"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"points": 7}', '{"prompt": "", "points": [{"step": 0}]}', "[" * 100_000])
def test_damaged_replay_is_a_sentence(offered, content):
    (offered / "replay.json").write_text(content)
    assert get("/page/replay/tiny") == (422, {"error": "The recording of the training of tiny is damaged."})


def test_replay_that_is_too_large_is_not_read(offered, monkeypatch):
    monkeypatch.setattr(learn, "MAX_REPLAY_BYTES", 100)
    assert get("/page/replay/tiny")[0] == 422


# In a browser


@pytest.fixture(scope="module")
def address(run_folder, tmp_path_factory):
    """A page that offers a run whose replay has a prompt that looks like HTML."""
    folder = shutil.copytree(run_folder, tmp_path_factory.mktemp("learn") / "tiny")
    replay = json.loads((folder / "replay.json").read_text())
    replay["prompt"] = "<img src=x onerror=alert(1)>"
    (folder / "replay.json").write_text(json.dumps(replay))
    with served(arguments=["--model", str(folder)]) as address:
        yield address


@pytest.fixture
def tab(visit):
    """A function that opens the tab."""

    def start(theme="light", **options):
        first = visit(f"/?__theme={theme}", color_scheme=theme, **options)
        first.open_tab("learn")
        first.page.wait_for_selector(".learn .token")
        first.page.wait_for_selector(".learn-curve circle")
        return first

    return start


@pytest.mark.browser
def test_slider_shows_the_text_of_each_moment(tab, run_folder):
    page = tab().page
    points = json.loads((run_folder / "replay.json").read_text())["points"]
    slider = page.get_by_role("slider", name="Moment of the training")
    assert page.inner_text(".learn-moment") == "after 20 steps, 2,560 characters read"
    slider.focus()
    for point, moment in [(points[1], "after 10 steps, 1,280 characters read"), (points[0], "before training")]:
        page.keyboard.press("ArrowLeft")
        assert page.inner_text(".learn-moment") == slider.get_attribute("aria-valuetext") == moment
        shown = page.text_content(".learn .tokens")
        assert shown == "<img src=x onerror=alert(1)>" + point["text"]
    assert page.inner_text(".learn-loss").endswith("on unseen text: no better than guessing.")
    assert page.locator(".learn img").count() == 0


@pytest.mark.browser
def test_character_shows_its_distribution_and_stays_selected(tab):
    page = tab().page
    page.locator(".learn .token").nth(3).click()
    sentence = page.inner_text(".learn .distribution-sentence")
    page.get_by_role("slider", name="Moment of the training").press("Home")
    assert page.locator(".learn .token.selected").count() == 1
    assert page.locator(".learn .token").nth(3).get_attribute("class") == "token selected"
    assert page.inner_text(".learn .distribution-sentence") != sentence
    chances = set(page.locator(".learn .candidate .own").all_inner_texts())
    assert len(chances) == 1  # before training, all characters are equally likely


@pytest.mark.browser
def test_play_runs_through_all_moments(tab):
    page = tab(reduced_motion="no-preference").page
    page.get_by_role("button", name="Play").click()
    state = page.evaluate("['moment', 'play'].map((part) => document.querySelector(`.learn-${part}`).textContent)")
    assert state == ["before training", "Pause"]
    page.wait_for_function("document.querySelector('.learn-moment').textContent.startsWith('after 20 steps')")
    page.get_by_role("button", name="Play").wait_for()


@pytest.mark.browser
def test_reduced_motion_has_no_play_button(tab):
    assert tab(reduced_motion="reduce").page.is_hidden(".learn-play")


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("size", "width", "height"), [("wide", 1280, 900), ("phone", 390, 844)])
def test_tab_is_accessible_and_fits(tab, size, width, height, theme):
    first = tab(theme, viewport={"width": width, "height": height})
    first.screenshot(f"learn-{size}-{theme}")
    assert first.page.evaluate("document.documentElement.scrollWidth") <= width
    assert first.violations() == []
