"""The source of a net of timm: its name, its construction and its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from toolbox.utils import hub, weight_files
from toolbox.utils.messages import shorten_error

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

    class TimmNet(nn.Module):
        """The methods of timm's nets that are used here; timm has no class for them."""

        def forward_features(self, x: Tensor) -> Tensor: ...

        def forward_head(self, x: Tensor, *, pre_logits: bool) -> Tensor: ...

        blocks: nn.Sequential
        feature_info: Sequence[dict[str, Any]]

        def forward_intermediates(self, x: Tensor, **options: Any) -> tuple[Tensor, list[Any]]: ...

        def set_grad_checkpointing(self, enable: bool) -> None: ...


_ARGUMENTS = {
    "img_size": "size",
    "drop_path_rate": "drop_path",
    "pretrained": "weights",
    "checkpoint_path": "checkpoint",
}
_FIXED = ("num_classes", "in_chans", "features_only", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "device")
_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class TimmSource:
    """A net of timm.

    - `name`: as the user wrote it; `architecture`: its name in timm's registry, without the tag of its weights.
    - `arguments`: keywords of its constructor; `cfg`: timm's description of its weights and images.
    - `file`: a checkpoint instead of the published weights; `folder`: a local copy of a repository.
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    cfg: PretrainedCfg
    file: Path | None = None
    folder: Path | None = None
    revision: str | None = None

    @property
    def weights_id(self) -> str | None:
        """The file, folder, repository or address that has the weights; None where timm has none."""
        if self.file is not None or self.folder is not None:
            return str(self.file or self.folder)
        return self.cfg.hf_hub_id or _find_url(self.cfg)

    @property
    def published(self) -> str | None:
        """The name by which timm itself loads these weights; None for files, folders and revisions."""
        if self.file is not None or self.folder is not None or self.revision is not None:
            return None
        return self.architecture + (f".{self.cfg.tag}" if self.cfg.tag else "")


def find_source(name: str, checkpoint: str | None, revision: str | None, arch: Mapping[str, Any] | None) -> TimmSource:
    """Look `name` up. Reads config.json of a folder, and nothing else from anywhere.

    A name in timm's registry wins over a folder of that name; write `./resnet50` to mean the folder.
    Raises ValueError, with the names that were probably meant, or OSError for a folder that is none.
    """
    from timm.models import PretrainedCfg, get_pretrained_cfg, is_model, split_model_name_tag

    arguments = _check_arguments(arch or {})
    bare = name.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/")
    path = Path(name).expanduser()
    file = None if checkpoint is None else Path(checkpoint).expanduser()
    if bare and is_model(split_model_name_tag(bare)[0]):
        try:
            cfg = get_pretrained_cfg(bare)
        except RuntimeError:
            raise ValueError(_describe_unknown(bare)) from None
        if cfg is None:  # a net without any published weights
            cfg = PretrainedCfg()
        if revision is not None and file is not None:
            raise ValueError("revision belongs to a repository on the Hub, and checkpoint is a file: remove one.")
        architecture = split_model_name_tag(bare)[0]
        return TimmSource(name, architecture, arguments, cfg, file=file, revision=revision)
    if name and path.is_dir():
        if revision is not None:
            raise ValueError(f"revision belongs to the Hugging Face Hub, and {name!r} is a folder: remove revision.")
        return _from_folder(name, path, file, arguments)
    if name and path.is_file():
        raise ValueError(
            f"{name!r} is a file, which does not say of what net: give timm's name of that as name, "
            f"and checkpoint={name!r}."
        )
    raise ValueError(_describe_unknown(bare))


def create_model(source: TimmSource, size: tuple[int, int] | None, drop_path: float) -> TimmNet:
    """A net of random weights, without classifier.

    - `size`: (height, width) of its images, None for nets that take any.

    Raises ValueError for arguments that it does not take, or sizes that do not go together.
    """
    try:
        net = _construct(source, size, drop_path)
    except _REFUSALS as error:
        raise ValueError(f"timm cannot build {source.name!r} so: {shorten_error(error)}.") from error
    if drop_path and not any(getattr(module, "drop_prob", None) for module in net.modules()):
        raise ValueError(f"{source.name!r} has no residual branches to skip: remove drop_path.")
    for module in net.modules():
        if hasattr(module, "qkv_bias_separate"):
            # else the bias goes with the bare weight matrix past the layer, and so past an adapter on the layer
            setattr(module, "qkv_bias_separate", True)  # noqa: B010
    return net


_REFUSALS = (AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What timm's nets raise, each its own, for arguments and files that do not fit."""


