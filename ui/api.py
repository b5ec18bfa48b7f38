"""What programs may call: the endpoints under "Use via API"."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from functools import wraps
from typing import Any

import gradio as gr
from gradio.utils import get_function_description

from ui.hub_panel import open_models
from ui.model_registry import ModelEntry, get_model
from ui.schema import (
    AnySeed,
    Arguments,
    Branch,
    Length,
    MinP,
    ModelId,
    Prompt,
    Temperature,
    TopK,
    TopP,
    schema_of,
)
from ui.session import GenerationRequest, GenerationSession


async def generate(
    model: ModelId,
    prompt: Prompt = "",
    temperature: Temperature = 0.8,
    length: Length = 300,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: AnySeed = None,
    branch: Branch = "",
) -> AsyncIterator[str]:
    """Continue a prompt; yields the text so far about 10 times a second, and the whole text last.

    Args:
        model: The id of a model, from list-models.
        prompt: The text to continue, up to 5,000 characters. It is not repeated.
        temperature: 0 = always the most likely token, 2 = wild.
        length: Number of tokens, 1 to 5,000: characters, or pieces of words.
        top_k: Choose among the k most likely tokens; 0 = all.
        top_p: Choose among the most likely tokens whose probabilities add up to this; 1 = all.
        min_p: Choose among tokens with at least this fraction of the highest probability; 0 = all.
        seed: The same seed gives the same text; random by default.
        branch: Tokens that are given instead of sampled, as index.id pairs such as 12.45,40.3.

    Returns:
        The text so far, without the prompt.
    """
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    request = GenerationRequest.create(model, prompt, length, branch, **settings)
    session = await asyncio.to_thread(GenerationSession, request)
    text = ""
    async with aclosing(session.read(0, length)) as batches:
        async for tokens in batches:
            text += "".join(token.text for token in tokens)
            yield text


def score(model: ModelId, text: Prompt) -> dict[str, Any]:
    """How well a model predicts a text: the negative log-likelihood of each token in nats, and bits per character.

    For a VAE these are an upper bound, estimated with importance-weighted samples.

    Args:
        model: The id of a model, from list-models.
        text: Up to 5,000 characters. Characters that the model does not know are skipped and reported.

    Returns:
        The figures of each token, and of the text.
    """
    return asdict(get_model(model).lm.score(text))


def list_models() -> list[dict[str, Any]]:
    """The open models, for each text from worst to best: id, number of parameters, context length in tokens, quality.

    Returns:
        A list of models.
    """
    return [
        {
            "id": entry.id,
            "num_parameters": entry.lm.num_parameters,
            "context_length": entry.lm.context_length,
            "vocab_size": len(entry.lm.tokenizer),
            **_quality(entry),
        }
        for entry in open_models()
    ]


def _quality(entry: ModelEntry) -> dict[str, float]:
    held_out = entry.training_log.get("held_out")
    return {"bits_per_character": held_out["bits_per_character"]} if held_out else {}


@contextmanager
def _user_errors() -> Iterator[None]:
    """Report a ValueError, which is a sentence for the caller, without a traceback."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _checked(function: Callable[..., Any], schema: type[Arguments]) -> Callable[..., Any]:
    """A function that checks its arguments, and reports errors as sentences."""

    def arguments(values: Sequence[Any]) -> dict[str, Any]:
        return dict(schema.parse(dict(zip(schema.model_fields, values, strict=True))))

    async def stream(*values: Any) -> AsyncIterator[Any]:
        with _user_errors():
            async with aclosing(function(**arguments(values))) as results:
                async for result in results:
                    yield result

    def call(*values: Any) -> Any:
        with _user_errors():
            return function(**arguments(values))

    return wraps(function)(stream if inspect.isasyncgenfunction(function) else call)


def add_endpoint(page: gr.Blocks, function: Callable[..., Any], name: str, **options: Any) -> None:
    """Offer a function to programs.

    `gr.api` reads only the first lines of the docstring. The dialog "Use via API" takes what it says of a parameter or a
    result from the schema of the component that stands for it, where its bounds and descriptions are added here.

    Args:
        page: The page, as a context.
        function: What is called. It has a type of `ui/schema.py` for each parameter, and a docstring in Google's style: a line
            for each parameter, and one for what it returns.
        name: The name of the endpoint.
        options: Further arguments of `gr.api`.
    """
    schema = schema_of(function)
    properties = schema.model_json_schema()["properties"] if schema.model_fields else {}
    endpoint = gr.api(_checked(function, schema), api_name=name, **options)
    _, parameters, returns = get_function_description(function)
    parts: dict[int, Any] = page.blocks
    for id, (label, description) in zip(endpoint["inputs"], parameters.items(), strict=True):
        bounds = {key: value for key, value in properties[label].items() if key not in ("title", "description", "default")}
        parts[id].label, parts[id]._api_info = label, bounds | {"additional_description": description}
    for id, description in zip(endpoint["outputs"], returns, strict=True):
        parts[id].label, parts[id]._api_info["description"] = "result", description
