"""The source of a model of transformers: its configuration, and its weights where these are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolbox.utils import hub, weight_files
from toolbox.utils.hf_logging import quiet_transformers
from toolbox.utils.image_processor import PROCESSOR_FILES, ProcessorSettings, read_image_processor
from toolbox.utils.messages import shorten_error

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

CONFIGS = ("config.json", *PROCESSOR_FILES)
_WEIGHTS = (
    ("model*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
)
_SCRATCH = ProcessorSettings((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of a model without weights, which may be trained on images of any scale: ImageNet's."""


@dataclass(frozen=True)
class HFSource:
    """A model of transformers that encodes images or texts.

    - `name`: as the user wrote it; `config`: of the part that encodes, alone.
    - `images`: the settings of its image processor; `shared`: the width of the space that it shares with another
      tower, None where it is part of no pair.
    - `folder`, `repository`, `revision`: where its weights are; none for a model that `arch` describes.
    - `component`: that names it, for messages; `files`: the folder with its configuration.
    """

    name: str
    config: PretrainedConfig
    images: ProcessorSettings = _SCRATCH
    folder: Path | None = None
    repository: str | None = None
    revision: str | None = None
    component: str = "encoders.HFVision"
    shared: int | None = None
    files: Path | None = None

    @property
    def weights_id(self) -> str | None:
        return self.repository if self.folder is None else str(self.folder)


def find_source(name: str | None, revision: str | None, arch: Mapping[str, Any] | None, size: int | None) -> HFSource:
    """Decide between `name` and `arch`; the configuration of a name on the Hub is downloaded if it is not cached.

    - `size`: of the images, for which `arch` has positions unless it says otherwise.

    Raises ValueError for contradictory or unknown values, OSError, with the steps to take, for files that are missing.
    """
    if arch is not None:
        check_arch_alone("encoders.HFVision", name, revision)
        config = make_config(arch, size, "'dinov2', 'vit' or 'siglip_vision_model'")
        return HFSource("arch", get_vision_part(config, "arch"), shared=get_shared_width(config))
    folder, on_hub = find_folder(name, revision, "encoders.HFVision", "facebook/dinov2-base", CONFIGS)
    config = read_config(folder)
    name = str(name)
    return HFSource(
        name,
        get_vision_part(config, name),
        read_image_processor(folder),
        folder=None if on_hub else folder,
        repository=name if on_hub else None,
        revision=revision,
        shared=get_shared_width(config),
    )


def check_arch_alone(component: str, name: str | None, revision: str | None) -> None:
    """Raise ValueError where a `component` with `arch` also has a name or a revision."""
    if name is not None or revision is not None:
        raise ValueError(f"{component} takes either name or arch: with arch, set name=None and no revision.")


def find_folder(
    name: str | None, revision: str | None, component: str, example: str, patterns: Sequence[str]
) -> tuple[Path, bool]:
    """The folder with the configuration of `name`, and whether that is a repository on the Hub.

    - `component`, `example`: for messages, `example` being such a repository; `patterns`: the files to have of it.

    Raises ValueError for a name that is neither, OSError, with the steps to take, for files that cannot be had.
    """
    if not name:
        raise ValueError(f"{component} needs a name such as {example!r}, a folder, or arch with its sizes.")
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision belongs to the Hugging Face Hub, and {name!r} is a folder: remove revision.")
        return path, False
    if path.is_file() or name.startswith((".", "~", "/")) or name.count("/") != 1 or "\\" in name:
        timm = "; for nets of timm use encoders.Timm" if component == "encoders.HFVision" else ""
        raise ValueError(
            f"There is no folder {name!r} (looked in {Path.cwd()}). Give a folder with config.json and "
            f"model.safetensors, or an id of the Hugging Face Hub such as {example!r}{timm}."
        )
    steps = _make_steps("configuration", name, revision, component)
    return hub.snapshot(name, patterns, lambda folder: (folder / "config.json").is_file(), steps, revision), True


def get_shared_width(config: PretrainedConfig) -> int | None:
    """The width of CLIP's shared space, by the configuration of a pair or of one of its towers; None without one."""
    width = getattr(config, "projection_dim", None)
    return width if isinstance(width, int) else None


def read_projection(source: HFSource, key: str) -> Tensor:
    """The tensor `key` of the weights of `source`. Raises OSError or ValueError where there is none."""
    folder = find_weights(source)
    safe = any(folder.glob("model*.safetensors"))
    files = weight_files.list_weight_files(folder) if safe else sorted(folder.glob("pytorch_model*.bin"))
    for file in files:
        tensors = weight_files.read_weight_file(file)
        if key in tensors:
            return tensors[key]
    raise ValueError(f"The weights of {source.name!r} have no {key}: set projection=False.")


