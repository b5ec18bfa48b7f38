"""A training run: a data set and hyperparameters in, a complete weights folder out."""

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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from gpt import GPT, CheckpointError, LanguageModel, MaskedDiffusion, SamplingParams, load
from gpt.checkpoint import REPLAY, WEIGHTS, atomic_write, find_base_folder, names, open_folder, save, sha256_of_file
from gpt.command_line import shorten
from gpt.models.base import BaseModel, CausalLM, Model
from gpt.models.registry import MODEL_REGISTRY
from train.card import model_reference, render_card, render_loss_curve
from train.configs import TrainConfig
from train.counting import fit_bigram
from train.data import TextDataset, TokenizedDataset, last_documents
from train.distributed import DistributedContext
from train.evaluate import EvalResult, evaluate
from train.tasks import TASKS, DistillationTask
from train.tokenizers import tokenize
from train.trainer import (
    WARMUP,
    Budget,
    EndEvent,
    EvalEvent,
    Event,
    ProgressEvent,
    ReplayEvent,
    TextSample,
    Trainer,
    TrainingTask,
    seeded_rng,
)

TRAINING = "training.json"
RESUME = "resume.pt"
SAVE_INTERVAL_S = 60  # between two resume files: the most that a killed run loses
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)  # raised for a resume file of another form
M = TypeVar("M", bound=Model)
CHECK_CHARS = 64  # of a text whose nll is recorded, to identify the weights
PACKAGES = ("torch", "safetensors", "tokenizers", "numpy")  # whose versions a run records
CLOSING_SHARE, MIN_CLOSING_S = 0.2, 5.0  # of a run's time, to measure it when it is finished
MIN_STEPS = 50  # a run of fewer steps is still in its warm-up, or was starved of time


