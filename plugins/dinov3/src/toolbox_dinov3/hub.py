"""Weights of released encoders: from the local cache, else from the Hub, else the steps that get them."""

from __future__ import annotations

import threading
from pathlib import Path

from toolbox_dinov3.ids import COMPONENTS, Known

FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
DEADLINE = 15.0
"""Seconds to wait for the Hub's first answer: without a network its client would retry for most of a minute."""


def snapshot(known: Known, revision: str | None) -> Path:
    """The folder with the weights of `known` at `revision` (None: main).

    Weights that are in the cache are used without asking the network. Respects HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE
    and a stored login, as the Hub's own client does. Raises OSError, with the steps to take, when they cannot be had.
    """
    from huggingface_hub import constants, snapshot_download

    wanted = {"repo_id": known.id, "revision": revision, "allow_patterns": list(FILES)}
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        if is_complete(folder):
            return folder
    except (OSError, ValueError):
        pass  # not, or only partly, in the cache
    if constants.HF_HUB_OFFLINE:
        raise OSError(steps(known, revision, "HF_HUB_OFFLINE is set, and they are not in the local cache"))
    reason = _unreachable(known, revision)
    if reason is not None:
        raise OSError(steps(known, revision, reason))
    try:
        return Path(snapshot_download(**wanted))
    except Exception as error:  # the client's network library, and with it the type of error, differs by version
        raise OSError(steps(known, revision, f"the download failed ({_short(error)})")) from error


def is_complete(folder: Path) -> bool:
    """Whether the configuration and at least one weight file are there."""
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def steps(known: Known, revision: str | None, reason: str) -> str:
    """The message for weights that cannot be had: `reason`, then what to do, in order."""
    folder = f"weights/{known.short}"
    at = f" --revision {revision}" if revision else ""
    return (
        f"The weights of {COMPONENTS[known.family]} {known.short!r} ({known.id}) are not on this machine: {reason}.\n"
        f"  1. Accept the licence, signed in, at https://huggingface.co/{known.id}\n"
        f"  2. hf auth login\n"
        f"  3. In mainland China: export HF_ENDPOINT=https://hf-mirror.com\n"
        f"  4. hf download {known.id}{at} --local-dir {folder}\n"
        f"  5. Run again with --cfg-options model.backbone.name={folder}\n"
        f"Or try the recipe with random weights: --cfg-options model.backbone.weights=False"
    )


def _unreachable(known: Known, revision: str | None) -> str | None:
    """Why the Hub will not give the weights; None when it will. One small request, bounded by `DEADLINE`."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import errors as hub

    answer: list[str | None] = []

    def ask() -> None:
        try:
            url = hf_hub_url(known.id, "config.json", revision=revision)
            get_hf_file_metadata(url, timeout=DEADLINE)
            answer.append(None)
        except hub.GatedRepoError:
            answer.append("their licence has to be accepted first, or the login is missing")
        except hub.RevisionNotFoundError:
            answer.append(f"{known.id} has no revision {revision!r}")
        except Exception as error:
            answer.append(f"{constants.ENDPOINT} gives no access ({_short(error)})")

    # Name lookup obeys no timeout, so the request runs in a thread that may be abandoned.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return answer[0] if answer else f"{constants.ENDPOINT} did not answer within {DEADLINE:.0f} seconds"


def _short(error: Exception) -> str:
    text = str(error).strip() or "no details"
    return f"{type(error).__name__}: {text.splitlines()[0][:150]}"
