"""A training run: a text and a recipe in, a whole weights folder out."""

import copy
import hashlib
import io
import json
import math
import os
import pickle
import platform
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt import VAE, Bigram, BigramConfig, LanguageModel, SamplingParams, Tokenizer, load
from gpt.checkpoint import atomic_write, save
from gpt.models.base import CausalLM
from gpt.tokenizer import START
from train.card import card, loss_curve
from train.configs import TrainConfig, VAETrainConfig
from train.data import LineBatches, TextDataset, lines_of, random_batch
from train.distributed import DistributedContext
from train.evaluate import WINDOW, EvalResult, eval_context, evaluate, target_text
from train.tasks.vae import check_posterior_collapse, measured, vae_loss, validation_loss
from train.tokenizers import tokenizer_for
from train.trainer import WARMUP, Budget, EndEvent, EvalEvent, Event, Trainer

TRAINING = "training.json"
RESUME = "resume.pt"
SAVE_EVERY = 60  # seconds between two resume files: the most that a killed run loses
CHECK_CHARS = 64  # characters whose cost is written down, to know the weights by
PACKAGES = ("torch", "safetensors", "tokenizers", "numpy")  # whose versions a run records
FP16_KINDS = ("lstm", "gpt", "vae", "mixture")  # kinds that are stored in float16: half the bytes, at less than 0.001 nats
ADD_K_GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # the k that are tried