def get_vision_part(config: PretrainedConfig, name: str) -> PretrainedConfig:
    """The part of a configuration that describes the image encoder. Raises ValueError where transformers has none."""
    from transformers import AutoModel

    config = getattr(config, "vision_config", None) or config
    if config.model_type == "timm_wrapper":
        raise ValueError(f"{name!r} is a net of timm: use encoders.Timm.")
    if type(config) not in AutoModel._model_mapping:
        raise ValueError(
            f"transformers has no model of its own for the images of {name!r} ({config.model_type}): use "
            f"encoders.Timm, or a backbone of another plugin."
        )
    return config


def create_model(source: HFSource) -> PreTrainedModel:
    """A model of random weights, without a pooler that the tokens do not need. Raises ValueError if there is none."""
    try:
        return find_model_class(source.config)._from_config(source.config, **_options(source.config))
    except Exception as error:  # the types of transformers' own complaints differ by version
        what = f"{type(error).__name__}: {shorten_error(error)}"
        raise ValueError(f"transformers cannot build {source.name!r} ({what}).") from error


def find_weights(source: HFSource) -> Path:
    """The folder with the weights, downloaded if need be. Raises OSError, with the steps to take."""
    if source.folder is not None:
        _check(source.folder)
        return source.folder
    if source.repository is None:
        raise ValueError("arch describes a model without weights: set weights=False.")
    steps = _make_steps("weights", source.repository, source.revision, source.component)
    for patterns in _WEIGHTS:  # most repositories hold the first, and the others beside it would be downloaded in vain
        folder = hub.snapshot(source.repository, (*CONFIGS, *patterns), _has_weights, steps, source.revision)
        if _has_weights(folder):
            break
    _check(folder)
    return folder


def load_weights(model: PreTrainedModel, source: HFSource) -> None:
    """Replace all values of `model` by those of its weights, in float32.

    Those of other parts, such as a text tower or a classifier, are left out.
    Raises OSError when they cannot be had, ValueError, naming the keys, when they do not fit.
    """
    folder = find_weights(source)
    model_class: Any = type(model)  # whose annotations do not tell what `output_loading_info` adds
    with quiet_transformers():
        loaded, report = model_class.from_pretrained(
            str(folder),
            config=model.config,
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,
            weights_only=True,
            **_options(model.config),
        )
    names = model.state_dict().keys()
    problems = {}
    for kind, label in (("missing_keys", "missing"), ("mismatched_keys", "of another shape")):
        keys = [key if isinstance(key, str) else key[0] for key in report.get(kind, ())]
        problems[label] = [key for key in keys if key in names]
    hint = "Download it again, or correct its config.json."
    weight_files.raise_misfit(problems, folder, hint)
    state = loaded.state_dict()
    weight_files.fill_module(model, {key: state[key] for key in names if key in state}, folder, hint)


def save_model(model: PreTrainedModel, source: HFSource, folder: Path | None) -> str:
    """Write a model into `folder`, or nothing for None; returns the line that loads it from there, or from the Hub."""
    options: dict[str, Any] = dict(_options(model.config))
    name, where = "AutoModel", "folder"
    if folder is not None:
        with quiet_transformers():
            model.save_pretrained(folder)
    else:
        name = type(model).__name__  # the Hub's may have a text tower beside it
        where = repr(source.repository)
        if source.revision is not None:
            options["revision"] = source.revision
        if model.config.model_type == "vit_mae":
            options["mask_ratio"] = 0.0
    options["trust_remote_code"] = False
    arguments = "".join(f", {key}={value!r}" for key, value in options.items())
    return f"model = {name}.from_pretrained({where}{arguments}).eval()"


def set_drop_path(config: PretrainedConfig, rate: float) -> None:
    """Make `rate` the probability of skipping a residual branch. Raises ValueError for a model that skips none."""
    now = getattr(config, "drop_path_rate", None)
    if isinstance(now, int | float):
        if rate != now:
            config.drop_path_rate = rate
    elif rate:
        raise ValueError(f"{config.model_type!r} has no single rate of skipped residual branches: remove drop_path.")
    elif now is not None:
        config.drop_path_rate = [0.0] * len(now)


