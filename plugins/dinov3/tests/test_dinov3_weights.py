"""Loading weights: a folder round trip, and one clear message for each way it fails."""

from __future__ import annotations

import json
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.ids import KNOWN
from toolbox_dinov3.vit import ViT

from toolbox.utils import hub
from toolbox.utils.export_formats import save_processor

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "num_register_tokens": 2,
    "use_gated_mlp": True,
    "hidden_act": "silu",
}
CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 2]}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(folder, build=ViT):
    """An encoder of random weights, and the folder that it was saved to."""
    torch.manual_seed(1)
    source = build(name=None, arch=VIT if build is ViT else CONVNEXT, size=32).eval()
    source.model.save_pretrained(folder)
    save_processor(folder, source.preprocess())
    return source, str(folder)


@pytest.mark.parametrize("build", [ViT, ConvNeXt])
def test_round_trip(build, tmp_path, capfd):
    source, folder = saved(tmp_path, build)
    capfd.readouterr()
    torch.manual_seed(2)
    loaded = build(folder, size=32).eval()
    assert loaded.weights_id == folder
    assert loaded.model.config.to_diff_dict().get("pos_embed_rescale", None) is None
    assert not torch.equal(loaded(PIXELS).tokens, source(PIXELS).tokens)
    loaded.load_weights()
    assert torch.equal(loaded(PIXELS).tokens, source(PIXELS).tokens)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert capfd.readouterr() == ("", "")


def test_loading_keeps_what_was_set_before(tmp_path):
    _, folder = saved(tmp_path)
    vit = ViT(folder, size=32, pos_embed_rescale=2.0, drop_path=0.3)
    vit.enable_checkpointing()
    vit.train()
    weight = vit.layers()[0].norm1.weight
    vit.load_weights()
    assert vit.training
    assert vit.layers()[0].norm1.weight is weight
    assert vit.layers()[0].gradient_checkpointing
    assert not torch.equal(vit(PIXELS).tokens, vit(PIXELS).tokens)


def test_loading_into_the_meta_device(tmp_path):
    source, folder = saved(tmp_path)
    with torch.device("meta"):
        vit = ViT(folder, size=32)
    assert next(vit.parameters()).is_meta
    vit.load_weights()
    assert torch.equal(vit.eval()(PIXELS).tokens, source(PIXELS).tokens)


def test_weights_false_leaves_them_random(tmp_path):
    source, folder = saved(tmp_path)
    vit = ViT(folder, size=32, weights=False).eval()
    vit.load_weights()
    assert vit.weights_id is None
    assert not torch.equal(vit(PIXELS).tokens, source(PIXELS).tokens)
    assert ViT("vits16", weights=False, size=32).weights_id is None


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_half_precision_files_are_loaded_in_float32(device, tmp_path):
    source, folder = saved(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({key: value.bfloat16() for key, value in load_file(file).items()}, file, {"format": "pt"})
    with torch.device(device):
        vit = ViT(folder, size=32).eval()
    vit.load_weights()
    assert {parameter.dtype for parameter in vit.parameters()} == {torch.float32}
    torch.testing.assert_close(vit(PIXELS).tokens, source(PIXELS).tokens, rtol=0, atol=0.1)


def test_sharded_weights(tmp_path):
    source, _ = saved(tmp_path / "whole")
    source.model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    save_processor(tmp_path / "parts", source.preprocess())
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    vit = ViT(str(tmp_path / "parts"), size=32).eval()
    vit.load_weights()
    assert torch.equal(vit(PIXELS).tokens, source(PIXELS).tokens)
    gone = sorted((tmp_path / "parts").glob("*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(OSError, match=f"{gone.name} is missing, though the index"):
        vit.load_weights()


def test_mean_and_std_of_a_folder(tmp_path):
    _, folder = saved(tmp_path)
    assert ViT(folder, size=32).preprocess().mean == (0.485, 0.456, 0.406)
    numbers = {"image_mean": [0.43, 0.411, 0.296], "image_std": [0.213, 0.156, 0.143]}
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"image_processor_type": "DINOv3ViTImageProcessorFast", **numbers}))
    preprocess = ViT(folder, size=32).preprocess()
    assert (list(preprocess.mean), list(preprocess.std)) == (numbers["image_mean"], numbers["image_std"])
    assert preprocess.interpolation == "bilinear"  # the class's default
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json, .* satellite weights have mean"):
        ViT(folder, size=32)


def test_released_weights_are_resized_as_their_repositories_say():
    with torch.device("meta"):
        names = ("vits16", "timm/vit_small_patch16_dinov3_qkvb.lvd1689m")
        found = [ViT(name, size=32).preprocess().interpolation for name in names]
    assert found == ["bilinear", "bicubic"]


def change(folder, edit):
    """Rewrite the weights in `folder` after `edit(state)`."""
    file = folder / "model.safetensors"
    state = load_file(file)
    edit(state)
    save_file(state, file, {"format": "pt"})


def rename(state):
    key = next(key for key in state if key.endswith("o_proj.weight"))
    state[key.replace("o_proj", "out_proj")] = state.pop(key)


