"""The Hugging Face Hub: what a repository holds, its files in the local cache, and errors as one sentence each.

It uses the library's own client, cache and settings, and changes none of them.
"""

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors
from tqdm import tqdm

SLOW_S = 3.0  # after which the log says that the Hub is slow
READ_TIMEOUT_S = 10.0  # without a byte from the Hub; the library's own default for metadata
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
logger = logging.getLogger(__name__)
Token = str | bool | None  # None: the token of this machine's user, if there is one. False: anonymous


class HubError(Exception):
    """A request to the Hub failed. The message is one sentence that says what to do."""


class HubUnreachableError(HubError):
    """The Hub did not answer: no network, offline mode, or the Hub is down."""


class HubNotFoundError(HubError):
    """There is no such repository, or it is private."""


class NullProgress(tqdm):  # type: ignore[misc]  # tqdm has no annotations
    """A progress bar that shows nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


@dataclass(frozen=True)
class RepoFiles:
    """The files of a repository at one commit.

    Attributes:
        commit: The full hash.
        sizes: Bytes of each file, by path.
        sha256: Of each large file, by path.
    """

    commit: str
    sizes: dict[str, int]
    sha256: dict[str, str] = field(default_factory=dict)


@contextmanager
def translate_hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Raise a HubError for what `huggingface_hub` raises about `repo`, and log a warning if it takes longer than `SLOW_S`."""
    host = urlsplit(constants.ENDPOINT).hostname
    timer = threading.Timer(SLOW_S, logger.warning, (f"Still waiting for {host}, for {repo}.",))
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise _hub_error(error, repo, revision) from None
    except RuntimeError as error:  # a failed upload
        raise _hub_error(error.__cause__ or error, repo, revision) from None
    except (LookupError, TypeError, AttributeError):  # the library reads answers as the Hub should give them
        raise HubError(f"{host} gave an answer that is not of the Hub's form; check HF_ENDPOINT, or try again later") from None
    finally:
        timer.cancel()


def _hub_error(error: BaseException, repo: str, revision: str | None) -> HubError:
    """The error of this module that describes an exception of `huggingface_hub`."""
    match error:
        case errors.HFValidationError():
            return HubError(f"{repo} cannot be a Hub id; give one like user/repo, as its page shows it")
        case errors.OfflineModeIsEnabled():
            return HubUnreachableError(f"HF_HUB_OFFLINE is set, so the Hub was not asked for {repo}; unset it, and try again")
        case errors.LocalTokenNotFoundError():
            return HubError(f"the Hub asks who you are; {LOG_IN}")
        case errors.GatedRepoError():
            return HubError(f"{repo} is gated; accept its terms on its page, then {LOG_IN}")
        case errors.RepositoryNotFoundError():
            return HubNotFoundError(f"{repo} is not on the Hub, or is private; check its name, or {LOG_IN}")
        case errors.RevisionNotFoundError():
            return HubError(f"{repo} has no revision {revision!r} on the Hub; leave it out, or give a branch, tag or commit")
        case errors.HfHubHTTPError():
            return _http_error(error, repo)
        case httpx2.TransportError():
            host = urlsplit(constants.ENDPOINT).hostname
            return HubUnreachableError(f"{host} cannot be reached, or closed the connection; check the network, and try again")
        case errors.LocalEntryNotFoundError() | RuntimeError() if error.__cause__:  # a download, an upload that failed
            return _hub_error(error.__cause__, repo, revision)
        case OSError():
            reason = error.strerror or type(error).__name__
            return HubError(f"{repo} cannot be stored ({reason}); check the disk, or set HF_HOME to another folder")
        case _:  # such as invalid metadata in a card
            return HubError(f"the request to the Hub for {repo} failed ({' '.join(str(error).split())[:300]})")


def _http_error(error: errors.HfHubHTTPError, repo: str) -> HubError:
    status, message = error.response.status_code, " ".join((error.server_message or "").split())[:200]
    if status == 401:
        return HubError(f"the Hub does not know this token; {LOG_IN}")
    if status == 403:
        return HubError(f"this token has no permission for {repo}; {LOG_IN} with one that may write there")
    if status == 412:
        return HubError(f"{repo} was changed by another commit at the same time; nothing was changed, try again")
    if status == 429 or status >= 500:
        return HubUnreachableError(f"{error.response.url.host} is busy or down ({status}); try again later")
    return HubError(f"the Hub refused the request for {repo} ({status} {message}); nothing was changed")


def list_files(repo: str, revision: str | None = None, token: Token = None) -> RepoFiles:
    """Resolve a revision of a model to its commit and list its files, in one request.

    Raises:
        HubError: If there is no such model, or the Hub does not answer within `READ_TIMEOUT_S`.
    """
    with translate_hub_errors(repo, revision):
        info = huggingface_hub.HfApi(token=token).model_info(repo, revision=revision, files_metadata=True, timeout=READ_TIMEOUT_S)
    siblings = info.siblings or []
    sizes = {file.rfilename: file.size or 0 for file in siblings}
    return RepoFiles(info.sha or "", sizes, {file.rfilename: file.lfs.sha256 for file in siblings if file.lfs})


def find_snapshot(repo: str, revision: str | None, names: Sequence[str], local_files_only: bool = False) -> Path | None:
    """The folder in the cache with the files of a model, or None if they must be downloaded.

    A commit never changes, so a cached one is returned without a request. Otherwise the Hub is asked which commit
    `revision` is now; if the Hub cannot be reached, the cached one is returned.

    Args:
        repo: The Hub id.
        revision: A branch, tag or commit; None for the default branch.
        names: The files that must be there.
        local_files_only: Make no request.

    Raises:
        HubError: If there is no such model, or it is not in the cache and the Hub cannot be asked.
    """
    with translate_hub_errors(repo, revision):
        try:
            folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=[*names], local_files_only=True)
        except errors.LocalEntryNotFoundError:
            folder = ""
    cached = Path(folder) if folder and all((Path(folder) / name).is_file() for name in names) else None
    if cached and (local_files_only or re.fullmatch(r"[0-9a-f]{40}", revision or "")):
        return cached
    if local_files_only:
        raise HubError(f"{repo} is not in the cache of this machine; load it once without local_files_only")
    try:
        commit = list_files(repo, revision).commit
    except HubUnreachableError:
        if cached is None:
            raise
        return cached
    return cached if cached and cached.name == commit else None


def download(
    repo: str,
    revision: str | None,
    names: Sequence[str],
    cache_dir: Path | None = None,
    tqdm_class: type[tqdm] | None = None,
    token: Token = None,
) -> Path:
    """Download files of a model into a cache, as far as they are not there.

    Args:
        repo: The Hub id.
        revision: A branch, tag or commit; None for the default branch.
        names: The files to download, of those that the model has.
        cache_dir: The cache; the one of this machine's user by default.
        tqdm_class: Shows the progress in bytes; the library's own bar by default.
        token: See `Token`.

    Returns:
        The folder of the files; its name is the commit.

    Raises:
        HubError: If it fails. An interrupted download continues where it stopped.
    """
    with translate_hub_errors(repo, revision):
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=[*names], cache_dir=cache_dir, tqdm_class=tqdm_class, token=token
            )
        )
