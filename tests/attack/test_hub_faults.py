"""A Hub that fails at each request of a publication, in every way: nothing of it is left, and the next try works."""

import os

import pytest
from fake_hub import Answer, Handler
from test_publish import no_waiting  # noqa: F401 (a fixture)

from gpt.checkpoint import WEIGHTS
from gpt.hub import HubError
from train.publish import publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
FAULTS = {
    "a list": lambda: Answer([]),
    "no object": lambda: Answer(b"null"),
    "an empty object": lambda: Answer({}),
    "other types": lambda: Answer(dict.fromkeys(("name", "auth", "url", "sha", "siblings", "files", "objects", "commitOid"), 5)),
    "no JSON": lambda: Answer(b"<html>"),
    "refused": lambda: Answer({"error": "no"}, 400),
    "down": lambda: Answer({"error": "down"}, 503),
}


def hub_content(hub):
    """What the Hub shows: the files of each branch of each repository."""
    return {key: {name: repo.files(name) for name in repo.branches} for key, repo in hub.repos.items()}


@pytest.mark.parametrize("fault", FAULTS if os.environ.get("ATTACK") == "full" else ["a list", "down"])
def test_fault_at_each_request(attack, hub, monkeypatch, no_waiting, fault):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", hub.WRITE)
    route, folder = Handler.route, WEIGHTS / "bigram-names"
    step = 0
    while True:
        count = 0

        def fail(handler, body):
            nonlocal count
            count += 1
            if count == step + 1:  # noqa: B023 (called in this round)
                return FAULTS[fault]()
            return route(handler, body)

        hub.repos.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Handler, "route", fail)
            attack.survived(lambda: list(publish(folder, "alice/tiny")), HubError)
        if count <= step:
            break
        attack.inputs -= 1
        attack.faults += 1
        list(publish(folder, "alice/tiny"))
        assert hub_content(hub)["model", "alice/tiny"]["main"].keys() >= {"model.safetensors", "README.md"}
        step += 1
    assert step > 5