def train(
    kind: str,
    config: TrainConfig,
    dataset: TextDataset,
    out: Path,
    budget: Budget,
    *,
    seed: int,
    command: str,
    resume: bool = False,
    device: str = "cpu",
    compile: bool = False,
    distributed: DistributedContext = DistributedContext(),
    tokenizer: str = "char",
    teacher: LanguageModel | None = None,
    init: LanguageModel | None = None,
    vae: Path | None = None,
) -> Generator[Event]:
    """Train a model by gradient descent.

    From its first evaluation on, `out` is a complete weights folder of the best model so far. It also has a resume file: the
    float32 weights and the optimizers' state, two to three times the float32 weights. It stays after the run, which can be
    continued with another budget. The learning rate, like everything that a task schedules, is a function of the share of the
    budget that is used: with a doubled budget, a finished run continues at half the peak rate, which then falls to zero.

    Args:
        kind: Name of the model family.
        config: The hyperparameters.
        dataset: The data.
        out: The folder to write.
        budget: How long to train.
        seed: Of weights, batches, dropout and samples.
        command: The command to record.
        resume: Continue the run in `out`. Only the budget may differ.
        device: "cpu" or "cuda".
        compile: Compile the training step.
        distributed: The processes of the run, of which the main one evaluates and writes.
        tokenizer: See `train.tokenizers.make_tokenizer`.
        teacher: A model from `load_trained` whose probabilities to learn, for a family that predicts the next token.
        init: A GPT from `load_trained` whose weights a diffusion model starts from.
        vae: The folder of the VAE of a latent diffusion model, made from the same data.

    Raises:
        ValueError: If the teacher or the VAE has another tokenizer, if `load` would not find the VAE, if `out` holds another run,
            if `resume` finds none that has these settings and budget left, or if a batch does not divide among the processes.
    """
    SamplingParams(seed=seed)  # refuses a seed out of range before anything is written
    if dataset.is_lines and distributed.size > 1:
        raise ValueError("lines take one process; start it without torchrun")  # shards would have different numbers of targets
    for progress in (0, 1):
        distributed.check_batch_size(config.batch_shape(progress)[0])
    with distributed.main_process_first():  # it may have to download the tokenizer
        tokenized = tokenize(dataset, tokenizer, config.context)
    # On a CPU, bfloat16 is only faster with native instructions, and with a compiler that fuses the casts.
    low_precision = device == "cuda" or (compile and _native_bfloat16())
    base = BaseModel(vae.resolve().name, sha256_of_file(vae / "model.safetensors")) if vae else None
    if base and not find_base_folder(out, base):
        raise ValueError(f"{vae} must be beside {out} or under weights/, where it is found later; name another folder with --out")
    encoder = open_folder(vae, base.name, device=device) if vae and base else None
    for other in filter(None, (teacher, init, encoder)):
        if other.tokenizer.files() != tokenized.tokenizer.files():
            raise ValueError(f"{other.name} has another tokenizer; give a model with the same one")
    with seeded_rng(seed, torch.device("cpu")):
        task_class: Any = DistillationTask if teacher else TASKS[MODEL_REGISTRY[kind].task or ""]
        others = (teacher.model, low_precision) if teacher else (encoder, base) if base else ()
        task: TrainingTask = task_class(config, tokenized, dataset.prompt, seed, device, *others)
    if init:
        cast(MaskedDiffusion, task.model).start_from(cast(GPT, init.model))
    trainer = Trainer(task, budget, seed, low_precision, compile, distributed)
    settings = run_settings(trainer, config)
    if teacher:
        settings["teacher"] = {"name": teacher.name, "nll": teacher.fingerprint(dataset.text[:CHECK_CHARS])}
    if init:
        settings["init"] = {"name": init.name, "nll": init.fingerprint(dataset.text[:CHECK_CHARS])}
    if base:
        settings["base_model"] = asdict(base)
    vocabulary = hashlib.sha256(tokenized.tokenizer.files()["tokenizer.json"].encode()).hexdigest()
    # The settings that a resumed run must share with the one that it continues.
    identity = {"data": dataset.sha256, "tokenizer": tokenized.tokenizer_name, "vocabulary": vocabulary, **settings}
    settings["budget"] = {name: value for name, value in asdict(budget).items() if value is not None}
    progress_facts: dict[str, Any] = {"started": now(), "budget": settings["budget"], "finished": False, "curve": []}
    progress_facts["replay"] = []
    writer = FolderWriter(out, kind, dataset, tokenized, seed)

    def save_resume() -> None:
        if distributed.is_main_process:
            buffer = io.BytesIO()
            torch.save({"identity": identity, "progress": progress_facts, "trainer": trainer.state_dict()}, buffer)
            atomic_write(out / RESUME, buffer.getvalue())

    with distributed.main_process_first():
        if resume:
            if distributed.is_main_process:
                remove_temporary_files(out)
            progress_facts = _resume(out / RESUME, identity, trainer, settings["budget"])
            if progress_facts["finished"] and trainer.progress == 1:
                raise ValueError(
                    f"the run in {out} is finished after {trainer.step} steps; give a larger budget to train it further"
                )
            progress_facts |= {"budget": settings["budget"], "finished": False}
        elif distributed.is_main_process:
            refuse_if_used(out)
            save_resume()  # so that a run can be resumed from its first step on, and a full disk is noticed at once
    saved_at = time.perf_counter()
    try:
        for event in trainer.run():
            if isinstance(event, EvalEvent):
                progress_facts["curve"].append(
                    {"step": event.step, "seconds": event.seconds, "train": event.train, "held_out": event.held_out}
                )
                if event.best and distributed.is_main_process:
                    facts = {
                        "command": command,
                        "started": progress_facts["started"],
                        "processes": distributed.size,
                        "train_loss": event.train,
                        "steps": event.step,
                        "tokens": trainer.tokens,
                        "seconds": event.seconds,
                        "finished": False,
                        **settings,
                    }
                    held_out = {name: value for name, value in event.metrics.items() if name != "loss"}
                    writer.write(task.model, held_out, facts, progress_facts["curve"], progress_facts["replay"])
            if isinstance(event, ReplayEvent) and event.sample:
                progress_facts["replay"].append(replay_point(event, event.sample))
            if isinstance(event, EvalEvent) or time.perf_counter() - saved_at > SAVE_INTERVAL_S:
                save_resume()
                saved_at = time.perf_counter()
            if not isinstance(event, EndEvent):
                yield event
                continue
            end = event
        start, metrics = time.perf_counter(), {}
        if distributed.is_main_process:
            work = task.final_metrics(open_folder(out, out.name, device=device), max(MIN_CLOSING_S, CLOSING_SHARE * end.seconds))
            while True:
                try:
                    share = next(work)
                except StopIteration as stop:
                    metrics = stop.value
                    break
                if distributed.size == 1:  # all processes yield the same events
                    yield ProgressEvent("measuring", share)
            end.timings["measuring"] = end.timings.get("measuring", 0.0) + time.perf_counter() - start
            end = replace(end, warning=_warning(end.step))
            progress_facts["finished"] = True
            facts = {"command": command, "budget": settings["budget"], **metrics}
            writer.finish(end, facts, progress_facts["curve"], progress_facts["replay"])
            save_resume()
        yield end
        if distributed.is_main_process:
            task.check_final_metrics(metrics)
    except GeneratorExit:  # closed by the caller, between two steps
        if not progress_facts["finished"]:
            save_resume()
        raise


