"""Passages of the held-out text for the guessing game, and what models make of them: the endpoint `page/passages`.

Upper and lower case count as the same letter, for visitors and for models: the probabilities of both are added. So all of
them guess among the same characters, and bits per character can be compared.
"""

import re
from functools import cache
from typing import Any

import torch
from starlette.routing import BaseRoute, Route

from gpt import CheckpointError, LanguageModel
from train.data import SOURCES, load_shipped_dataset
from ui.endpoints import json_endpoint
from ui.model_registry import ModelEntry, list_models
from ui.plays import Plays

DATASET = "shakespeare"
FAMILIES = ("bigram", "ngram", "gpt")  # the best model of each takes part
PASSAGES = 12
ANSWER_CHARS = 30
# Who speaks, and the first words: 40 to 50 characters up to a space, of which the name has up to 15. Then the characters to
# guess, within the same speech, and at least one more.
SPEECH = re.compile(rf"(?<=\n\n)(?=[^\n]{{2,15}}:\n)(?s:((?:(?!\n\n).){{39,49}}? )((?:(?!\n\n).){{{ANSWER_CHARS}}})[^\n])")


def choose_passages(text: str) -> list[re.Match[str]]:
    """Passages in equal distances, each with its context and what to guess as groups."""
    starts = [len(text) * (2 * i + 1) // (2 * PASSAGES) for i in range(PASSAGES)]
    return [match for start in starts if (match := SPEECH.search(text, start))]


def score_ignoring_case(lm: LanguageModel, context: str, answer: str) -> dict[str, Any]:
    """How a model of characters fares at guessing `answer` after `context`.

    Returns:
        The surprisal of each character in bits, and the guess that the model would have made first.
    """
    ids = torch.tensor(lm.tokenizer.encode(context + answer).ids)
    logits, _ = lm.forward(torch.cat([torch.tensor([lm.start_id]), ids[:-1]])[None], None)
    probs = logits[0, len(context) :].softmax(-1)
    characters = [lm.tokenizer.decode([i]).lower() for i in range(len(lm.tokenizer))]
    alphabet = sorted(set(characters))
    columns = torch.tensor([alphabet.index(character) for character in characters])
    folded = torch.zeros(len(answer), len(alphabet)).index_add_(1, columns, probs)
    targets = torch.tensor([alphabet.index(character) for character in answer.lower()])
    bits = -folded.gather(1, targets[:, None])[:, 0].log2()
    return {"bits": bits.tolist(), "guesses": [alphabet[i] for i in folded.argmax(-1).tolist()]}


def _players() -> list[ModelEntry]:
    """The best model of characters of each family."""
    players = []
    for family in FAMILIES:
        entries = [
            entry
            for entry in list_models()
            if entry.family.name == family
            and entry.lm.tokenizer.unit == "character"
            and entry.lm.eos_token_id is None
            and entry.training_log.get("data", {}).get("sha256") == SOURCES[DATASET].sha256
        ]
        if entries:
            players.append(min(entries, key=lambda entry: entry.training_log["held_out"]["bits_per_character"]))
    return players


@cache
def list_passages() -> dict[str, Any]:
    """The passages with the models' bits and guesses for each character. The models see what the visitor sees.

    Raises:
        ValueError: If the text is damaged.
    """
    try:
        dataset = load_shipped_dataset(SOURCES[DATASET].sha256, False)
    except CheckpointError:
        raise ValueError("The passages are damaged on this server, so there is nothing to guess.") from None
    assert dataset is not None  # noqa: S101 (it is one of SOURCES)
    train, held_out = dataset.split()
    plays, players = Plays(dataset.text), _players()
    passages = []
    for match in choose_passages(held_out.text):
        context, answer = match.groups()
        place = plays.find_place(len(train.text) + match.start(), len(train.text) + match.end())
        scores = [{"id": e.id, "title": e.family.title, **score_ignoring_case(e.lm, context, answer)} for e in players]
        passages.append({"play": place.play, "speaker": place.speaker, "context": context, "answer": answer, "models": scores})
    return {"passages": passages}


def routes() -> list[BaseRoute]:
    """The endpoint for the page."""
    return [Route("/page/passages", json_endpoint(list_passages))]
