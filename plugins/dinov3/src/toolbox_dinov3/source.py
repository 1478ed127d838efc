"""Where an encoder's structure comes from: a released name, a folder, or sizes written in the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from toolbox.utils.image_processor import ProcessorSettings, read_image_processor, read_timm_images
from toolbox_dinov3.ids import COMPONENTS, IMAGENET_MEAN, IMAGENET_STD, MODEL_TYPES, Family, Known
from toolbox_dinov3.names import find

FIELDS: dict[Family, tuple[str, ...]] = {
    "vit": (
        "patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
        "attention_dropout", "initializer_range", "layer_norm_eps", "rope_theta", "query_bias", "key_bias",
        "value_bias", "proj_bias", "mlp_bias", "layerscale_value", "use_gated_mlp", "num_register_tokens",
    ),
    "convnext": (
        "hidden_sizes", "depths", "hidden_act", "initializer_range", "layer_norm_eps", "layer_scale_init_value",
    ),
}  # fmt: skip
"""The fields of the transformers configurations that describe the structure."""

Library = Literal["transformers", "timm"]

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
    """A resolved encoder: how it is built, how it wants its images, and whose weights it takes.

    - `fields`: of its transformers configuration; `images`: of its image processor.
    - `library`: which library builds it.
    - `architecture`, `arguments`: instead of `fields`, what timm calls it in a folder of its own format.
    """

    fields: dict[str, Any]
    images: ProcessorSettings
    known: Known | None = None
    folder: Path | None = None
    library: Library = "transformers"
    architecture: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def weights_id(self) -> str | None:
        """The public id or the folder that has the weights; None for an encoder built from sizes."""
        if self.known is not None:
            return self.known.timm_id if self.library == "timm" else self.known.id
        return None if self.folder is None else str(self.folder)


def resolve(
    family: Family, name: str | None, arch: Mapping[str, Any] | None, revision: str | None,
    library: Library = "transformers",
) -> Source:  # fmt: skip
    """Decide between `name` and `arch`. Reads config.json of a folder, and nothing else from anywhere.

    Raises ValueError for contradictory or unknown values, OSError or ValueError for a folder that is none.
    """
    component = COMPONENTS[family]
    if library not in ("transformers", "timm"):
        raise ValueError(f"source must be 'transformers' or 'timm', not {library!r}.")
    if arch is not None:
        if name is not None:
            raise ValueError(f"{component} takes either name or arch: with arch, set name=None.")
        if revision is not None:
            raise ValueError("revision belongs to released weights; an encoder built from arch has none: remove it.")
        return Source(_checked(family, arch), ProcessorSettings(IMAGENET_MEAN, IMAGENET_STD), library=library)
    if name is None:
        raise ValueError(f"{component} needs a name such as 'vitb16' or 'convnext-tiny', or arch with its sizes.")
    found = find(name, family, timm=library == "timm")
    if isinstance(found, Known):
        interpolation = "bilinear" if library == "transformers" else "bicubic"  # as in their repositories
        images = ProcessorSettings(found.mean, found.std, interpolation)
        return Source(dict(found.arch), images, known=found, library=library)
    if revision is not None:
        raise ValueError(f"revision belongs to the Hugging Face Hub, and {name!r} is a folder: remove revision.")
    return _from_folder(found, family, library)


def _checked(family: Family, arch: Mapping[str, Any]) -> dict[str, Any]:
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


def _from_folder(folder: Path, family: Family, library: Library) -> Source:
    fields = _json(folder / "config.json")
    if "architecture" in fields and "model_type" not in fields:
        return _from_timm_folder(folder, fields, library)
    found = fields.get("model_type")
    if found != MODEL_TYPES[family]:
        other = next((f for f, model_type in MODEL_TYPES.items() if model_type == found), None)
        hint = f"use {COMPONENTS[other]}." if other else "this plugin reads DINOv3 only."
        raise ValueError(f"{folder} holds a {found!r} model, not {MODEL_TYPES[family]!r}: {hint}")
    return Source(
        {key: fields[key] for key in FIELDS[family] if key in fields},
        read_image_processor(folder),
        folder=folder,
        library=library,
    )


def _from_timm_folder(folder: Path, fields: dict[str, Any], library: Library) -> Source:
    if library != "timm":
        raise ValueError(f"{folder} holds timm's {fields['architecture']!r}: set source='timm'.")
    return Source(
        {},
        read_timm_images(fields.get("pretrained_cfg") or fields),  # the oldest files have it on the top level
        folder=folder,
        library=library,
        architecture=fields["architecture"],
        arguments=dict(fields.get("model_args") or {}),
    )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file.parent} has no {file.name}. A folder in Hugging Face format holds config.json and "
            f"model.safetensors, as `hf download ID --local-dir {file.parent}` writes them."
        )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is no valid JSON ({error}). Download it again.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{file} holds no JSON object. Download it again.")
    return data