def fit_counts(
    dataset: TextDataset,
    out: Path,
    *,
    seed: int,
    command: str,
    kind: str,
    fit: Callable[[TokenizedDataset], tuple[CausalLM, dict[str, Any]]],
    tokenizer: str = "char",
) -> Generator[Event]:
    """Fit a model without gradient descent, and write the weights folder `out`.

    Args:
        dataset: The data.
        out: The folder to write.
        seed: Of the sample.
        command: The command to record.
        kind: Name of the model family.
        fit: (tokens) -> the model, and entries of training.json.
        tokenizer: See `train.tokenizers.make_tokenizer`.

    Raises:
        ValueError: If `out` is in use.
    """
    SamplingParams(seed=seed)  # refuses a seed out of range before anything is written
    refuse_if_used(out)
    started, clock = now(), time.perf_counter()
    tokenized = tokenize(dataset, tokenizer)
    model, fit_facts = fit(tokenized)
    model = as_stored(kind, model).float() if MODEL_REGISTRY[kind].storage_dtype != torch.float32 else model
    train_loss = evaluate(model, last_documents(tokenized.train, tokenized.held_out)).nats_per_token
    result = evaluate(model, tokenized.held_out, tokenized.held_out_text)
    facts = {
        "command": command,
        "started": started,
        "seconds": time.perf_counter() - clock,
        **fit_facts,
        "train_loss": train_loss,
    }
    yield from write_fitted(FolderWriter(out, kind, dataset, tokenized, seed), model, result, facts)


def write_fitted(writer: "FolderWriter", model: CausalLM, result: EvalResult, facts: dict[str, Any]) -> Generator[Event]:
    """Write the folder of a model that was fitted without gradient descent, between the events of its only step.

    Args:
        writer: Of the folder.
        model: The model.
        result: Its held-out loss.
        facts: The entries of training.json that say how it was fitted; "seconds" and "train_loss" are needed.
    """
    seconds, tokens = facts["seconds"], sum(map(len, writer.tokenized.train))
    yield EvalEvent(1, seconds, facts["train_loss"], result.nats_per_token, True, asdict(result))
    common = {"steps": 1, "tokens": tokens, "finished": True, "seed": writer.seed, "device": "cpu"}
    writer.write(model, asdict(result), {**facts, **common}, [], [])
    yield EndEvent(1, seconds, tokens)


