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
from ui.model_registry import get_model, list_models


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_api_has_three_endpoints(client):
    endpoints = client.view_api(return_format="dict")
    assert set(endpoints["named_endpoints"]) == {"/generate", "/score", "/list-models"}
    assert endpoints["unnamed_endpoints"] == {}


@pytest.mark.slow
def test_generate_streams_the_text_of_the_seed(client):
    job = client.submit("gpt-shakespeare", "ROMEO:", 0.5, 200, 0, 1.0, 0.0, 3, api_name="/generate")
    text = job.result()
    params = SamplingParams(temperature=0.5, max_new_tokens=200, seed=3)
    assert text == get_model("gpt-shakespeare").lm.generate("ROMEO:", params).text
    assert all(text.startswith(part) for part in job.outputs())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": 9}, "temperature is 9"),
        ({"length": 10**9}, "from 1 to 5,000"),
        ({"length": 0}, "from 1 to 5,000"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"min_p": 1}, "min_p is 1"),
        ({"seed": -1}, "seed is -1"),
        ({"model": "../../etc/passwd"}, "There is no model called '../../etc/passwd' here"),
        ({"model": "alice/tiny"}, "open it from the Hub again"),
        ({"prompt": "x" * 5001}, "up to 5,000"),
    ],
)
def test_value_out_of_bounds_is_refused_in_a_sentence(client, changes, words):
    with pytest.raises(AppError, match=re.escape(words)):
        client.predict(**{"model": "bigram-shakespeare"} | changes, api_name="/generate")


@pytest.mark.slow
def test_concurrent_clients_get_their_own_texts(address):
    def write(seed):
        return Client(address, verbose=False).predict("gpt-shakespeare", "A", 1.0, 100, 0, 1.0, 0.0, seed, api_name="/generate")

    lm = get_model("gpt-shakespeare").lm
    with ThreadPoolExecutor(3) as visitors:
        texts = list(visitors.map(write, range(3)))
    assert texts == [lm.generate("A", SamplingParams(temperature=1.0, max_new_tokens=100, seed=s)).text for s in range(3)]


@pytest.mark.parametrize(
    ("model", "text", "tokens"), [("gpt-shakespeare", "To be, or nöt\n", "To be, or nt\n"), ("vae-names", "Émma\n", "mma\n")]
)
def test_score_is_that_of_the_model(client, model, text, tokens):
    answer = client.predict(model, text, api_name="/score")
    score = get_model(model).lm.score(text)
    assert answer["tokens"] == score.tokens == list(tokens)
    assert answer["nll"] == pytest.approx(score.nll)
    assert answer["bits_per_character"] == pytest.approx(score.bits_per_character)
    assert answer["unknown_chars"] == score.unknown_chars != ""


@pytest.mark.parametrize(("text", "words"), [("", "nothing to score"), ("ö", "nothing to score"), ("x" * 5001, "up to 5,000")])
def test_text_that_cannot_be_scored_is_a_sentence(client, text, words):
    with pytest.raises(AppError, match=words):
        client.predict("gpt-shakespeare", text, api_name="/score")


def test_models_are_listed_with_their_sizes(client):
    models = client.predict(api_name="/list-models")
    assert [model["id"] for model in models] == [entry.id for entry in list_models()]
    for model in models:
        entry = get_model(model["id"])
        assert (model["num_parameters"], model["context_length"]) == (entry.lm.num_parameters, entry.lm.context_length)
        assert model["vocab_size"] == len(entry.lm.tokenizer)
        assert model["bits_per_character"] == entry.training_log["held_out"]["bits_per_character"]


@pytest.mark.slow
def test_endpoints_are_the_tools_of_an_mcp_server():
    arguments = {"model": "gpt-shakespeare", "prompt": "ROMEO:", "length": 80, "seed": 7}

    async def talk(address):
        async with (
            streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            generated = await session.call_tool("generate", arguments)
            refused = await session.call_tool("generate", arguments | {"length": 10**9})
            return tools, generated, refused

    # In a thread, because the page of the other tests has an event loop in this one.
    with served(env=os.environ | {"GRADIO_MCP_SERVER": "True"}) as address, ThreadPoolExecutor(1) as client:
        tools, generated, refused = client.submit(asyncio.run, talk(address)).result()
    assert set(tools) == {"generate", "score", "list_models"}
    assert "up to 5,000 characters" in json.dumps(tools["generate"].inputSchema)
    params = SamplingParams(max_new_tokens=80, seed=7)
    assert generated.content[0].text == get_model("gpt-shakespeare").lm.generate("ROMEO:", params).text
    assert refused.isError
    assert "1000000000 is greater than the maximum of 5000" in refused.content[0].text
