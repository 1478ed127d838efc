"""An encoder of this family as a folder that transformers, or timm, loads by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from toolbox.base import Exported
from toolbox.utils import export_formats as formats
from toolbox.utils.hf_logging import quiet_transformers

if TYPE_CHECKING:
    from toolbox_dinov3.encoder import Encoder

_LICENSE = (
    "LICENSE: these weights derive from DINOv3, copyright Meta Platforms. The DINOv3 License applies to them, whatever "
    "the licence of the code that trained them: https://ai.meta.com/resources/models-and-libraries/dinov3-license/. "
    "Whoever passes them on passes on a copy of that licence with them."
)
_CONVNEXT_TOKENS = [
    "out = model.forward_features(pixels)",
    "tokens = torch.cat([out.mean(dim=(2, 3))[:, None], out.flatten(2).transpose(1, 2)], dim=1)",
    "tokens = model.head.norm(tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)",
]


def export(encoder: Encoder, folder: Path, *, as_base: bool) -> Exported:
    """What `Backbone.export` says."""
    source, preprocess = encoder._source, encoder.preprocess()
    known = source.known if as_base and encoder.weights_id is not None else None
    if encoder.library == "timm":
        architecture, arguments = _in_timm(encoder)
        hub = known.timm if known is not None and encoder.revision is None else None
        if hub is None:
            cfg = {"fixed_input_size": False, "classifier": "head.fc" if encoder.family == "convnext" else "head"}
            formats.save_timm(encoder.model, folder, architecture, arguments, cfg, preprocess)
        tokens = ["tokens = model.forward_features(pixels)"] if encoder.family == "vit" else _CONVNEXT_TOKENS
        found = formats.timm_code(preprocess, tokens, encoder.prefix, hub, arguments)
    else:
        found = _in_transformers(encoder, folder, None if known is None else known.id)
    if encoder.weights_id is not None:
        found.notes.append(_LICENSE)
    return found


def _in_transformers(encoder: Encoder, folder: Path, hub: str | None) -> Exported:
    pixels, notes = formats.save_processor(folder, encoder.preprocess())
    if hub is None:
        with quiet_transformers():
            encoder.model.save_pretrained(folder)
        load = "model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()"
    else:
        at = "" if encoder.revision is None else f", revision={encoder.revision!r}"
        load = f"model = AutoModel.from_pretrained({hub!r}{at}, trust_remote_code=False).eval()"
    return Exported(
        library="transformers",
        imports=["import torch", "from transformers import AutoImageProcessor, AutoModel"],
        load=[load],
        pixels=pixels,
        tokens=["tokens = model(pixel_values=pixels).last_hidden_state"],
        prefix=encoder.prefix,
        hub=hub,
        notes=notes,
    )


def _in_timm(encoder: Encoder) -> tuple[str, dict[str, Any]]:
    """timm's name of a net, and the keywords that make its `create_model` build the same."""
    source = encoder._source
    pool = {"global_pool": "token"} if encoder.family == "vit" else {}
    if source.architecture is not None:
        return source.architecture, {**pool, **source.arguments}
    if source.known is not None:
        return source.known.timm.partition(".")[0], pool
    if encoder.family == "vit":
        return "vit_small_patch16_dinov3", pool | _vit_arguments(encoder.model)
    return "convnext_tiny", _convnext_arguments(encoder.model)


def _vit_arguments(net: nn.Module) -> dict[str, Any]:
    block = net.blocks[0]
    if net.norm.eps != 1e-5:
        raise ValueError(f"timm's dinov3 nets have norms of eps 1e-5, and this one has {net.norm.eps}")
    gated = hasattr(block.mlp, "fc1_g")
    width = (block.mlp.fc1_g if gated else block.mlp.fc1).out_features
    return {
        "patch_size": net.patch_embed.patch_size[0],
        "embed_dim": net.embed_dim,
        "depth": len(net.blocks),
        "num_heads": block.attn.num_heads,
        "qkv_bias": block.attn.q_bias is not None,
        "mlp_ratio": (width + 0.5) / net.embed_dim,  # rounded down again
        "swiglu_mlp": gated,
        "swiglu_align_to": int(gated),
        "init_values": 1.0,  # any: the values are in the weights
        "num_reg_tokens": net.num_prefix_tokens - 1,
        "rope_temperature": net.rope.temperature,
    }


def _convnext_arguments(net: nn.Module) -> dict[str, Any]:
    return {
        "depths": [len(stage.blocks) for stage in net.stages],
        "dims": [stage.blocks[0].conv_dw.out_channels for stage in net.stages],
        "norm_eps": net.head.norm.eps,
    }