@dataclass
class FolderWriter:
    """Writes the weights folder of a run. Every figure elsewhere is read from its training.json.

    Attributes:
        out: The folder.
        kind: Name of the model family.
        dataset: The data.
        tokenized: Its tokens.
        seed: Of the sample.
        known_baselines: What `measure_baselines` returns, if it is known.
    """

    out: Path
    kind: str
    dataset: TextDataset
    tokenized: TokenizedDataset
    seed: int
    known_baselines: dict[str, float] | None = None

    def write(
        self,
        model: Model,
        held_out: dict[str, Any],
        facts: dict[str, Any],
        curve: list[dict[str, float]],
        replay: list[dict[str, Any]],
    ) -> None:
        """Write the weights, the replay, and a training.json with `facts` and what is measured here."""
        save(self.out, as_stored(self.kind, model), self.tokenized.tokenizer)
        lm = open_folder(self.out, self.out.name)  # as users open it
        sample = lm.example(self.dataset.prompt, self.seed)
        passage = (sample["prompt"] + sample["text"])[:CHECK_CHARS]
        has_likelihood = MODEL_REGISTRY[self.kind].likelihood != "none"
        self._write_facts(
            {
                "kind": self.kind,
                **facts,
                "data": self._data_facts,
                "tokenizer": self.tokenized.tokenizer_name,
                "vocabulary": len(self.tokenized.tokenizer),
                "parameters": lm.num_parameters,
                "context_length": lm.context_length,
                **({"held_out": held_out} if has_likelihood else {}),
                "baselines": self._baselines,
                "sample": sample,
                "check": {"text": passage, "nll": lm.fingerprint(passage)},
                "machine": machine(),
                "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
                "curve": curve,
            }
        )
        self._write_replay(replay)

    def finish(self, end: EndEvent, metrics: dict[str, Any], curve: list[dict[str, float]], replay: list[dict[str, Any]]) -> None:
        """Add the end of the run to the training.json of its best model, and to the replay."""
        facts = json.loads((self.out / TRAINING).read_text(encoding="utf-8"))
        facts.pop("warning", None)  # of an earlier end
        facts |= {
            "finished": True,
            "run_steps": end.step,
            "run_seconds": end.seconds,
            "timings": end.timings,
            "curve": curve,
            **metrics,
        }
        if end.warning:
            facts["warning"] = end.warning
        self._write_facts(facts)
        self._write_replay(replay)

    def _write_replay(self, points: list[dict[str, Any]]) -> None:
        if points:  # models that are counted have none
            replay = {"prompt": self.dataset.prompt, "points": points}
            atomic_write(self.out / REPLAY, json.dumps(replay, ensure_ascii=False) + "\n")

    def _write_facts(self, facts: dict[str, Any]) -> None:
        atomic_write(self.out / TRAINING, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        if facts["curve"]:  # models that are counted have none
            atomic_write(self.out / "loss_curve.svg", render_loss_curve(facts))
        atomic_write(self.out / "README.md", render_card(facts, model_reference(self.out)))

    @cached_property
    def _data_facts(self) -> dict[str, Any]:
        dataset, source = self.dataset, self.dataset.source
        facts = {
            "name": dataset.name,
            "url": source.url if source else None,
            "license": source.license if source else None,
            "dataset": source.dataset_id if source else None,
            "sha256": dataset.sha256,
            "characters": len(dataset.text),
            "split": dataset.split_description,
        }
        return facts | ({"lines": len(dataset.documents), "skipped": dataset.skipped} if dataset.is_lines else {})

    @cached_property
    def _baselines(self) -> dict[str, float]:
        return self.known_baselines or measure_baselines(self.dataset, self.tokenized)


def measure_baselines(dataset: TextDataset, tokenized: TokenizedDataset) -> dict[str, float]:
    """Held-out losses, in nats a character, of a uniform distribution and of a counted bigram of characters.

    Args:
        dataset: The data.
        tokenized: Its tokens, with any tokenizer.
    """
    characters = tokenized if tokenized.tokenizer_name == "char" else tokenize(dataset)
    bigram, _ = fit_bigram(characters)
    return {
        "uniform": math.log(len(characters.tokenizer)),
        "bigram": evaluate(bigram, characters.held_out).nats_per_token,
    }


def model_folder(name: str) -> Path:
    """The folder of a local model: a name under weights/, or a folder."""
    return WEIGHTS / name if name in names() else Path(name)


def load_trained(name: str, dataset: TextDataset) -> tuple[LanguageModel, dict[str, Any]]:
    """Open a model that was made from `dataset`, so that it has not seen the held-out part.

    Args:
        name: A name under weights/, or a folder.
        dataset: The data.

    Returns:
        The model, and the content of its training.json.

    Raises:
        CheckpointError: If it cannot be read.
        ValueError: If it was made from other data.
    """
    lm = load(name)
    path = model_folder(name) / TRAINING
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sha256, is_lines, _ = facts["data"]["sha256"], "lines" in facts["data"], MODEL_REGISTRY[facts["kind"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise CheckpointError(f"{path} is missing or damaged; give a model that `python -m train run` wrote here") from None
    if not isinstance(lm, LanguageModel):
        title = MODEL_REGISTRY[facts["kind"]].title
        raise ValueError(f"{name} is {title}, which does not predict the next token; give another model")
    if is_lines != dataset.is_lines:
        raise ValueError(f"{name} was trained on {'lines; give' if is_lines else 'a running text; leave out'} --lines")
    if sha256 != dataset.sha256:
        raise ValueError(f"{name} was not trained on this text; give a model that was")
    return lm, facts


def replay_point(event: ReplayEvent, sample: TextSample) -> dict[str, Any]:
    """A point of replay.json. Its losses are those of the curve: for a language model, in nats a token."""
    return {
        "step": event.step,
        "tokens": event.tokens,
        "train": event.train,
        "held_out": event.held_out,
        **sample.replay,
    }


def refuse_if_used(out: Path) -> None:
    """Raises ValueError unless `out` is an empty folder or does not exist."""
    if (out / RESUME).exists():
        raise ValueError(f"{out} holds a run; continue it with --resume, or name another folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder to write")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; name another folder, so that nothing is lost")


def run_settings(trainer: Trainer, config: TrainConfig) -> dict[str, Any]:
    """The settings of a training run, as training.json has them."""
    return {
        "method": "gradient descent",
        "train_config": asdict(config),
        "optimizers": [optimizer_settings(optimizer) for optimizer in trainer.optimizers],
        "warmup": WARMUP,
        "seed": trainer.seed,
        "device": str(trainer.device.type),
        "compile": trainer.compile,
        "precision": "bfloat16" if trainer.low_precision else "float32",
    }


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Name and hyperparameters of an optimizer."""
    numbers = {name: value for name, value in optimizer.defaults.items() if isinstance(value, (int, float, tuple))}
    return {"name": type(optimizer).__name__, **{n: list(v) if isinstance(v, tuple) else v for n, v in numbers.items()}}


def machine() -> dict[str, Any]:
    """The hardware of a run, without the name of the machine."""
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = models[0] if models else processor
    return {"processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def as_stored(kind: str, model: M) -> M:
    """A copy in the dtypes in which its family is stored, or the model itself if that is float32."""
    family = MODEL_REGISTRY[kind]
    if family.storage_dtype == torch.float32:
        return model
    stored = copy.deepcopy(model).to(family.storage_dtype)
    if family.layer_dtype:
        for name, p in stored.named_parameters():
            if p.ndim == 2 and name.startswith("layers."):
                p.data = p.data.to(family.layer_dtype)
    return stored


def _warning(steps: int) -> str:
    """Why a run of so few steps means little; empty for enough steps."""
    if steps >= MIN_STEPS:
        return ""
    return f"the run made only {steps} steps, so its result means little; train longer, or on a machine that is less busy"


def now() -> str:
    """The time in UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _native_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public names for them yet
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def remove_temporary_files(out: Path) -> None:
    """Remove what `atomic_write` left in the folder of a run that was killed."""
    for path in out.glob(".*"):
        name, _, pid = path.name[1:].rpartition(".")
        if pid.isdecimal() and (out / name).suffix in (".pt", ".json", ".safetensors", ".svg", ".md"):
            path.unlink()


def _resume(path: Path, identity: dict[str, Any], trainer: Trainer, budget: dict[str, float]) -> dict[str, Any]:
    """Continue from a resume file.

    Args:
        path: The file.
        identity: The settings that it must have.
        trainer: Gets the saved state.
        budget: That of this run.

    Returns:
        The facts about the progress of the run.

    Raises:
        ValueError: If there is no such file, if it is damaged, or if it has other settings.
    """
    if not path.is_file():
        raise ValueError(f"there is nothing to resume in {path.parent}: {path.name} is missing")
    damaged = f"{path} is damaged; remove the folder and train again"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before, progress = dict(saved["identity"]), dict(saved["progress"])
        json.dumps(before)  # refuses tensors
        if "data" not in before:
            raise ValueError
    except (*DAMAGE, EOFError, RecursionError, pickle.UnpicklingError):
        raise ValueError(damaged) from None
    if changed := [name for name in identity | before if before.get(name) != identity.get(name)]:
        then, now = (shorten(str({name: side.get(name) for name in changed}), 250) for side in (before, identity))
        raise ValueError(
            f"the run in {path.parent} has {then}, not {now}; resume it with the same settings, except for the budget"
        )
    try:
        _check_progress(progress)
        trainer.load_state_dict(saved["trainer"], same_budget=progress["budget"] == budget)
    except DAMAGE:
        raise ValueError(damaged) from None
    return progress


def _check_progress(progress: dict[str, Any]) -> None:
    """Raises ValueError if the facts about the progress of a run have another form than `train` gives them."""
    types = {"started": str, "budget": dict, "finished": bool, "curve": list, "replay": list}
    points = progress["curve"]
    if any(type(progress[name]) is not kind for name, kind in types.items()) or types.keys() != progress.keys():
        raise ValueError
    if any(type(point[name]) not in (int, float) for point in points for name in ("step", "seconds", "train", "held_out")):
        raise ValueError
    json.dumps(progress)  # refuses tensors
