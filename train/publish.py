"""Publish a weights folder on the Hub, checked and with its card, in one commit; and the page as a Space that opens it."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceCard, errors
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from gpt import CheckpointError
from gpt.checkpoint import (
    FILES,
    HUB_ID,
    NEEDED,
    REPLAY,
    WEIGHTS,
    base_repo,
    find_base_folder,
    names,
    open_folder,
    read_base_model,
)
from gpt.hub import LOG_IN, HubError, HubNotFoundError, list_files, translate_hub_errors
from gpt.models.base import BaseModel
from train.card import PROJECT, render_card

ROOT = Path(__file__).resolve().parent.parent
SPACE_FILES = (  # what a Space runs, apart from the weights
    "app.py",
    "LICENSE",
    "gpt/**/*.py",
    "gpt/**/*.[ch]",
    "ui/**/*.py",
    "ui/*.json",
    "ui/static/**/*.*",
    "ui/lessons/*.md",
    "ui/texts/*",
    "train/**/*.py",
    "train/card_template.md",
    "train/text_sizes.json",
    "weights/texts/*.xz",
)
SPACE_FOLDERS = re.compile(r"(gpt|ui|train|weights)/")  # where files of an older page are deleted
BRANCH = re.compile(r"(?!.*(\.\.|//|\.lock$|[./]$))(?!refs/)\w[\w./-]{0,199}", re.ASCII)
TORCH = "torch>=2.8,<2.12  # the versions that ZeroGPU supports\n"
HARDWARE: Any = "zero-a10g"  # what free accounts get; the owner may change it in the settings of the Space
TOLERANCE_NATS = 1e-3  # between processors and versions of PyTorch, results differ by about 1e-5

Files = dict[str, Path | bytes]  # by path in the repository


def stage_files(folder: Path, repo: str, staging_dir: Path) -> Files:
    """Copy the files of a weights folder and check the copy, which is what is sent.

    The copy is opened, and the fingerprint of its weights is compared with that in training.json.

    Args:
        folder: The weights folder of a finished or running training.
        repo: The Hub id, for the card.
        staging_dir: An empty folder.

    Raises:
        CheckpointError: If a file is missing or damaged, or the weights are not those that training.json describes.
    """
    needed = (*NEEDED, "tokenizer_config.json", "generation_config.json", "training.json")
    for name in needed:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; publish a folder that `python -m train run` wrote")
    for name in (*needed, REPLAY, "loss_curve.svg"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, staging_dir / name)
    base = read_base_model(staging_dir, str(folder), "train it again")
    base_folder = find_base_folder(folder, base) if base else None
    lm = open_folder(staging_dir, folder.resolve().name, str(folder), base_folder=base_folder)
    try:
        facts = json.loads((staging_dir / "training.json").read_text(encoding="utf-8"))
        nll, expected = lm.fingerprint(facts["check"]["text"]), facts["check"]["nll"]
        is_same = len(nll) == len(expected) and all(
            math.isclose(a, b, abs_tol=TOLERANCE_NATS) for a, b in zip(nll, expected, strict=True)
        )
        (staging_dir / "README.md").write_text(render_card(facts, repo), encoding="utf-8")
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):  # JSON with anything in it
        raise CheckpointError(f"{folder / 'training.json'} is damaged, or of an older version; train the model again") from None
    if not is_same:
        raise CheckpointError(
            f"the weights in {folder} are not those in its training.json; train it again, unless a run is writing there now"
        )
    return {path.name: path for path in sorted(staging_dir.iterdir())}


def space_files(folder: Path, commits: dict[str, str]) -> Files:
    """The files of a Space: the page, the models under weights/, and references to the published model and its base model.

    Published models are downloaded when the Space is built. If the model is one of those under weights/, it is left out there.

    Args:
        folder: The weights folder that was published.
        commits: The commit that the page opens, by Hub id; the published model is the last one.
    """
    files: Files = {p.relative_to(ROOT).as_posix(): p for pattern in SPACE_FILES for p in sorted(ROOT.glob(pattern))}
    for name in names():
        if WEIGHTS / name != folder.resolve():
            files |= {f"weights/{name}/{file}": path for file in FILES if (path := WEIGHTS / name / file).is_file()}
    files["weights/hub.json"] = json.dumps(commits).encode()
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    files["requirements.txt"] = re.sub(r"^torch\b.*\n", TORCH, requirements, flags=re.MULTILINE).encode()
    front_matter = SpaceCard.load(ROOT / "README.md").data
    front_matter.models = [*commits]
    published = ",".join(name for name in FILES if (folder / name).is_file())
    front_matter.preload_from_hub = [f"{each} {published} {commit}" for each, commit in commits.items()]
    *_, repo = commits
    about = f"# {front_matter.title}\n\n{front_matter.short_description}. The page of {PROJECT}, with the model [{repo}]"
    files["README.md"] = f"---\n{front_matter.to_yaml()}\n---\n\n{about}(https://huggingface.co/{repo}).\n".encode()
    return files


def publish(
    folder: Path,
    repo: str,
    space: str | None = None,
    private: bool = False,
    branch: str = "main",
    dry_run: bool = False,
    token: str | None = None,
) -> Iterator[str]:
    """Upload a weights folder, and the page as a Space.

    Args:
        folder: The weights folder.
        repo: The Hub id of the model; created if it does not exist.
        space: The Hub id of the Space, or None for no Space.
        private: Create the model as private.
        branch: The branch of the model; created if it does not exist.
        dry_run: Check everything and list the files, but send nothing.
        token: Of who publishes; that of `hf auth login` or HF_TOKEN by default.

    Yields:
        What was done, a sentence at a time.

    Raises:
        CheckpointError: If the folder cannot be published.
        HubError: If the Hub refuses or cannot be reached. Then nothing has changed there, except that the model may be
            published and the Space not.
    """
    for name in (repo, space):
        if name is not None and not is_hub_id(name):
            raise HubError(f"{name!r} cannot be a Hub id; give one like user/name")
    if not BRANCH.fullmatch(branch):
        raise HubError(f"{branch!r} cannot be a branch; give a name like main")
    if space and private:
        raise HubError("a Space can only open a public model; leave out --private or --space")
    with TemporaryDirectory() as staging_dir:
        files = stage_files(folder, repo, Path(staging_dir))
        base = read_base_model(Path(staging_dir), str(folder), "train it again")
        needs_base = base is not None and not find_base_folder(WEIGHTS / base.name, base)  # else it is under weights/
        yield f"{folder} is complete, and its weights are those of its training run."
        if dry_run:
            yield format_listing(f"model {repo}", files)
            if base:
                yield f"It needs {base_repo(repo, base)} on the Hub, which a dry run does not ask for."
            if space:
                ids = [base_repo(repo, base), repo] if base and needs_base else [repo]
                yield format_listing(f"Space {space}", space_files(folder, dict.fromkeys(ids, "0" * 40)))
            yield "This was a dry run: nothing was sent."
            return
        api = HfApi(token=token)
        with translate_hub_errors(repo):
            user = api.whoami()
            if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
                raise HubError(f"the token of {user['name']} can only read; {LOG_IN} with one that may write")
            existing = _get_existing(api, repo, "model")
            if existing and (private or space) and bool(existing.private) != private:
                state, remedy = ("private", "leave out --space") if existing.private else ("public", "leave out --private")
                raise HubError(f"{repo} is {state} on the Hub already; change that in its settings, or {remedy}")
        base_commit = find_base_commit(repo, base, folder, token) if base else {}
        if space:
            with translate_hub_errors(space):
                existing_space = _get_existing(api, space, "space")
        commit, message = _upload(api, repo, "model", files, branch, private, is_new=not existing)
        yield message
        if space:
            page = space_files(folder, (base_commit if needs_base else {}) | {repo: commit})
            yield _upload(api, space, "space", page, "main", private, is_new=not existing_space)[1]


def is_hub_id(name: str) -> bool:
    """Whether the Hub can have a repository of this name."""
    with suppress(errors.HFValidationError):
        validate_repo_id(name)
        return HUB_ID.fullmatch(name) is not None  # unlike the library's own rules, with a user
    return False


def find_base_commit(repo: str, base: BaseModel, folder: Path, token: str | None = None) -> dict[str, str]:
    """The commit of a base model on the Hub, by its Hub id. Raises HubError if it is missing or has other weights."""
    base_id = base_repo(repo, base)
    base_folder = find_base_folder(folder, base)
    command = f"python -m train publish {base_folder} --repo {base_id}"
    try:
        files = list_files(base_id, token=token)
    except HubNotFoundError:
        raise HubError(f"{repo} needs {base_id}, which is not on the Hub; publish it first: {command}") from None
    if files.sha256.get("model.safetensors") != base.sha256:
        raise HubError(f"{base_id} on the Hub has other weights than {repo} needs; publish those first: {command}")
    return {base_id: files.commit}


def format_listing(title: str, files: Files) -> str:
    """The paths and sizes of files, one a line."""
    sizes = {name: len(f) if isinstance(f, bytes) else f.stat().st_size for name, f in files.items()}
    lines = [f"  {size:>12,}  {name}" for name, size in sizes.items()]
    return "\n".join([f"{title}: {len(sizes)} files, {sum(sizes.values()):,} bytes", *lines])


def _get_existing(api: HfApi, repo: str, repo_type: str) -> Any:
    """What the Hub knows of a repository, or None if there is none. Raises HubError if it is not one of this project."""
    try:
        info: Any = api.repo_info(repo, repo_type=repo_type)
    except errors.RepositoryNotFoundError:
        return None
    files = {file.rfilename for file in info.siblings or []} - {".gitattributes", "README.md"}
    if files and PROJECT not in (info.tags or []):
        raise HubError(f"{repo} on the Hub has other content, which would be overwritten; give another name")
    return info


def _upload(api: HfApi, repo: str, repo_type: str, files: Files, branch: str, private: bool, is_new: bool) -> tuple[str, str]:
    """Make one commit with all files, or none if nothing has changed.

    A repository or branch that was created for it is deleted again if it fails.

    Returns:
        The commit, and a sentence that says what was done.
    """
    url = f"{api.endpoint}/{'spaces/' if repo_type == 'space' else ''}{repo}"
    with translate_hub_errors(repo, branch), ExitStack() as undo:
        if is_new:
            options: dict[str, Any] = {"space_sdk": "gradio", "space_hardware": HARDWARE} if repo_type == "space" else {}
            api.create_repo(repo, repo_type=repo_type, private=private, **options)
            undo.callback(api.delete_repo, repo, repo_type=repo_type)
        head: Any
        try:
            head = api.repo_info(repo, repo_type=repo_type, revision=branch)
        except errors.RevisionNotFoundError:
            api.create_branch(repo, branch=branch, repo_type=repo_type)
            undo.callback(api.delete_branch, repo, branch=branch, repo_type=repo_type)
            head = api.repo_info(repo, repo_type=repo_type, revision=branch)
        operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
        if repo_type == "space":  # else modules of an older page would stay
            old = {file.rfilename for file in head.siblings or []} - files.keys()
            operations += [CommitOperationDelete(name) for name in sorted(old) if SPACE_FOLDERS.match(name)]
        commit = api.create_commit(
            repo,
            operations,
            commit_message=f"Publish from {PROJECT}",
            repo_type=repo_type,
            revision=branch,
            parent_commit=head.sha,
        )
        message = f"{url} is published, at {commit.oid[:8]}."
        undo.pop_all()
    return commit.oid, f"{url} is up to date: nothing was uploaded." if commit.oid == head.sha else message
