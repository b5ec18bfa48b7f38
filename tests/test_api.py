"""What programs may call: the page's endpoints, through gradio_client and as tools of an MCP server."""

import asyncio
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import served
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from gpt import SamplingParams
from gpt.checkpoint import names
from ui.model_registry import shelf, take


def test_the_api_has_three_clean_endpoints(address):
    endpoints = Client(address, verbose=False).view_api(return_format="dict")
    assert set(endpoints["named_endpoints"]) == {"/generate", "/score", "/list-models"}
    assert endpoints["unnamed_endpoints"] == {}


def test_the_api_streams_the_text_of_the_seed(address):
    job = Client(address, verbose=False).submit("gpt-shakespeare", "ROMEO:", 0.5, 200, 0, 1.0, 0.0, 3, api_name="/generate")
    text = job.result()
    params = SamplingParams(temperature=0.5, max_new_tokens=200, seed=3)
    assert text == take("gpt-shakespeare").lm.generate("ROMEO:", params).text
    assert all(text.startswith(part) for part in job.outputs())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": 9}, "temperature is 9; it must be a number from 0 to 5"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"length": 10**9}, "The length is 1000000000; it must be a whole number from 1 to 5,000."),
        ({"length": -5}, "The length is -5; it must be a whole number from 1 to 5,000."),
        ({"length": 0}, "The length is 0; it must be"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"min_p": 1}, "min_p is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"model": "../../etc/passwd"}, "There is no model called '../../etc/passwd' here"),
        ({"model": "alice/tiny"}, "The model alice/tiny is not open here (any more); open it from the Hub again."),
        ({"prompt": "x" * 5001}, "This prompt has 5,001 characters; the page takes up to 5,000."),
    ],
)
def test_values_out_of_bounds_are_refused_in_a_sentence_whatever_a_client_sends(address, changes, sentence):
    with pytest.raises(AppError, match=re.escape(sentence)):
        Client(address, verbose=False).predict(**{"model": "bigram-shakespeare"} | changes, api_name="/generate")


def test_visitors_at_the_same_time_each_get_their_own_text(address):
    def write(seed):
        return Client(address, verbose=False).predict("gpt-shakespeare", "A", 1.0, 100, 0, 1.0, 0.0, seed, api_name="/generate")

    lm = take("gpt-shakespeare").lm
    with ThreadPoolExecutor(6) as visitors:
        texts = list(visitors.map(write, range(6)))
    assert texts == [lm.generate("A", SamplingParams(temperature=1.0, max_new_tokens=100, seed=s)).text for s in range(6)]


def test_score_tells_the_cost_of_each_character(address):
    text = "To be, or nöt\n"
    told = Client(address, verbose=False).predict("gpt-shakespeare", text, api_name="/score")
    score = take("gpt-shakespeare").lm.score(text)
    assert told["tokens"] == score.tokens == list("To be, or nt\n")
    assert told["nats"] == pytest.approx(score.nats)
    assert told["bits_per_character"] == pytest.approx(score.bits_per_character)
    assert told["left_out"] == "ö"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", "there is nothing to score in ''"), ("ö", "no character that this model knows"), ("x" * 5001, "takes up to 5,000")],
)
def test_what_cannot_be_scored_is_a_sentence(address, text, sentence):
    with pytest.raises(AppError, match=re.escape(sentence)):
        Client(address, verbose=False).predict("gpt-shakespeare", text, api_name="/score")


def test_the_models_are_listed_with_their_sizes(address):
    models = Client(address, verbose=False).predict(api_name="/list-models")
    assert {model["id"] for model in models} == set(names())
    assert [model["id"] for model in models] == [shelved.id for shelved in shelf()]
    for model in models:
        lm, facts = take(model["id"]).lm, take(model["id"]).facts
        assert (model["parameters"], model["window"], model["vocabulary"]) == (lm.parameters, lm.window, len(lm.tokenizer))
        assert model["bits_per_character"] == facts["held_out"]["bits_per_character"]


def test_the_same_three_are_the_tools_of_an_mcp_server_where_the_environment_asks_for_one():
    given = {"model": "gpt-shakespeare", "prompt": "ROMEO:", "length": 80, "seed": 7}

    async def talk(address):
        async with (
            streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            written = await session.call_tool("generate", given)
            refused = await session.call_tool("generate", given | {"length": 10**9})
            return tools, written, refused

    # In a thread: the page of the other tests has an event loop in this one.
    with served(env=os.environ | {"GRADIO_MCP_SERVER": "True"}) as address, ThreadPoolExecutor(1) as client:
        tools, written, refused = client.submit(asyncio.run, talk(address)).result()
    assert set(tools) == {"generate", "score", "list_models"}
    assert "up to 5,000 characters" in json.dumps(tools["generate"].inputSchema)
    params = SamplingParams(max_new_tokens=80, seed=7)
    assert written.content[0].text == take("gpt-shakespeare").lm.generate("ROMEO:", params).text
    assert refused.isError
    assert "The length is 1000000000" in refused.content[0].text
