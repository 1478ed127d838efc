"""Files of a repository on the Hugging Face Hub: from the local cache, else by download, else a clear refusal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

DEADLINE = 15.0
"""Seconds to wait for the Hub's first answer: without a network its client would retry for most of a minute."""


RANDOM_WEIGHTS = "Or try the recipe with random weights: the override model.backbone.weights=False"


class DownloadNeeded(OSError):
    """Files are not here but can be had: nothing was downloaded, as `forbid_downloads` wants it."""


_looking: ContextVar[bool] = ContextVar("looking", default=False)


@contextmanager
def forbid_downloads() -> Iterator[None]:
    """Inside, `snapshot` raises DownloadNeeded where it would download."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


def snapshot(
    repository: str,
    patterns: Iterable[str],
    is_complete: Callable[[Path], bool],
    steps: Callable[[str], str],
    revision: str | None = None,
) -> Path:
    """The folder with those files of `repository` that match `patterns`, such as "*.json".

    Files that are in the cache are used without asking the network. Respects HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and a
    stored login, as the Hub's own client does.

    - `is_complete`: whether a folder in the cache has all that is needed.
    - `steps`: from the reason why the files cannot be had to the message that says what to do.
    - `revision`: commit, tag or branch; None is main.

    Raises OSError with that message.
    """
    from huggingface_hub import constants, snapshot_download

    names = list(patterns)

    def get_folder(*, cached: bool) -> Path:
        folder = snapshot_download(repo_id=repository, revision=revision, allow_patterns=names, local_files_only=cached)
        return Path(folder)

    try:
        folder = get_folder(cached=True)
        if is_complete(folder):
            return folder
    except (OSError, ValueError):
        pass  # not, or only partly, in the cache
    if constants.HF_HUB_OFFLINE:
        raise OSError(steps("HF_HUB_OFFLINE is set, and they are not in the local cache"))
    reason = explain_unreachable(repository, revision)
    if reason is not None:
        raise OSError(steps(reason))
    if _looking.get():
        raise DownloadNeeded(steps("they are not in the local cache yet"))
    try:
        return get_folder(cached=False)
    except Exception as error:  # the client's network library, and with it the type of error, differs by version
        raise OSError(steps(f"the download failed ({_shorten(error)})")) from error


def format_download_steps(
    subject: str,
    repository: str,
    folder: str,
    reason: str,
    *,
    revision: str | None = None,
    access: Sequence[str] = (),
    alternatives: Sequence[str] = (),
) -> str:
    """The message for files of a backbone that cannot be had: `reason`, then what to do, in order.

    - `subject`: the files and their verb, such as "The weights of encoders.Timm 'resnet18' are".
    - `folder`: where the steps put the files; `revision`: commit, tag or branch, None for main.
    - `access`: first steps, for repositories that ask for a licence or a login.
    - `alternatives`: lines after the steps, such as `RANDOM_WEIGHTS`.
    """
    at = f" --revision {revision}" if revision else ""
    steps = [
        *access,
        "In mainland China: export HF_ENDPOINT=https://hf-mirror.com",
        f"hf download {repository}{at} --local-dir {folder}",
        f"Run again with the override model.backbone.name={folder}",
    ]
    numbered = [f"  {number}. {step}" for number, step in enumerate(steps, start=1)]
    return "\n".join([f"{subject} not on this machine: {reason}.", *numbered, *alternatives])


def explain_unreachable(
    repository: str, revision: str | None = None, kind: Literal["model", "dataset"] = "model"
) -> str | None:
    """Why the Hub will not give the files; None when it will. One small request, bounded by `DEADLINE`."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import errors as hub

    answer: list[str | None] = []

    def ask() -> None:
        try:
            name = "config.json" if kind == "model" else "README.md"
            get_hf_file_metadata(hf_hub_url(repository, name, repo_type=kind, revision=revision), timeout=DEADLINE)
            answer.append(None)
        except hub.GatedRepoError:
            answer.append("their licence has to be accepted first, or the login is missing")
        except hub.RevisionNotFoundError:
            answer.append(f"{repository} has no revision {revision!r}")
        except hub.RepositoryNotFoundError:
            answer.append(f"{constants.ENDPOINT} has no {repository}, or shows it only after a login")
        except hub.EntryNotFoundError:
            answer.append(None)  # a repository without that file: the download will tell what it has
        except Exception as error:
            answer.append(f"{constants.ENDPOINT} gives no access ({_shorten(error)})")

    # Name lookup obeys no timeout, so the request runs in a thread that may be abandoned.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return answer[0] if answer else f"{constants.ENDPOINT} did not answer within {DEADLINE:.0f} seconds"


def _shorten(error: Exception) -> str:
    text = str(error).strip() or "no details"
    return f"{type(error).__name__}: {text.splitlines()[0][:150]}"