def _construct(source: TimmSource, size: tuple[int, int] | None, drop_path: float, **more: Any) -> TimmNet:
    import timm

    arguments = {"num_classes": 0, **source.arguments, "pretrained_cfg": source.cfg, **more}
    build_net: Any = timm.create_model  # by its annotations it gives any Module
    if size is not None:
        arguments["img_size"] = size
    try:
        return build_net(source.architecture, drop_path_rate=drop_path, **arguments)
    except TypeError as error:
        if "'drop_path_rate'" not in str(error):
            raise
        return build_net(source.architecture, **arguments)


def find_weights(source: TimmSource) -> Path:
    """The file with the weights, downloaded if need be. Raises OSError, with the steps to take, or ValueError."""
    if source.file is not None:
        if not source.file.is_file():
            raise FileNotFoundError(f"the checkpoint {source.file} does not exist (looked in {Path.cwd()}).")
        file = source.file
    elif source.folder is not None:
        in_folder = _find_file(source.folder)
        if in_folder is None:
            raise FileNotFoundError(f"{source.folder} has none of {', '.join(_FILES)}. Download it again.")
        file = in_folder
    else:
        file = _download(source)
    if file.suffix == ".safetensors":
        weight_files.check_weight_file(file)
    elif file.suffix == ".npz":
        raise ValueError(f"{file} is of the original authors' format: use timm's copy of it, without checkpoint.")
    return file


def load_weights(net: nn.Module, source: TimmSource, size: tuple[int, int] | None) -> None:
    """Replace all values of `net` by those of its weights, positions resampled to its size, without the classifier.

    Raises OSError when they cannot be had, ValueError, naming the keys, when they do not fit.
    """
    file = find_weights(source)
    tensors, classifier = _read_tensors(file), source.cfg.classifier
    weights = [f"{name}.weight" for name in ([classifier] if isinstance(classifier, str) else classifier or [])]
    # timm compares keys strictly only where the classifier fits too
    classes = next((len(tensors[name]) for name in weights if name in tensors), 0)
    overlay = {"custom_load": False, "source": None, "label_offset": 0, "state_dict": tensors, "num_classes": classes}
    try:
        loaded = _construct(source, size, 0.0, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes)
    except _REFUSALS as error:
        raise ValueError(
            f"The weights in {file} do not fit {source.name!r}: {shorten_error(error)}. {_HINT}"
        ) from error
    state = loaded.state_dict()
    names = net.state_dict().keys()
    weight_files.fill_module(net, {key: tensor for key, tensor in state.items() if key in names}, file, _HINT)


_HINT = "Name the net that they are of, without arch, or set weights=False."


def _check_arguments(arch: Mapping[str, Any]) -> dict[str, Any]:
    for key in arch:
        if key in _ARGUMENTS:
            raise ValueError(f"arch has no {key!r}: it is the argument {_ARGUMENTS[key]!r} of encoders.Timm.")
        if not str(key).isidentifier():
            raise ValueError(f"arch takes keywords of timm's constructor, and {key!r} is none.")
        if key in _FIXED:
            raise ValueError(f"arch has no {key!r}: encoders.Timm decides it, reading tokens of RGB images.")
    return dict(arch)


def _describe_unknown(name: str) -> str:
    from timm.models import is_model, list_models, list_pretrained

    if "/" in name or "\\" in name or name.startswith((".", "~")):
        return (
            f"There is no folder {name!r} (looked in {Path.cwd()}), and timm has no such net. For a repository in "
            f"timm's format: hf download {name} --local-dir weights/NAME, then name='weights/NAME'. For a model of "
            f"transformers use encoders.HFVision."
        )
    architecture, _, tag = name.partition(".")
    if tag and is_model(architecture):
        tags = list_pretrained(f"{architecture}.*")
        return f"timm has no weights {name!r}. Of {architecture} there are: {', '.join(tags) or 'none'}."
    names = [*list_models(), *list_pretrained()]
    close = get_close_matches(name, names, 3) or [known for known in names if name and name in known][:3]
    hint = (
        f"Did you mean {' or '.join(map(repr, close))}?"
        if close
        else "Names: python -c 'import timm; print(timm.list_models())'."
    )
    return f"timm has no net {name!r}. {hint}"


