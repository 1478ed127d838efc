"""Where a dataset of Hugging Face comes from: a folder or file here, the local cache, or the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toolbox.utils.hub import explain_unreachable

FULL_NAMES = {
    "food101": "ethz/food101",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenet-1k": "ILSVRC/imagenet-1k",
}
"""Names without an owner, as older scripts have them. The cache is looked through for both."""

FILES = {".parquet": "parquet", ".arrow": "arrow"}


class HFData(NamedTuple):
    """The data of a name, opened.

    - `parts`: {name of a split there: `datasets.Dataset`}.
    - `identity`: tells these data from others, and from another version of them.
    - `notes`: what a user should know of where they come from.
    """

    parts: dict[str, Any]
    identity: str
    notes: list[str]


class CachedCopy(NamedTuple):
    """A prepared dataset in the local cache: its `folder`, `config` and `commit` (or another hash of its files)."""

    folder: Path
    config: str
    commit: str


def is_local(name: str) -> bool:
    """Whether `name` means a folder or a file: it exists, is written as a path, or ends as one."""
    path = Path(name).expanduser()
    return path.exists() or name.startswith(("/", "./", "../", "~")) or path.suffix in FILES or name.count("/") > 1


def load_data(name: str, config: str | None, revision: str | None) -> HFData:
    """The dataset `name`. Raises OSError with the steps to take where it cannot be had, ValueError for nonsense."""
    try:
        import datasets
    except ImportError:
        raise OSError(
            f"{name} is read with Hugging Face's library `datasets`: run `python -m pip install 'datasets>=4'`"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:  # earlier ones run the scripts that lie beside data
        raise OSError(f"`datasets` {datasets.__version__} is too old: run `python -m pip install 'datasets>=4'`")
    if is_local(name):
        if revision is not None:
            raise ValueError(f"revision={revision!r} has no meaning for the local {name}: leave it out")
        return load_from_disk(datasets, Path(name).expanduser(), config)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ValueError(f"name='{name}' is neither a path nor a name at the Hub, such as 'ethz/food101'")
    return load_from_cache(datasets, name, config, revision) or load_from_hub(datasets, name, config, revision)


def load_from_disk(datasets: Any, path: Path, config: str | None) -> HFData:
    """A folder that `save_to_disk` wrote, a Parquet or Arrow file, or a folder of such files or of images."""
    if not path.exists():
        raise OSError(
            f"{path} does not exist. Give a folder that save_to_disk wrote, a folder of Parquet files or of images, or "
            "a name at the Hub, such as 'ethz/food101'"
        )
    failure = f"{path} cannot be read as a dataset"
    if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file()):
        if config is not None:
            raise ValueError(f"config={config!r} has no meaning for {path}, which save_to_disk wrote: leave it out")
        loaded = call_library(lambda: datasets.load_from_disk(str(path)), failure)
    elif path.is_dir():
        loaded = call_library(lambda: datasets.load_dataset(str(path), config), failure)
    elif path.suffix in FILES:
        loaded = call_library(lambda: datasets.load_dataset(FILES[path.suffix], config, data_files=str(path)), failure)
    else:
        raise OSError(f"{path} is no folder, and ends in none of {', '.join(FILES)}")
    parts = dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    return HFData(parts, join_fingerprints(parts), [])


def load_from_cache(datasets: Any, name: str, config: str | None, revision: str | None) -> HFData | None:
    """The newest whole copy in the local cache; None if there is none. Nothing is asked of the network."""
    copies = find_cached_copies(Path(datasets.config.HF_DATASETS_CACHE), name, config)
    if revision is not None:
        commit = find_commit(name, revision)
        copies = [copy for copy in copies if copy.commit == commit]
    configs = sorted({copy.config for copy in copies})
    if len(configs) > 1:
        if "default" not in configs:
            raise ValueError(
                f"{name} is in the cache with several configurations: choose by config={configs[0]!r}, or another of "
                f"{', '.join(configs)}"
            )
        copies = [copy for copy in copies if copy.config == "default"]
    for copy in sorted(copies, key=lambda copy: copy.folder.stat().st_mtime, reverse=True):
        parts = read_cached_parts(datasets, copy.folder)
        if parts:
            notes = [
                f"{name} is read from the local cache ({copy.config}, commit {copy.commit[:12]}), not from the Hub"
            ]
            if len(copies) > 1:
                notes.append(
                    f"the cache holds {len(copies)} versions of {name}, and the newest is used: `revision` chooses"
                )
            return HFData(parts, f"{copy.config}@{copy.commit}", notes)
    return None


def find_cached_copies(cache: Path, name: str, config: str | None) -> list[CachedCopy]:
    """What the cache holds of a dataset under its name, or its name with an owner."""
    from datasets.naming import camelcase_to_snakecase

    copies = []
    for spelling in dict.fromkeys((name, FULL_NAMES.get(name, name))):
        owner, slash, rest = spelling.rpartition("/")
        folder = cache / f"{owner}{'___' if slash else ''}{camelcase_to_snakecase(rest)}"
        for info in sorted(folder.glob("*/*/*/dataset_info.json")):
            if config in (None, info.parents[2].name):
                copies.append(CachedCopy(info.parent, info.parents[2].name, info.parent.name))
    return copies


def find_commit(name: str, revision: str) -> str:
    """The commit that a branch or tag meant when it was last downloaded; `revision` itself where that is not known."""
    from huggingface_hub import constants

    for spelling in (name, FULL_NAMES.get(name, name)):
        reference = Path(constants.HF_HUB_CACHE) / f"datasets--{spelling.replace('/', '--')}" / "refs" / revision
        if reference.is_file():
            return reference.read_text(encoding="utf-8").strip()
    return revision


def read_cached_parts(datasets: Any, folder: Path) -> dict[str, Any]:
    """{split: dataset} of a copy in the cache; empty where one of its files is not there."""
    from datasets.naming import filenames_for_dataset_split

    try:
        info = datasets.DatasetInfo.from_directory(str(folder))
        parts = {}
        for name, split in info.splits.items():
            stem = split.dataset_name or info.dataset_name
            files = filenames_for_dataset_split(str(folder), stem, name, "arrow", split.shard_lengths)
            parts[name] = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
            if len(parts[name]) != split.num_examples:
                return {}
        return parts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another library's file, of another version
        return {}


def load_from_hub(datasets: Any, name: str, config: str | None, revision: str | None) -> HFData:
    """Download a dataset into the cache. Raises OSError with the steps to take where that cannot be done."""
    full = FULL_NAMES.get(name, name)
    if datasets.config.HF_HUB_OFFLINE:
        raise OSError(
            explain_absence(full, "it is not in the local cache, and HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set")
        )
    reason = explain_unreachable(full, revision, "dataset")
    if reason is not None:
        raise OSError(explain_absence(full, f"it is not in the local cache, and {reason}"))
    loaded = call_library(
        lambda: datasets.load_dataset(full, config, revision=revision),
        explain_absence(full, "it cannot be downloaded or read"),
    )
    cached = load_from_cache(datasets, full, config, revision)  # so that this run and later ones name the same copy
    if cached is not None:
        return HFData(cached.parts, cached.identity, [])
    return HFData(dict(loaded), join_fingerprints(loaded), [])


def join_fingerprints(parts: Mapping[str, Any]) -> str:
    """What tells these data from others, of those that are in no cache."""
    return "+".join(f"{name}:{part._fingerprint}" for name, part in parts.items())


def explain_absence(name: str, reason: str) -> str:
    """Why a dataset of the Hub is not here, and how it gets here."""
    import datasets

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    cache = datasets.config.HF_DATASETS_CACHE
    return (
        f"{name}: {reason}. Check the name at {endpoint}/datasets/{name}, where a gated dataset's terms are accepted; "
        f'log in with `hf auth login`; then, where there is a network, run `python -c "import datasets; '
        f"datasets.load_dataset('{name}')\"`, and copy the cache ({cache}) to a machine without one. Or "
        "give `name` a local folder (save_to_disk, Parquet or images)"
    )


def call_library(work: Callable[[], Any], message: str) -> Any:
    """What `work` returns. Raises OSError with `message` and the first line of whatever error it ends with."""
    try:
        return work()
    except Exception as error:  # of the library, of its network client, of a file's decoder
        text = (str(error).strip() or "no details").splitlines()[0][:200]
        raise OSError(f"{message} ({type(error).__name__}: {text})") from error
