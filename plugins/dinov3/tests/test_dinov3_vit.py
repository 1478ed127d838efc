"""The vision transformer: numbers of the reference implementation, sizes, abilities, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from toolbox_dinov3.ids import KNOWN
from toolbox_dinov3.vit import ViT

GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "num_register_tokens": 2,
}


def tiny(size: int = 32, seed: int = 0, **arguments) -> ViT:
    torch.manual_seed(seed)
    return ViT(name=None, arch=TINY, size=size, **arguments)


class Golden:
    """One file of reference numbers, and an encoder with its weights."""

    def __init__(self, kind: str, **arguments):
        self.data = dict(np.load(GOLDEN / f"dinov3_vit_{kind}.npz", allow_pickle=False))
        data = self.data
        gated = kind == "swiglu"
        arch = {
            "hidden_size": int(data["param_embed_dim"]),
            "num_hidden_layers": int(data["param_depth"]),
            "num_attention_heads": int(data["param_num_heads"]),
            "patch_size": int(data["param_patch_size"]),
            "num_register_tokens": int(data["param_n_registers"]),
            "intermediate_size": 128,
            "use_gated_mlp": gated,
            "hidden_act": "silu" if gated else "gelu",
            "key_bias": not bool(data["param_mask_k_bias"]),
        }
        self.vit = ViT(name=None, arch=arch, size=64, **arguments).eval()
        state = self._state(arch["key_bias"])
        nested = "model.layer.0.norm1.weight" in self.vit.model.state_dict()
        if not nested:
            state = {key.removeprefix("model."): value for key, value in state.items()}
        self.vit.model.load_state_dict(state)

    def __call__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.data[key])

    def _state(self, key_bias: bool) -> dict[str, torch.Tensor]:
        names = {
            "attn.proj": "attention.o_proj",
            "ls1.gamma": "layer_scale1.lambda1",
            "ls2.gamma": "layer_scale2.lambda1",
            "mlp.fc1": "mlp.up_proj",
            "mlp.fc2": "mlp.down_proj",
            "mlp.w1": "mlp.gate_proj",
            "mlp.w2": "mlp.up_proj",
            "mlp.w3": "mlp.down_proj",
            "blocks.": "model.layer.",
            "patch_embed.proj": "embeddings.patch_embeddings",
            "storage_tokens": "embeddings.register_tokens",
        }
        state = {}
        for key in self.data:
            if not key.startswith("sd_") or "periods" in key or "bias_mask" in key:
                continue
            name, value = key[3:], self(key)
            for old, new in names.items():
                name = name.replace(old, new)
            if name in ("cls_token", "mask_token"):
                name, value = f"embeddings.{name}", value.reshape(1, 1, -1)
            if ".qkv." in name:
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    if letter == "k" and name.endswith("bias") and not key_bias:
                        continue
                    state[name.replace("attn.qkv", f"attention.{letter}_proj")] = part
            else:
                state[name] = value
        return state


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
def test_outputs_equal_the_reference(kind, attention):
    golden = Golden(kind, attention=attention)
    pixels, masks = golden("in_pixels"), golden("in_masks")
    rows, columns = pixels.shape[2] // 8, pixels.shape[3] // 8
    for mask, prefix in ((None, "out_"), (masks, "out_masked_")):
        features = golden.vit(pixels, mask=mask)
        assert features.prefix == 3
        assert features.grid == (rows, columns)
        close(features.tokens[:, 0], golden(f"{prefix}cls"))
        close(features.tokens[:, 1:3], golden(f"{prefix}registers"))
        close(features.tokens[:, 3:], golden(f"{prefix}patches"))
    small = golden.vit(golden("in_pixels_small"))
    close(small.tokens[:, 0], golden("out_small_cls"))
    close(small.tokens[:, 3:], golden("out_small_patches"))


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
def test_blocks_are_the_last_ones_after_the_final_norm(kind):
    golden = Golden(kind)
    features = golden.vit(golden("in_pixels"), layers=2)
    assert len(features.blocks) == 2
    for index, block in enumerate(features.blocks):
        close(block[:, 0], golden(f"out_block{index}_normed_cls"))
        close(block[:, 3:].mean(1), golden(f"out_block{index}_normed_patch_mean"))
    assert torch.equal(features.blocks[-1], features.tokens)


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
def test_gradients_equal_the_reference(kind):
    golden = Golden(kind)
    tokens = golden.vit(golden("in_pixels"), mask=golden("in_masks")).tokens
    loss = (tokens[:, 3:] * golden("in_grad_weight_patches")).mean()
    loss = loss + (tokens[:, 0] * golden("in_grad_weight_cls")).mean()
    close(loss.detach(), golden("out_grad_scalar"))
    loss.backward()
    embeddings = golden.vit.model.embeddings
    for actual, key in (
        (embeddings.mask_token, "mask_token"),
        (embeddings.cls_token, "cls_token"),
        (embeddings.register_tokens, "storage_tokens"),
        (embeddings.patch_embeddings.bias, "patch_embed_bias"),
        (golden.vit.layers()[0].layer_scale1.lambda1, "block0_ls1_gamma"),
    ):
        expected = golden(f"grad_{key}")
        assert (actual.grad.flatten() - expected.flatten()).abs().max() < 1e-5 * expected.abs().max()


VITS = [known for known in KNOWN if known.family == "vit"]
PUBLISHED = {
    "vits16": 21e6,
    "vits16plus": 29e6,
    "vitb16": 86e6,
    "vitl16": 300e6,
    "vith16plus": 840e6,
    "vit7b16": 6716e6,
    "vitl16-sat": 300e6,
    "vit7b16-sat": 6716e6,
}


@pytest.mark.parametrize("known", VITS, ids=lambda known: known.short)
def test_released_sizes(known):
    with torch.device("meta"):
        vit = ViT(known.short)
    width, depth = known.arch["hidden_size"], known.arch["num_hidden_layers"]
    hidden, gated = known.arch["intermediate_size"], known.arch["use_gated_mlp"]
    attention = 4 * width * width + (3 if known.arch["query_bias"] else 1) * width
    feed_forward = (3 if gated else 2) * width * hidden + (2 if gated else 1) * hidden + width
    expected = depth * (attention + feed_forward + 6 * width)  # two norms, two layer scales
    expected += 16 * 16 * 3 * width + width + 6 * width + 2 * width  # patches, cls + mask + 4 registers, final norm
    count = sum(parameter.numel() for parameter in vit.parameters())
    assert count == expected
    assert abs(count / PUBLISHED[known.short] - 1) < 0.03
    assert (vit.dim, len(vit.layers()), vit.prefix, vit.weights_id) == (width, depth, 5, known.id)
    assert ViT.abilities == {"layers", "mask", "checkpointing"}


@pytest.mark.parametrize("known", VITS, ids=lambda known: known.short)
def test_released_settings_that_no_shape_shows(known):
    with torch.device("meta"):
        config = ViT(known.id).model.config
    heads = {384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32}
    assert config.num_attention_heads == heads[config.hidden_size]
    assert (config.layer_norm_eps, config.rope_theta, config.layerscale_value) == (1e-5, 100.0, 1.0)
    assert config.hidden_act == ("silu" if "plus" in known.short or "7b" in known.short else "gelu")
    assert (config.pos_embed_rescale, config.pos_embed_shift, config.pos_embed_jitter) == (None, None, None)
    assert (config.key_bias, config.proj_bias, config.mlp_bias) == (False, True, True)


def test_mean_and_std_of_satellite_weights():
    with torch.device("meta"):
        satellite, web = ViT("vitl16-sat"), ViT("vitl16")
    assert satellite.preprocess().mean == (0.430, 0.411, 0.296)
    assert satellite.preprocess().std == (0.213, 0.156, 0.143)
    assert web.preprocess().mean == (0.485, 0.456, 0.406)


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 opens autocast, which knows no meta device")
def test_meta_forward():
    with torch.device("meta"):
        vit = ViT("vits16", size=64)
        assert vit(torch.empty(2, 3, 64, 96)).tokens.shape == (2, 5 + 4 * 6, 384)


def test_training_mode_is_deterministic_unless_asked_otherwise():
    pixels = torch.randn(2, 3, 32, 32)
    exact = tiny().train()
    assert torch.equal(exact(pixels).tokens, exact(pixels).tokens)
    assert torch.equal(exact(pixels).tokens, exact.eval()(pixels).tokens)
    for option in ({"pos_embed_rescale": 2.0}, {"pos_embed_jitter": 1.5}, {"pos_embed_shift": 0.5}, {"drop_path": 0.5}):
        random = tiny(**option).train()
        assert not torch.equal(random(pixels).tokens, random(pixels).tokens), option
        assert torch.equal(random.eval()(pixels).tokens, exact(pixels).tokens), option


def test_checkpointing_changes_no_gradient():
    pixels = torch.randn(2, 3, 32, 32)
    gradients, saved = [], []
    for checkpointing in (False, True):
        vit = tiny().train()
        if checkpointing:
            vit.enable_checkpointing()
        count = 0

        def pack(tensor):
            nonlocal count
            count += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = vit(pixels, layers=2)
        saved.append(count)
        (features.tokens.square().mean() + features.blocks[0].sum()).backward()
        gradients.append({name: p.grad for name, p in vit.named_parameters()})
    assert saved[1] < saved[0] / 2, "nothing was recomputed"
    for name, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_half_precision_autocast_and_inference_mode():
    vit, pixels = tiny().eval(), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = vit(pixels).tokens
    for attention in ("sdpa", "eager"):
        vit = tiny(attention=attention).train()
        with torch.autocast("cpu", torch.bfloat16):
            tokens = vit(pixels).tokens
        torch.testing.assert_close(tokens.float(), expected, rtol=0, atol=0.1)
        tokens.float().mean().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 30}, r"multiple of 8 pixels, not 30: try 24 or 32"),
        ({"drop_path": 1.0}, "drop_path must be at least 0 and below 1"),
        ({"pos_embed_rescale": 0.5}, "pos_embed_rescale must be None or at least 1"),
        ({"attention": "flash"}, "attention must be 'sdpa' or 'eager'"),
        ({"revision": "main"}, "revision belongs to released weights"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**{"size": 32, **arguments})


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"hiden_size": 32}, "no field 'hiden_size'. Did you mean 'hidden_size'"),
        ({"drop_path_rate": 0.1}, "it is the argument 'drop_path' of dinov3.ViT"),
        ({"zzz": 1}, "no field 'zzz'. It may have patch_size"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "each head's width must be a multiple of 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be made of integers of at least 1"),
        ({"hidden_act": "nonsense"}, "These sizes make no encoder: hidden_act='nonsense'"),
    ],
)
def test_refused_arch(arch, message):
    with pytest.raises(ValueError, match=message):
        ViT(name=None, arch=arch)


def test_name_and_arch_exclude_each_other():
    with pytest.raises(ValueError, match="either name or arch: with arch, set name=None"):
        ViT(arch=TINY)
    with pytest.raises(ValueError, match="needs a name such as 'vitb16'"):
        ViT(name=None)
    vit = tiny()
    assert vit.weights_id is None
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    vit.load_weights()
    assert all(torch.equal(value, before[name]) for name, value in vit.state_dict().items())
    assert vit.model.config.intermediate_size == 128


def test_refused_inputs():
    vit = tiny()
    with pytest.raises(ValueError, match="multiples of 8 pixels, not 32 x 36"):
        vit(torch.zeros(1, 3, 32, 36))
    with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\)"):
        vit(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match="between 1 and 3, the number of blocks, not 4"):
        vit(torch.zeros(1, 3, 32, 32), layers=4)
    with pytest.raises(ValueError, match=r"mask must have shape \(1, 16\)"):
        vit(torch.zeros(1, 3, 32, 32), mask=torch.zeros(1, 19, dtype=torch.bool))