def _from_folder(name: str, folder: Path, file: Path | None, arch: dict[str, Any]) -> TimmSource:
    from timm.models import PretrainedCfg, is_model

    config = folder / "config.json"
    if not config.is_file() and (folder / "open_clip_config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds a model of open_clip (open_clip_config.json), without timm's config.json: give timm's "
            f"name of its image tower, such as 'vit_base_patch16_clip_224.openai', and its weights as checkpoint."
        )
    files = f" and model.safetensors, as `hf download timm/NAME --local-dir {folder}` writes them."
    content = weight_files.read_config(config, files)
    if not is_model(content.get("architecture", "")):
        other = content.get("model_type")
        hint = f"It describes transformers' {other!r}: use encoders.HFVision." if other else "Download it again."
        raise ValueError(f"{config} names no architecture that timm has. {hint}")
    known = {field.name for field in dataclasses.fields(PretrainedCfg)} - {"file", "state_dict", "source"}
    # the oldest files have the description on the top level
    described = content.get("pretrained_cfg") or content
    cfg = PretrainedCfg(**{key: value for key, value in described.items() if key in known})
    saved = {
        key: value
        for key, value in (content.get("model_args") or {}).items()
        if key.isidentifier()
        and key not in _FIXED
        and (key == "img_size" or key not in _ARGUMENTS)  # what would load, or change, other files
    }
    changes = {"architecture": content["architecture"]}
    if "img_size" in saved:
        size = saved.pop("img_size")
        changes |= {"input_size": (3, *([size] * 2 if isinstance(size, int) else size)), "fixed_input_size": True}
    cfg = dataclasses.replace(cfg, **changes)
    return TimmSource(name, content["architecture"], {**saved, **arch}, cfg, file=file, folder=folder)


def _download(source: TimmSource) -> Path:
    repository, url, revision = source.cfg.hf_hub_id, _find_url(source.cfg), source.revision
    short = source.architecture + (f".{source.cfg.tag}" if source.cfg.tag else "")
    if not repository and url is None:
        raise ValueError(f"timm has no weights of {source.name!r}: set weights=False, or give a checkpoint.")
    if not repository:
        target = f"weights/{short}{Path(url or '').suffix}"
        raise FileNotFoundError(
            f"The weights of {source.name!r} are not on the Hugging Face Hub.\n"
            f"  1. curl -L --create-dirs -o {target} {url}\n"
            f"  2. Run again with the override model.backbone.checkpoint={target}"
        )
    subject, target = f"The weights of encoders.Timm {source.name!r} ({repository}) are", f"weights/{short}"
    steps = partial(
        hub.format_download_steps, subject, repository, target, revision=revision, alternatives=[hub.RANDOM_WEIGHTS]
    )
    for name in _FILES:  # most repositories hold the first, and the others beside it would be downloaded in vain
        folder = hub.snapshot(
            repository, ["config.json", name], lambda folder: bool(_find_file(folder)), steps, revision
        )
        file = _find_file(folder)
        if file is not None:
            return file
    raise FileNotFoundError(f"{repository} has none of {', '.join(_FILES)}.")


def _find_url(cfg: PretrainedCfg) -> str | None:
    """The address of the weights; timm writes one, or (repository, file)."""
    return cfg.url if isinstance(cfg.url, str) and cfg.url else None


def _find_file(folder: Path) -> Path | None:
    return next((folder / name for name in _FILES if (folder / name).is_file()), None)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file; nothing else in a .pth, .pt or .bin is unpickled, so that no code of it runs."""
    from timm.models import load_state_dict

    try:
        content = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # pickle raises anything on a damaged file
        raise OSError(
            f"{file} cannot be read as a checkpoint of tensors alone: it is damaged, or holds objects whose code would "
            "have to run. Download it again, best as .safetensors."
        ) from error
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise OSError(f"{file} holds no tensors. Download it again.")
    return tensors