def narrow(state):
    state["norm.weight"] = state["norm.weight"][:16].clone()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("norm.weight"), r"missing: norm\.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"unexpected: extra\)"),
        (rename, r"missing: .*o_proj\.weight; unexpected: .*out_proj\.weight"),
        (narrow, r"of another shape: norm\.weight"),
    ],
)
def test_keys_that_do_not_fit(edit, message, tmp_path, capfd):
    _, folder = saved(tmp_path)
    change(tmp_path, edit)
    vit = ViT(folder, size=32)
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    capfd.readouterr()
    with pytest.raises(ValueError, match=message):
        vit.load_weights()
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_damaged_weight_files(tmp_path):
    _, folder = saved(tmp_path)
    vit, file = ViT(folder, size=32), tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:100], b""):
        file.write_bytes(content)
        with pytest.raises(OSError, match=r"model\.safetensors is damaged or was cut short"):
            vit.load_weights()
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    with pytest.raises(OSError, match=r"is a Git LFS pointer.*git lfs pull"):
        vit.load_weights()
    file.unlink()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(OSError, match=r"has no model\.safetensors\. It has pytorch_model\.bin, which is not read"):
        vit.load_weights()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="no index of weight files"):
        vit.load_weights()


def test_folder_without_a_usable_configuration(tmp_path):
    with pytest.raises(OSError, match=r"has no config\.json"):
        ViT(str(tmp_path))
    for content in ("{", "[]", ""):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json (is no valid JSON|holds no JSON object)"):
            ViT(str(tmp_path))


def test_folder_of_another_model(tmp_path):
    _, vit = saved(tmp_path / "vit")
    _, convnext = saved(tmp_path / "convnext", ConvNeXt)
    with pytest.raises(ValueError, match=r"'dinov3_vit' model.*: use dinov3\.ViT"):
        ConvNeXt(vit)
    with pytest.raises(ValueError, match=r"'dinov3_convnext' model.*: use dinov3\.ConvNeXt"):
        ViT(convnext)
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(ValueError, match=r"holds a 'dinov2' model.*reads DINOv3 only"):
        ViT(str(tmp_path))
    with pytest.raises(ValueError, match="is a folder: remove revision"):
        ViT(vit, revision="main")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def small():
    with torch.device("meta"):
        return ViT("vits16", size=32)


def test_offline_message_has_every_step(empty_cache, small, monkeypatch, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError) as caught:
        small.load_weights()
    name = "facebook/dinov3-vits16-pretrain-lvd1689m"
    parts = (
        "HF_HUB_OFFLINE is set",
        f"1. Accept the licence, signed in, at https://huggingface.co/{name}\n",
        "2. hf auth login\n",
        "3. In mainland China: export HF_ENDPOINT=https://hf-mirror.com\n",
        f"4. hf download {name} --local-dir weights/vits16\n",
        "5. Run again with the override model.backbone.name=weights/vits16\n",
        "the override model.backbone.weights=False",
    )
    places = [str(caught.value).index(part) for part in parts]
    assert places == sorted(places)
    assert capfd.readouterr() == ("", "")


def test_gated_and_unknown_revision(empty_cache, small, monkeypatch):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(error):
        def ask(*_, **__):
            raise error.__new__(error)

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)

    refuse(errors.GatedRepoError)
    with pytest.raises(OSError, match="licence has to be accepted first"):
        small.load_weights()
    refuse(errors.RevisionNotFoundError)
    with torch.device("meta"):
        vit = ViT("vits16", size=32, revision="v9")
    with pytest.raises(OSError, match="has no revision 'v9'") as caught:
        vit.load_weights()
    assert "hf download facebook/dinov3-vits16-pretrain-lvd1689m --revision v9 --local-dir" in str(caught.value)


def test_no_network_is_found_out_quickly(empty_cache, small, monkeypatch):
    from huggingface_hub import constants

    for module in (constants, pytest.importorskip("huggingface_hub.file_download")):
        if hasattr(module, "ENDPOINT"):
            monkeypatch.setattr(module, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    # older clients retry until the deadline
    with pytest.raises(OSError, match=r"gives no access|did not answer within"):
        small.load_weights()
    assert time.monotonic() - start < hub.DEADLINE + 5


def test_a_hub_that_never_answers_is_given_up(empty_cache, small, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(hub, "DEADLINE", 0.2)
    over = threading.Event()
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: over.wait(60))
    start = time.monotonic()
    with pytest.raises(OSError, match="did not answer within"):
        small.load_weights()
    assert time.monotonic() - start < 30
    over.set()


def test_failed_download(empty_cache, small, monkeypatch):
    import huggingface_hub

    def download(*_, local_files_only=False, **__):
        raise OSError("disk full")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(OSError, match=r"the download failed \(OSError: disk full\)"):
        small.load_weights()


def test_cached_weights_need_no_network(empty_cache, tmp_path, monkeypatch):
    known = next(known for known in KNOWN if known.short == "convnext-tiny")
    torch.manual_seed(3)
    source = ConvNeXt("convnext-tiny", weights=False, size=32).eval()
    repository = empty_cache / f"models--{known.id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    source.model.save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(hub, "explain_unreachable", lambda *_: pytest.fail("the network was asked"))
    net = ConvNeXt("convnext-tiny", size=32).eval()
    net.load_weights()
    assert torch.equal(net(PIXELS).tokens, source(PIXELS).tokens)