def find_model_class(config: PretrainedConfig) -> Any:
    """The class of transformers that builds the encoder of a configuration; None where there is none."""
    import transformers
    from transformers import AutoModel, AutoModelForTextEncoding

    if getattr(config, "is_encoder_decoder", False) and type(config) in AutoModelForTextEncoding._model_mapping:
        return AutoModelForTextEncoding._model_mapping[type(config)]
    if type(config) not in AutoModel._model_mapping:  # which does not list the text towers of all pairs
        is_tower = config.model_type.endswith("_text_model")
        return getattr(transformers, type(config).__name__.replace("Config", "Model"), None) if is_tower else None
    model_class = AutoModel._model_mapping[type(config)]
    return model_class[0] if isinstance(model_class, tuple) else model_class


def list_fields(model_type: Any) -> set[str]:
    """The fields of the configurations of this type; none for one that transformers does not have."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING_NAMES:
        return set()
    default = AutoConfig.for_model(model_type)
    return set(vars(default)) | set(getattr(default, "attribute_map", {}))


def _options(config: PretrainedConfig) -> dict[str, bool]:
    takes = "add_pooling_layer" in inspect.signature(find_model_class(config).__init__).parameters
    # the pooler of nets that average holds their final norm
    return {"add_pooling_layer": bool(getattr(config, "use_mean_pooling", False))} if takes else {}


def make_config(arch: Mapping[str, Any], size: int | None, examples: str) -> PretrainedConfig:
    """The configuration that `arch` describes; `examples`: of its `model_type`, for the message.

    - `size`: of the images, for which it has positions unless it says otherwise; None for texts.

    Raises ValueError for a type or fields that transformers does not have.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = arch.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        near = get_close_matches(str(kind), CONFIG_MAPPING_NAMES, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"For example {examples}."
        raise ValueError(f"arch needs the model_type of a model in transformers, not {kind!r}. {hint}")
    fields = {key: value for key, value in arch.items() if key != "model_type"}
    default, known = AutoConfig.for_model(kind), list_fields(kind)
    for key in fields:
        if key == "drop_path_rate":
            raise ValueError("arch has no 'drop_path_rate': it is the argument 'drop_path' of encoders.HFVision.")
        if key not in known:
            near = get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else "See the documentation of transformers."
            raise ValueError(f"{kind!r} has no field {key!r}. {hint}")
    default_size = getattr(default, "image_size", None)
    if size is not None and default_size is not None:
        fields.setdefault("image_size", size if isinstance(default_size, int) else [size, size])
    try:
        return AutoConfig.for_model(kind, **fields)
    except Exception as error:  # the types of transformers' own complaints differ by version
        raise ValueError(f"These fields make no {kind!r}: {shorten_error(error)}.") from error


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration in a folder. Raises OSError or ValueError where there is none that transformers knows."""
    from transformers import AutoConfig

    file = folder / "config.json"
    files = f", preprocessor_config.json and model.safetensors: hf download ID --local-dir {folder}"
    content = weight_files.read_config(file, files)
    if "architecture" in content and "model_type" not in content:
        raise ValueError(f"{folder} holds timm's {content['architecture']!r}: use encoders.Timm.")
    weight_files.check_config(content, file)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the types of transformers' own complaints differ by version
        raise ValueError(f"transformers cannot read {file}: {shorten_error(error)}.") from error
    _forget_code(config)
    return config


def _forget_code(config: PretrainedConfig) -> None:
    """Drop `auto_map`: it names code of the repository, which is not run here and shall not be in an export."""
    config.__dict__.pop("auto_map", None)
    for value in list(vars(config).values()):
        if hasattr(value, "model_type"):
            _forget_code(value)


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(patterns[0])) for patterns in _WEIGHTS)


def _check(folder: Path) -> None:
    weight_files.check_no_adapter(folder)
    if any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("model*.safetensors")):
        return  # transformers reads it, tensors only
    weight_files.check_weight_files(folder)


def _make_steps(what: str, repository: str, revision: str | None, component: str) -> Callable[[str], str]:
    subject = f"The {what} of {component} {repository!r} {'is' if what == 'configuration' else 'are'}"
    access = [f"If https://huggingface.co/{repository} asks for it, accept the licence there, and: hf auth login"]
    alternatives = [hub.RANDOM_WEIGHTS] if what == "weights" else []
    return partial(
        hub.format_download_steps,
        subject,
        repository,
        f"weights/{repository.rpartition('/')[2]}",
        revision=revision,
        access=access,
        alternatives=alternatives,
    )
