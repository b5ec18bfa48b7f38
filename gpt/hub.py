"""The Hugging Face Hub: the files of a model from there into a folder, and whatever goes wrong as one sentence."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import logging

READ_TIMEOUT_S = 30.0  # seconds without a byte from the Hub, after which it counts as out of reach
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(Exception):
    """What was asked of the Hub could not be done. Its text is one sentence that says what to do."""


class _Client(httpx2.Client):
    """Fails at once, where the library's own would wait for ever or try again for 23 seconds, without a word."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = super().send(request, **options)
        except httpx2.TransportError:
            raise HubError(f"{request.url.host} cannot be reached, or broke off; check the network, and try again") from None
        if response.status_code == 429 or response.status_code >= 500:
            response.close()
            raise HubError(f"{request.url.host} is busy or out of order ({response.status_code}); try again later")
        return response


@cache
def fail_fast() -> None:
    """Give the library such a client, once for this process: to change it under a download would break that off."""
    hooks = huggingface_hub.get_session().event_hooks  # among them that which keeps HF_HUB_OFFLINE
    huggingface_hub.set_client_factory(lambda: _Client(event_hooks=hooks, follow_redirects=True, timeout=READ_TIMEOUT_S))
    logging.set_verbosity_error()  # its warnings show signed addresses


def api(token: str | bool | None = None) -> huggingface_hub.HfApi:
    """The Hub. token: None is that of whoever runs this, if there is one; False is nobody's."""
    fail_fast()
    return huggingface_hub.HfApi(token=token)


@contextmanager
def translate_hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Whatever the library raises about a repo becomes a HubError."""
    try:
        yield
    except errors.HFValidationError:
        raise HubError(f"{repo} cannot be a Hub id; give one like user/repo, as its page shows it") from None
    except errors.OfflineModeIsEnabled:
        raise HubError(f"HF_HUB_OFFLINE is set, so the Hub was not asked for {repo}; unset it, and try again") from None
    except errors.LocalTokenNotFoundError:
        raise HubError(f"the Hub wants to know who asks; {LOG_IN}") from None
    except errors.GatedRepoError:
        raise HubError(f"{repo} asks its readers to agree to its terms; do so on its page, then {LOG_IN}") from None
    except errors.RepositoryNotFoundError:
        raise HubError(f"{repo} is not on the Hub, or is private; check its name, or {LOG_IN}") from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r} on the Hub; leave it out, or name a branch, tag or commit") from None
    except errors.HfHubHTTPError as error:
        status, said = error.response.status_code, " ".join((error.server_message or "").split())[:200]
        if status == 401:
            raise HubError(f"the Hub does not know this token; {LOG_IN}") from None
        if status == 403:
            raise HubError(f"this token may not do that to {repo}; {LOG_IN} with one that may write there") from None
        if status == 412:
            raise HubError(f"somebody else changed {repo} at this moment; nothing was changed, try again") from None
        raise HubError(f"the Hub refused what was asked of {repo} ({status} {said}); nothing was changed") from None
    except ValueError as error:  # what it says of a card
        raise HubError(f"the Hub does not take what is sent to {repo} ({' '.join(str(error).split())[:300]})") from None
    except RuntimeError as error:  # in place of what stopped an upload
        if isinstance(error.__cause__, HubError):
            raise error.__cause__ from None
        raise HubError(f"{repo} could not be uploaded; check the network, and try again") from None
    except (httpx2.HTTPError, OSError) as error:
        reason = getattr(error, "strerror", None) or "the connection broke off"
        raise HubError(f"{repo} could not be had from the Hub ({reason}); check network and disk, and try again") from None


def list_files(repo: str, revision: str | None = None, token: str | bool | None = None) -> dict[str, int]:
    """The files of a model on the Hub, and the bytes of each. Raises HubError."""
    with translate_hub_errors(repo, revision):
        info = api(token).model_info(repo, revision=revision, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def cached(repo: str, revision: str | None, names: tuple[str, ...]) -> Path | None:
    """The folder of a model in the cache, if all of `names` are there. Needs no network."""
    with translate_hub_errors(repo, revision):
        try:
            folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(names), local_files_only=True)
        except errors.LocalEntryNotFoundError:
            return None
    return Path(folder) if all((Path(folder) / name).is_file() for name in names) else None


@contextmanager
def staging_dir() -> Iterator[Path]:
    """A folder beside the cache, for what is fetched until it is known to be good. It is gone afterwards."""
    try:
        Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(
            prefix="fetching-", dir=Path(constants.HF_HUB_CACHE).parent, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise HubError(f"{constants.HF_HUB_CACHE} cannot be written ({error.strerror}); set HF_HOME to another folder") from None
    with folder:
        yield Path(folder.name)


def download(
    repo: str, revision: str | None, names: tuple[str, ...], into: Path, bar: Any = None, token: str | bool | None = None
) -> Path:
    """Download files of a model `into` a cache of its own; the folder with them is named by the commit. Raises HubError.

    bar: a tqdm class for the progress, in bytes; the library's own bar if none is given.
    """
    with translate_hub_errors(repo, revision):
        return Path(
            api(token).snapshot_download(repo, revision=revision, allow_patterns=list(names), cache_dir=into, tqdm_class=bar)
        )


def commit_to_cache(staging: Path) -> None:
    """Move what was fetched aside into the cache, the names of branches last, so that nobody finds half of it."""
    for part in ("blobs", "trees", "snapshots", "refs"):
        for path in staging.glob(f"models--*/{part}/**/*"):
            if path.is_symlink() or path.is_file():
                place = Path(constants.HF_HUB_CACHE) / path.relative_to(staging)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