@dataclass(frozen=True)
class TokenizedDataset:
    """A text ready to learn from: ids of the training part and of the held-out part, both (N,), by the tokenizer `asked`
    for; and what ends a line, if each is a text of its own."""

    tokenizer: Tokenizer
    train: Tensor
    evaluate: Tensor
    asked: str = "char"
    end_id: int | None = None

    @classmethod
    def of(cls, data: TextDataset, window: int, asked: str = "char") -> "Texts":
        """Raises ValueError if the text is too short for one window in each part, or there is no such tokenizer."""
        least = max(20, math.ceil((window + 1) / 0.9))  # 20: so that a tenth of either part has a pair of characters
        if not data.lines and len(data.text) < least:
            raise ValueError(f"{data.name} has {len(data.text)} characters; a run with windows of {window} needs {least} or more")
        tokenizer = tokenizer_for(asked, data)
        train, held = (torch.tensor(tokenizer.encode(part).ids) for part in data.parts)
        if len(train) <= max(window, 10) or len(held) < 2:  # where tokens are more than a character
            raise ValueError(
                f"{data.name} has {len(train)} tokens to learn from and {len(held)} held out, too few for windows of {window}"
            )
        name = Path(asked).name if Path(asked).is_absolute() else asked
        if not data.lines:
            return cls(tokenizer, train, held, name)
        ends = sum(int((part == tokenizer.start_id).sum()) for part in (train, held))
        if ends != sum(part.fit_counts(START) for part in data.parts):
            raise ValueError(f"{asked} joins the ends of lines with what is beside them; learn lines with --tokenizer char")
        return cls(tokenizer, train, held, name, tokenizer.start_id)

    @cached_property
    def target_text(self) -> str:
        """The text of the targets of the held-out part."""
        return target_text(self.tokenizer, self.evaluate.tolist())


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its name and its numbers, as it holds them itself."""
    numbers = {name: value for name, value in optimizer.defaults.items() if isinstance(value, (int, float, tuple))}
    return {"name": type(optimizer).__name__, **{n: list(v) if isinstance(v, tuple) else v for n, v in numbers.items()}}


def machine() -> dict[str, Any]:
    """Where a run happened, without anything that names the machine."""
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    return {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def counted_pairs(texts: TokenizedDataset) -> tuple[CausalLM, dict[str, Any]]:
    model, k = fit_bigram(texts)
    return model, {"method": "counting", "k": k}


def fit_counts(
    data: TextDataset,
    out: Path,
    seed: int,
    command: str,
    kind: str = "bigram",
    make: Callable[[TokenizedDataset], tuple[CausalLM, dict[str, Any]]] = counted_pairs,
    tokenizer: str = "char",
) -> Generator[Event]:
    """Make a model without steps, as by counting: exact, and done in a moment. Writes the folder `out`.

    make gives the model, and for training.json how it was made.
    """
    SamplingParams(seed=seed)  # refuses one out of range before there is anything to lose
    refuse_if_used(out)
    started, clock = _now(), time.perf_counter()
    texts = TokenizedDataset.of(data, 1, tokenizer)
    model, how = make(texts)
    if kind in FP16_KINDS:
        model.half().float()  # as it will be stored
    train_loss = evaluate(model, texts.train[-len(texts.evaluate) :], WINDOW).nats_per_token  # as much as is held out
    result = evaluate(model, texts.evaluate, WINDOW, texts.target_text)
    seconds = time.perf_counter() - clock
    yield EvalEvent(1, seconds, train_loss, result.nats_per_token, True)
    run = {"kind": kind, "command": command, "started": started, "steps": 1, "tokens": len(texts.train)}
    run |= {"seconds": seconds, "finished": True, **how, "seed": seed, "device": "cpu"}
    _write_folder(out, model, texts, data, result, run | {"train_loss": train_loss}, [])
    yield EndEvent(1, seconds, len(texts.train))


def fit_bigram(texts: TokenizedDataset) -> tuple[Bigram, float]:
    """The bigram of a text, with the k of add-k smoothing that does best on the last tenth of the training part when
    the rest of it is counted."""
    model = Bigram(BigramConfig(len(texts.tokenizer), texts.end_id))
    cut = int(len(texts.train) * 0.9)
    rest, aside = texts.train[:cut], texts.train[cut:]
    k = min(ADD_K_GRID, key=lambda k: evaluate(model.fit_counts(rest, k), aside, WINDOW).nats_per_token)
    return model.fit_counts(texts.train, k), k


def train(
    kind: str,
    config: TrainConfig,
    data: TextDataset,
    out: Path,
    budget: Budget,
    seed: int,
    command: str,
    resume: bool = False,
    device: str = "cpu",
    compile: bool = False,
    processes: DistributedContext = DistributedContext(),
    tokenizer: str = "char",
) -> Generator[Event]:
    """Train by gradient descent. The folder `out` always holds the best model so far, whole, and what `resume` needs.

    Of several processes the first evaluates and writes. Raises ValueError if `out` holds another run, with `resume` none
    that this one continues, or if a batch does not divide among the processes.
    """
    params = SamplingParams(max_new_tokens=200, seed=seed)
    if data.lines and processes.size > 1:
        raise ValueError("lines take one process; start it without torchrun")  # their shares would not weigh the same
    for start in (0, 1):  # batches may change their shape on the way
        processes.check_posterior_collapse(config.batch_shape(start)[0])
    with processes.main_process_first():  # the first may have to download the tokenizer
        texts = TokenizedDataset.of(data, config.context, tokenizer)
    # With a compiler the casts to bfloat16 are fused away and its products pay, where the processor has them.
    low_precision = device == "cuda" or (compile and _native_bfloat16())
    torch.manual_seed(seed)
    model = config.build(len(texts.tokenizer), texts.end_id).to(device)
    optimizers = config.optimizers(model)
    settings = {
        "method": "gradient descent",
        "recipe": asdict(config),
        "optimizers": [optimizer_settings(optimizer) for optimizer in optimizers],
        "warmup": WARMUP,
        "budget": {name: value for name, value in asdict(budget).items() if value is not None},
        "seed": seed,
        "device": device,
        "compile": compile,
        "precision": "bfloat16" if low_precision else "float32",
    }
    result: EvalResult | None = None  # the last evaluation, in full

    def evaluate() -> float:
        nonlocal result
        if processes.is_main_process:
            result = score(texts.evaluate, eval_context(model), target_text=texts.target_text)
        return processes.sum(result.nats_per_token if result else 0.0)

    score, loss = partial(evaluate, model), None
    if isinstance(config, VAETrainConfig) and isinstance(model, VAE):
        score, loss = partial(validation_loss, model, config.free_bits), partial(vae_loss, model, config)
    lines = None if texts.end_id is None else LineBatches(lines_of(texts.train, texts.end_id), config.batch_shape(1)[0])

    def batch(progress: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return lines.next(generator) if lines else random_batch(texts.train, *config.batch_shape(progress), generator)

    def sample() -> str:
        return LanguageModel(model, texts.tokenizer).generate(data.prompt, params).text if processes.is_main_process else ""

    trainer = Trainer(model, optimizers, batch, evaluate, sample, budget, seed, low_precision, compile, processes, loss)
    vocabulary = hashlib.sha256(texts.tokenizer.files()["tokenizer.json"].encode()).hexdigest()
    # What a resumed run must share with the one it continues.
    identity = {"data": data.sha256, "tokenizer": texts.asked, "vocabulary": vocabulary, **settings}
    progress: dict[str, Any] = {"started": _now(), "curve": []}

    def save_resume() -> None:
        if not processes.is_main_process:
            return
        buffer = io.BytesIO()
        torch.save({"identity": identity, "progress": progress, "trainer": trainer.state_dict()}, buffer)
        atomic_write(out / RESUME, buffer.getvalue())

    with processes.main_process_first():
        if resume:
            saved = _read_resume(out / RESUME, identity)
            trainer.load_state_dict(saved["trainer"])
            progress = saved["progress"]
        elif processes.is_main_process:
            refuse_if_used(out)
            save_resume()  # now, so that a run can go on whenever it is killed, and a full disk is found at once
    saved_at = time.perf_counter()
    more: dict[str, Any] = {}
    try:
        for event in trainer.run():
            if isinstance(event, EvalEvent):
                progress["curve"].append(
                    {"step": event.step, "seconds": event.seconds, "train": event.train, "held_out": event.evaluate}
                )
                if event.best and result:
                    run = {"kind": kind, "command": command, "started": progress["started"], "processes": processes.size}
                    run |= {
                        "train_loss": event.train,
                        "steps": event.step,
                        "tokens": trainer.tokens,
                        "seconds": event.seconds,
                        "finished": False,
                    }
                    _write_folder(out, model, texts, data, result, run | settings, progress["curve"])
            if time.perf_counter() - saved_at > SAVE_EVERY or isinstance(event, EvalEvent):
                save_resume()
                saved_at = time.perf_counter()
            if isinstance(event, EndEvent) and processes.is_main_process:
                if kind == "vae":
                    more = measured(out, data, texts.evaluate, texts.target_text)
                elif kind in FP16_KINDS:  # what is stored is measured
                    more = {"held_out": asdict(evaluate(load(out).model, texts.evaluate, eval_context(model), texts.target_text))}
                _finish(out, event, progress["curve"], more)
            yield event
        if "latent" in more:
            check_posterior_collapse(more["latent"])
    except GeneratorExit:  # whoever listened has stopped, between two steps
        if (out / RESUME).exists():  # else the run is finished
            save_resume()
        raise


def _write_folder(
    out: Path,
    model: CausalLM,
    texts: TokenizedDataset,
    data: TextDataset,
    result: EvalResult,
    run: dict[str, Any],
    curve: list[dict[str, float]],
) -> None:
    """Write the weights and all that is known of them. Every figure elsewhere is read from training.json."""
    save(out, copy.deepcopy(model).half() if run["kind"] in FP16_KINDS else model, texts.tokenizer)
    lm = load(out)  # as anybody else will open it
    characters = (
        texts if texts.asked == "char" else TokenizedDataset.of(data, 1)
    )  # whatever the tokens are, these baselines are the same
    baseline, _ = fit_bigram(characters)
    params = SamplingParams(seed=run["seed"])
    written = lm.generate(data.prompt, params)
    passage = (data.prompt + written.text)[:CHECK_CHARS]
    facts = {
        **run,
        "data": {
            "name": data.name,
            "url": data.source.url if data.source else None,
            "licence": data.source.licence if data.source else None,
            "dataset": data.source.dataset if data.source else None,
            "sha256": data.sha256,
            "characters": len(data.text),
            "split": data.split,
            **({"lines": data.text.fit_counts("\n") - 1, "left_out": data.left_out} if data.lines else {}),
        },
        "tokenizer": texts.asked,
        "vocabulary": len(texts.tokenizer),
        "parameters": lm.parameters,
        "window": lm.window,
        "held_out": asdict(result),
        "baselines": {
            "uniform": math.log(len(characters.tokenizer)),
            "bigram": evaluate(baseline, characters.evaluate, WINDOW).nats_per_token,
        },
        "sample": {"prompt": data.prompt, **asdict(params), "text": written.text},
        "check": {"text": passage, "nats": lm.score(passage).nats},  # what these weights make of it, to be compared later
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "curve": curve,
    }
    _write_facts(out, facts)


def _finish(out: Path, done: EndEvent, curve: list[dict[str, float]], more: dict[str, Any]) -> None:
    """The best weights are written; add how the run ended, and drop what only a resumed run needs."""
    facts = json.loads((out / TRAINING).read_text(encoding="utf-8"))
    ended = {"finished": True, "run_steps": done.step, "run_seconds": done.seconds, "spent": done.timings, "curve": curve}
    _write_facts(out, facts | ended | more)
    (out / RESUME).unlink(missing_ok=True)


def _write_facts(out: Path, facts: dict[str, Any]) -> None:
    atomic_write(out / TRAINING, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    if facts["curve"]:  # counting has none
        atomic_write(out / "loss_curve.svg", loss_curve(facts))
    atomic_write(out / "README.md", card(facts, out.resolve().name))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _native_bfloat16() -> bool:
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for them yet
    return any(getattr(torch.cpu, ask, bool)() for ask in asks)


def refuse_if_used(out: Path) -> None:
    """Raises ValueError if something is in the place of a folder to be written."""
    if (out / RESUME).exists():
        raise ValueError(f"{out} holds a run that was stopped; go on with --resume, or name another folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder to write")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; name another folder, so that nothing is lost")


def _read_resume(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is nothing to resume in {path.parent}: {path.name} is not there, as after a finished run")
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if saved.keys() != {"identity", "progress", "trainer"}:
            raise ValueError
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, pickle.UnpicklingError):
        raise ValueError(f"{path} is damaged; remove the folder and train again") from None
    changed = [name for name in identity if saved["identity"].get(name) != identity[name]]
    if changed:
        was, now = ({name: side.get(name) for name in changed} for side in (saved["identity"], identity))
        raise ValueError(f"the run in {path.parent} began with {was}, not {now}; resume it with the same settings")
    return saved
