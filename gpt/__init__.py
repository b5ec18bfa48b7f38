"""Small language models that write one token at a time: a character, or a piece of a word.

from gpt import load, SamplingParams
load("gpt-shakespeare").generate("ROMEO:", SamplingParams(temperature=0.8, seed=7)).text
"""

from gpt.bigram import Bigram, BigramConfig
from gpt.checkpoint import CheckpointError, load
from gpt.generate import Generation, LanguageModel, Row, Score, Step
from gpt.latent import LatentModel
from gpt.lstm import LSTM, LSTMConfig
from gpt.mixture import Mixture, MixtureConfig
from gpt.ngram import NGram, NGramConfig
from gpt.sampling import SamplingParams
from gpt.tokenizer import Tokenizer
from gpt.transformer import GPT, GPTConfig, KVCache
from gpt.vae import VAE, VAEConfig

__all__ = [
    "GPT",
    "LSTM",
    "VAE",
    "Bigram",
    "BigramConfig",
    "CheckpointError",
    "GPTConfig",
    "Generation",
    "KVCache",
    "LSTMConfig",
    "LanguageModel",
    "LatentModel",
    "Mixture",
    "MixtureConfig",
    "NGram",
    "NGramConfig",
    "Row",
    "SamplingParams",
    "Score",
    "Step",
    "Tokenizer",
    "VAEConfig",
    "load",
]
