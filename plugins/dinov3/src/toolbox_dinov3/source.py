"""The source of an encoder: a released name, a folder, or sizes in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from toolbox.utils.image_processor import ProcessorSettings, read_image_processor, read_timm_images
from toolbox.utils.weight_files import read_config
from toolbox_dinov3.ids import BY_TIMM_NAME, COMPONENTS, IMAGENET_MEAN, IMAGENET_STD, MODEL_TYPES, Family, ReleasedModel
from toolbox_dinov3.names import find_model
from toolbox_dinov3.timm_config import read_timm_fields

FIELDS: dict[Family, tuple[str, ...]] = {
    "vit": (
        "patch_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "attention_dropout",
        "initializer_range",
        "layer_norm_eps",
        "rope_theta",
        "query_bias",
        "key_bias",
        "value_bias",
        "proj_bias",
        "mlp_bias",
        "layerscale_value",
        "use_gated_mlp",
        "num_register_tokens",
    ),
    "convnext": (
        "hidden_sizes",
        "depths",
        "hidden_act",
        "initializer_range",
        "layer_norm_eps",
        "layer_scale_init_value",
    ),
}
"""The fields of the transformers configurations that describe the structure."""

_ARGUMENTS = {
    "drop_path_rate": "drop_path",
    "image_size": "size",
    "pos_embed_rescale": "pos_embed_rescale",
    "pos_embed_shift": "pos_embed_shift",
    "pos_embed_jitter": "pos_embed_jitter",
    "attn_implementation": "attention",
}


@dataclass(frozen=True)
class Source:
    """A resolved encoder: its structure, its preprocessing of images, and its weights.

    - `fields`: of its transformers configuration; `images`: of its image processor.
    - `known`, `folder`: the released encoder, or the folder, that has its weights.
    - `file`: a checkpoint that has them instead; `revision`: of a download, None for main.
    - `by_timm`: whether they are timm's copy, or a folder in its format.
    """

    fields: dict[str, Any]
    images: ProcessorSettings
    known: ReleasedModel | None = None
    folder: Path | None = None
    file: Path | None = None
    revision: str | None = None
    by_timm: bool = False

    @property
    def weights_id(self) -> str | None:
        """The public id, the folder or the file that has the weights; None for an encoder built from sizes."""
        if self.file is not None or self.folder is not None:
            return str(self.file or self.folder)
        if self.known is None:
            return None
        return self.known.timm_id if self.by_timm else self.known.id

    @property
    def hub_id(self) -> str | None:
        """The name by which transformers itself loads these weights; None for files, folders and timm's copies."""
        return None if self.known is None or self.file is not None or self.by_timm else self.known.id


def find_source(
    family: Family,
    name: str | None,
    arch: Mapping[str, Any] | None,
    revision: str | None,
    checkpoint: str | None = None,
) -> Source:
    """Decide between `name` and `arch`. Reads config.json of a folder, and nothing else from anywhere.

    Raises ValueError for contradictory or unknown values, OSError or ValueError for a folder that is none.
    """
    component = COMPONENTS[family]
    file = None if checkpoint is None else Path(checkpoint).expanduser()
    if file is not None and revision is not None:
        raise ValueError("revision belongs to a repository on the Hub, and checkpoint is a file: remove one.")
    if arch is not None:
        if name is not None:
            raise ValueError(f"{component} takes either name or arch: with arch, set name=None.")
        if revision is not None:
            raise ValueError("revision belongs to released weights; an encoder built from arch has none: remove it.")
        return Source(_check_fields(family, arch), ProcessorSettings(IMAGENET_MEAN, IMAGENET_STD), file=file)
    if name is None:
        raise ValueError(f"{component} needs a name such as 'vitb16' or 'convnext-tiny', or arch with its sizes.")
    origin = find_model(name, family)
    if isinstance(origin, ReleasedModel):
        by_timm = name.removeprefix("timm/") in BY_TIMM_NAME
        # as in their repositories
        images = ProcessorSettings(origin.mean, origin.std, "bicubic" if by_timm else "bilinear")
        by_timm = by_timm and file is None
        return Source(dict(origin.arch), images, known=origin, file=file, revision=revision, by_timm=by_timm)
    if revision is not None:
        raise ValueError(f"revision belongs to the Hugging Face Hub, and {name!r} is a folder: remove revision.")
    source = _from_folder(origin, family)
    return source if file is None else replace(source, file=file, by_timm=False)


def _check_fields(family: Family, arch: Mapping[str, Any]) -> dict[str, Any]:
    for key in arch:
        if key in _ARGUMENTS:
            raise ValueError(
                f"arch has no field {key!r}: it is the argument {_ARGUMENTS[key]!r} of {COMPONENTS[family]}."
            )
        if key not in FIELDS[family]:
            near = get_close_matches(key, FIELDS[family], 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It may have {', '.join(FIELDS[family])}."
            raise ValueError(f"arch has no field {key!r}. {hint}")
    return dict(arch)


def _from_folder(folder: Path, family: Family) -> Source:
    files = f" and model.safetensors, as `hf download ID --local-dir {folder}` writes them."
    fields = read_config(folder / "config.json", files)
    if "architecture" in fields and "model_type" not in fields:
        images = read_timm_images(fields.get("pretrained_cfg") or fields)  # the oldest files have it on the top level
        fields = read_timm_fields(family, fields["architecture"], fields.get("model_args") or {})
        return Source(fields, images, folder=folder, by_timm=True)
    model_type = fields.get("model_type")
    if model_type != MODEL_TYPES[family]:
        other = next((name for name, known_type in MODEL_TYPES.items() if known_type == model_type), None)
        hint = f"use {COMPONENTS[other]}." if other else "this plugin reads DINOv3 only."
        raise ValueError(f"{folder} holds a {model_type!r} model, not {MODEL_TYPES[family]!r}: {hint}")
    structure = {key: fields[key] for key in FIELDS[family] if key in fields}
    return Source(structure, read_image_processor(folder), folder=folder)
