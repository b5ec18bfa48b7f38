"""Small language models that write one token at a time: a character, or a piece of a word.

from gpt import load, SamplingParams
load("gpt-shakespeare").generate("ROMEO:", SamplingParams(temperature=0.8, seed=7)).text
"""

from gpt.checkpoint import CheckpointError, load
from gpt.generation import BatchGenerator, Generation, GenerationStep, LanguageModel, Score, Sequence
from gpt.models.bigram import Bigram, BigramConfig
from gpt.models.diffusion import MaskedDiffusion, MaskedDiffusionConfig, TextDiffusion
from gpt.models.gan import GAN, GANConfig, TextGAN
from gpt.models.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, TextLatentDiffusion
from gpt.models.lstm import LSTM, LSTMConfig
from gpt.models.mixture import Mixture, MixtureConfig
from gpt.models.ngram import NGram, NGramConfig
from gpt.models.transformer import GPT, GPTConfig, RotatingKVCache
from gpt.models.vae import VAE, LatentModel, VAEConfig
from gpt.sampling import SamplingParams
from gpt.text_model import TextModel
from gpt.tokenizer import Tokenizer
from gpt.unmasking import UnmaskingParams, UnmaskingStep

__all__ = [
    "GAN",
    "GPT",
    "LSTM",
    "VAE",
    "BatchGenerator",
    "Bigram",
    "BigramConfig",
    "CheckpointError",
    "GANConfig",
    "GPTConfig",
    "Generation",
    "GenerationStep",
    "LSTMConfig",
    "LanguageModel",
    "LatentDiffusion",
    "LatentDiffusionConfig",
    "LatentModel",
    "MaskedDiffusion",
    "MaskedDiffusionConfig",
    "Mixture",
    "MixtureConfig",
    "NGram",
    "NGramConfig",
    "RotatingKVCache",
    "SamplingParams",
    "Score",
    "Sequence",
    "TextDiffusion",
    "TextGAN",
    "TextLatentDiffusion",
    "TextModel",
    "Tokenizer",
    "UnmaskingParams",
    "UnmaskingStep",
    "VAEConfig",
    "load",
]
