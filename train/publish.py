"""A weights folder -> the Hub: checked, with its card, in one commit; and the page as a Space that opens it."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceCard, errors

from gpt import CheckpointError, load
from gpt.checkpoint import FILES, HUB_ID, NEEDED, WEIGHTS, names
from gpt.hub import LOG_IN, HubError, api, translate_hub_errors
from train.card import PROJECT, card

ROOT = Path(__file__).resolve().parent.parent
PAGE = ("app.py", "LICENSE", "gpt/*.py", "gpt/*.c", "ui/*.py")  # what a Space runs, beside the weights
TORCH = "torch>=2.8,<2.12  # ZeroGPU has these\n"
HARDWARE: Any = "zero-a10g"  # what free accounts get; the owner may change it in the Space's settings
TOLERANCE = 1e-3  # nats; another processor or PyTorch rounds otherwise, by about 1e-5

Files = dict[str, Path | bytes]  # by path in the repo


def checked(folder: Path, repo: str, aside: Path) -> Files:
    """The files of a weights folder as they are published, copied `aside` and checked there, so that what is sent is
    what was checked.

    The copy is opened, and one forward pass is compared with what the training run got. Raises CheckpointError.
    """
    needed = (*NEEDED, "tokenizer_config.json", "generation_config.json", "training.json")
    for name in needed:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; publish a folder that `python -m train run` wrote")
    for name in (*needed, "loss_curve.svg"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, aside / name)
    lm = load(aside)
    try:
        facts = json.loads((aside / "training.json").read_text(encoding="utf-8"))
        nats = lm.score(facts["check"]["text"]).nats
        same = len(nats) == len(facts["check"]["nats"]) and all(
            math.isclose(mine, theirs, abs_tol=TOLERANCE) for mine, theirs in zip(nats, facts["check"]["nats"], strict=True)
        )
        (aside / "README.md").write_text(card(facts, repo), encoding="utf-8")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / 'training.json'} is damaged, or of an older version; train the model again") from None
    if not same:
        raise CheckpointError(
            f"{folder} does not compute what its training run wrote down; it is damaged, or still being written: train it again"
        )
    return {path.name: path for path in sorted(aside.iterdir())}


def space_files(folder: Path, repo: str, commit: str) -> Files:
    """What the page needs as a Space, and no more: its code, the shipped models, and the published one by its commit.

    The published model is fetched when the Space is built; if it is one of the shipped, it does not lie there twice.
    """
    files: Files = {p.relative_to(ROOT).as_posix(): p for pattern in PAGE for p in sorted(ROOT.glob(pattern))}
    for name in names():
        if WEIGHTS / name != folder.resolve():
            files |= {f"weights/{name}/{file}": path for file in FILES if (path := WEIGHTS / name / file).is_file()}
    files["weights/hub.json"] = json.dumps({repo: commit}).encode()
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    files["requirements.txt"] = re.sub(r"^torch\b.*\n", TORCH, requirements, flags=re.MULTILINE).encode()
    front = SpaceCard.load(ROOT / "README.md").data  # the project's own front matter
    front.models = [repo]
    front.preload_from_hub = [f"{repo} {','.join(FILES)} {commit}"]
    about = f"# {front.title}\n\n{front.short_description}. The page of {PROJECT}, with the model [{repo}]"
    files["README.md"] = f"---\n{front.to_yaml()}\n---\n\n{about}(https://huggingface.co/{repo}).\n".encode()
    return files


def publish(
    folder: Path, repo: str, space: str | None = None, private: bool = False, branch: str = "main", dry_run: bool = False
) -> Iterator[str]:
    """Upload a weights folder, and with `space` the page; yields what was done, a sentence at a time.

    Raises CheckpointError if the folder is not whole, HubError if the Hub cannot or will not; then nothing has changed
    there, but that the model may be published and the Space not.
    """
    for name in filter(None, (repo, space)):
        if not HUB_ID.fullmatch(name):
            raise HubError(f"{name!r} cannot be a Hub id; give one like user/name")
    if space and private:
        raise HubError("a Space opens public models alone; leave out --private or --space")
    with TemporaryDirectory() as aside:
        files = checked(folder, repo, Path(aside))
        yield f"{folder} is whole, and computes what its training run did."
        if dry_run:
            yield listing(f"model {repo}", files)
            if space:
                yield listing(f"Space {space}", space_files(folder, repo, "0" * 40))
            yield "This was a dry run: nothing was sent."
            return
        hub = api()
        with translate_hub_errors(repo):
            who = hub.whoami()
            if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
                raise HubError(f"the token of {who['name']} may only read; {LOG_IN} with one that may write")
        with translate_hub_errors(repo):
            found = _existing(hub, repo, "model")
            if found and (private or space) and bool(found.private) != private:
                now, then = ("private", "leave out --space") if found.private else ("public", "leave out --private")
                raise HubError(f"{repo} is {now} on the Hub already; change that in its settings, or {then}")
        if space:
            with translate_hub_errors(space):
                page = _existing(hub, space, "space")
        commit, told = _upload(hub, repo, "model", files, branch, private, new=not found)
        yield told
        if space:
            yield _upload(hub, space, "space", space_files(folder, repo, commit), "main", private, new=not page)[1]


def listing(title: str, files: Files) -> str:
    sizes = {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in files.items()}
    lines = [f"  {size:>12,}  {name}" for name, size in sizes.items()]
    return "\n".join([f"{title}: {len(sizes)} files, {sum(sizes.values()):,} bytes", *lines])


def _existing(hub: HfApi, repo: str, kind: str) -> Any:
    """What the Hub knows of a repo, None if there is none. Raises HubError if it holds something else."""
    try:
        found: Any = hub.repo_info(repo, repo_type=kind)
    except errors.RepositoryNotFoundError:
        return None
    files = {file.rfilename for file in found.siblings or []} - {".gitattributes", "README.md"}
    if files and PROJECT not in (found.tags or []):
        raise HubError(f"{repo} on the Hub holds something else, which would be overwritten; give another name")
    return found


def _upload(hub: HfApi, repo: str, kind: str, files: Files, branch: str, private: bool, new: bool) -> tuple[str, str]:
    """One commit with all the files, or none if all are there. Gives its id and a sentence; undoes what it began."""
    address = f"{hub.endpoint}/{'spaces/' if kind == 'space' else ''}{repo}"
    with translate_hub_errors(repo, branch), ExitStack() as undo:
        if new:
            options: dict[str, Any] = {"space_sdk": "gradio", "space_hardware": HARDWARE} if kind == "space" else {}
            hub.create_repo(repo, repo_type=kind, private=private, **options)
            undo.callback(hub.delete_repo, repo, repo_type=kind)
        head: Any
        try:
            head = hub.repo_info(repo, repo_type=kind, revision=branch)
        except errors.RevisionNotFoundError:
            hub.create_branch(repo, branch=branch, repo_type=kind)
            undo.callback(hub.delete_branch, repo, branch=branch, repo_type=kind)
            head = hub.repo_info(repo, repo_type=kind, revision=branch)
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        if kind == "space":  # else code of an older page would stay
            there = {file.rfilename for file in head.siblings or []}
            ours = re.compile(r"(gpt|ui|train|weights)/")
            operations += [CommitOperationDelete(name) for name in sorted(there - files.keys()) if ours.match(name)]
        commit = hub.create_commit(
            repo,
            operations,
            commit_message=f"Publish from {PROJECT}",
            repo_type=kind,
            revision=branch,
            parent_commit=head.sha,
        )
        undo.pop_all()
    if commit.oid == head.sha:
        return commit.oid, f"{address} has all of this already: nothing was uploaded."
    return commit.oid, f"{address} is published, at {commit.oid[:8]}."
