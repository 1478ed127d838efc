"""An encoder of this family as a folder that transformers loads by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.base import ExportedBackbone
from toolbox.utils.export_formats import save_processor
from toolbox.utils.hf_logging import quiet_transformers

if TYPE_CHECKING:
    from toolbox_dinov3.encoder import TransformersBackbone

_LICENSE = (
    "LICENSE: these weights derive from DINOv3, copyright Meta Platforms. The DINOv3 License applies to them, whatever "
    "the licence of the code that trained them: https://ai.meta.com/resources/models-and-libraries/dinov3-license/. "
    "Whoever passes them on passes on a copy of that licence with them."
)


def export(encoder: TransformersBackbone, folder: Path, *, as_base: bool) -> ExportedBackbone:
    """Write the encoder as `Backbone.export` describes."""
    hub = encoder._source.hub_id if as_base and encoder.weights_id is not None else None
    pixels, notes = save_processor(folder, encoder.preprocess())
    if hub is None:
        with quiet_transformers():
            encoder.model.save_pretrained(folder)
        load = "model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()"
    else:
        at = "" if encoder.revision is None else f", revision={encoder.revision!r}"
        load = f"model = AutoModel.from_pretrained({hub!r}{at}, trust_remote_code=False).eval()"
    if encoder.weights_id is not None:
        notes.append(_LICENSE)
    return ExportedBackbone(
        library="transformers",
        imports=["import torch", "from transformers import AutoImageProcessor, AutoModel"],
        load=[load],
        pixels=pixels,
        tokens=["tokens = model(pixel_values=pixels).last_hidden_state"],
        prefix=encoder.prefix,
        hub=hub,
        notes=notes,
    )
