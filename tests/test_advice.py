"""The rule that chooses hyperparameters, and what is said about losses."""

import math
from dataclasses import replace

import pytest

from train.advice import choose_config, describe_baselines, describe_loss, describe_verdict, is_memorizing
from train.configs import TRAIN_CONFIGS, GPTTrainConfig, LSTMTrainConfig

LARGE = {"tokens": 1_000_000, "vocab_size": 65}


def gpt(**options):
    return choose_config("gpt", "small", **({**LARGE, "seconds": 15} | options))


@pytest.mark.parametrize("seconds", [15, 30, 60, 120])
def test_a_small_model_on_much_text_is_the_preset(seconds):
    assert gpt(seconds=seconds).config == GPTTrainConfig.preset(seconds / 60)


@pytest.mark.parametrize(
    ("kind", "seconds", "layers", "width"),
    [("gpt", 15, 2, 96), ("gpt", 60, 3, 96), ("gpt", 120, 4, 128), ("lstm", 30, 1, 256), ("lstm", 120, 2, 320)],
)
def test_a_medium_model_has_the_shape_of_four_times_the_time(kind, seconds, layers, width):
    config = choose_config(kind, "medium", seconds=seconds, **LARGE).config
    assert config == replace(TRAIN_CONFIGS[kind].preset(seconds / 60), layers=layers, width=width, dropout=config.dropout)


@pytest.mark.parametrize(("tokens", "context"), [(10_000, 128), (2_560, 128), (2_559, 64), (300, 8), (90, 8)])
def test_the_context_is_at_most_a_twentieth_of_the_text(tokens, context):
    choice = gpt(tokens=tokens)
    assert choice.config.context == context
    assert any("because the text is short" in reason for reason in choice.reasons) is (context < 128)


def test_the_context_of_lines_is_the_longest():
    assert gpt(longest_line=23).config.context == 23


def test_epochs_are_operations_over_those_of_the_text():
    """A step costs 6 operations a parameter and token; 115,264 parameters on 18,000 tokens for 15 s."""
    choice = gpt(tokens=18_000)
    assert choice.parameters == 115_264
    assert choice.epochs == pytest.approx(15 * 2.5e10 / (6 * 115_264 * 18_000))  # 30.1


@pytest.mark.parametrize(
    ("epochs", "dropout", "reason"),
    [
        (1, 0, "No dropout, because hardly any of the text is read twice."),
        (7, 0, "No dropout, because the text is read about 7 times."),
        (9, 0.1, "Dropout 0.1, because the text is read about 9 times."),
        (21, 0.2, "Dropout 0.2, because the text is read about 21 times."),
        (61, 0.3, "Dropout 0.3, because the text is read about 61 times."),
    ],
)
def test_dropout_rises_with_the_epochs(epochs, dropout, reason):
    choice = gpt(tokens=round(15 * 2.5e10 / (6 * 115_264 * epochs)))
    assert choice.config.dropout == dropout
    assert choice.reasons[-1] == reason


def test_a_visitor_may_choose_the_dropout():
    choice = gpt(dropout=0.05)
    assert choice.config.dropout == 0.05
    assert not any("ropout" in reason for reason in choice.reasons)


def test_a_bigram_has_neither_layers_nor_dropout():
    choice = choose_config("bigram", "medium", seconds=15, dropout=0.2, **LARGE)
    assert (choice.config, choice.parameters, choice.reasons) == (TRAIN_CONFIGS["bigram"].preset(1), 65**2, [])


def test_an_lstm_of_a_short_run_is_small():
    assert LSTMTrainConfig.preset(0.25).width < LSTMTrainConfig.preset(1).width


@pytest.mark.parametrize(
    ("train", "held_out", "expected"),
    [
        ([3.0], [3.0], False),
        ([3.0, 2.0, 1.5, 1.2, 1.0], [3.0, 2.1, 2.0, 1.9, 1.8], False),  # both fall
        ([3.0, 2.0, 1.5, 1.2, 1.0], [3.0, 2.1, 2.15, 2.2, 2.3], True),
        ([3.0, 2.0, 1.5, 1.2], [3.0, 2.1, 2.2, 2.3], False),  # two evaluations may be chance
        ([3.0, 2.0, 1.5, 1.2, 1.0], [3.0, 2.1, 2.11, 2.2, 2.3], False),  # so may a small rise
        ([3.0, 2.0, 1.5, 1.2, 1.0, 0.9], [3.0, 2.1, 2.105, 2.2, 2.3, 2.4], True),  # it rises later
        ([3.0, 2.0, 2.1, 2.2, 2.3], [3.0, 2.1, 2.2, 2.3, 2.4], False),  # the training loss rises, too: the rate is too high
        ([3.0, 2.0, 1.5, 1.2, 1.0, 0.9], [3.0, 2.1, 2.2, 2.3, 2.4, 2.0], False),  # a new best
    ],
)
def test_memorizing_is_a_lasting_rise_while_the_training_loss_falls(train, held_out, expected):
    assert is_memorizing(train, held_out) is expected


def test_a_loss_is_a_number_of_choices():
    assert describe_loss(math.log(4)) == "1.39 nats a character, as unsure as choosing among 4.0 equally likely characters"


def test_baselines_are_a_sentence():
    assert describe_baselines(4.174, 2.482, 1.521, 7) == (
        "Held out, in nats a character: uniform 4.17, bigram 2.48, n-gram of order 7 1.52."
    )


@pytest.mark.parametrize(
    ("losses", "trained", "start", "end"),
    [
        ({"GPT": 1.8, "mixture": 1.5}, "GPT", "The mixture predicts", "The GPT by itself reaches 1.80."),
        ({"GPT": 2.2, "mixture": 1.5}, "GPT", "The mixture predicts", "The GPT by itself reaches 2.20. More text or more time"),
        ({"GPT": 2.2}, "GPT", "The n-gram predicts", "The GPT by itself reaches 2.20. More text or more time would help it."),
        ({"GPT": 1.4}, "GPT", "The GPT predicts", "The n-gram, which only counts, reaches 1.90."),
        ({}, None, "The n-gram predicts", "equally likely characters."),
    ],
)
def test_the_verdict_names_the_winner(losses, trained, start, end):
    verdict = describe_verdict({"bigram": 2.5, "n-gram": 1.9, **losses}, ["bigram", "n-gram"], trained)
    assert verdict.startswith(start)
    assert end in verdict


def test_more_time_does_not_help_a_model_that_memorizes():
    losses = {"n-gram": 1.9, "GPT": 2.2}
    assert "More text would help it." in describe_verdict(losses, ["n-gram"], "GPT", has_memorized=True)
