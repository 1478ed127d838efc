"""Files of strangers run no code. Each test tries one way in, with code that would leave a file."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from toolbox_datasets import hf_source
from toolbox_datasets.unpack import unpack_dataset
from toolbox_encoders.hf_vision import HFVision
from toolbox_encoders.timm_backbone import Timm

import toolbox
from toolbox.base.report_items import Gallery, Outcomes, Table
from toolbox.cli.main import main as console
from toolbox.errors import ToolboxError
from toolbox.registry import discover, get_catalog, swap_catalog
from toolbox.utils import weight_files

ROOT = Path(__file__).parent.parent
EVIL = """\
from pathlib import Path
Path({ran!r}).touch()
from toolbox.plugin import Component, hookimpl
namespace = "evil"
@hookimpl
def toolbox_components():
    return [Component("pool", "Pool", "os:system", "")]
"""


class Payload:
    """Unpickling it touches a file."""

    def __init__(self, ran):
        self.ran = ran

    def __reduce__(self):
        return Path.touch, (self.ran,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps."""
    from toolbox.config import load_config
    from toolbox.registry import add_local

    if "toy" not in {plugin.namespace for plugin in get_catalog().plugins}:
        add_local([str(ROOT / "tests/toy_plugin.py")])
    folder = tmp_path_factory.mktemp("trained") / "run"
    recipe = load_config(ROOT / "tests/toy_recipe.py", ["train_cfg.max_steps=2", "env_cfg.device=cpu"])
    toolbox.train(recipe, out=folder)
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of it in an empty folder."""
    shutil.copytree(trained, tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.fixture
def ran(tmp_path):
    """The file that a payload leaves: none does."""
    file = tmp_path / "ran"
    yield file
    assert not file.exists(), "code of a stranger ran"


def tamper(run, change):
    """Change the manifest of a run's last checkpoint by a function of it."""
    file = run / "last" / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def evil_plugin(run, ran, how):
    """A plugin of a stranger, as the manifest may name it."""
    name = "evil_of_a_stranger"
    file = run / f"{name}.py"
    if how == "beside the run":
        file = run.parent / f"{name}.py"
    elif how == "in the checkpoint":
        file = run / "last" / f"{name}.py"
    file.write_text(EVIL.format(ran=str(ran)))
    if how == "through a link":
        (run.parent / "link.py").symlink_to(file)
        return "link.py"
    if how == "as a package":
        file = run / name / "__init__.py"
        file.parent.mkdir()
        file.write_text(EVIL.format(ran=str(ran)))
    return {"as a module": name, "as a package": name, "relative": f"run/../run/{name}.py"}.get(how, str(file))


@pytest.mark.parametrize(
    "how",
    ["in the run", "in the checkpoint", "beside the run", "through a link", "relative", "as a module", "as a package"],
)
def test_a_plugin_that_a_checkpoint_names_is_not_loaded(run, ran, how, monkeypatch):
    named = evil_plugin(run, ran, how)
    if how.startswith("as"):
        monkeypatch.chdir(run)
    tamper(run, lambda manifest: manifest["recipe"].update(plugins=[named]))
    toolbox.load(run)  # its own components are installed: nothing is missed
    tamper(run, lambda manifest: manifest["recipe"]["model"].update(pool={"type": "evil.Pool"}))
    for use in (lambda: toolbox.load(run), lambda: toolbox.export(run, run.parent / "out")):
        with pytest.raises(ToolboxError, match=r"needs the plugin 'evil'.*never is.*plugins=") as caught:
            use()
        assert named in str(caught.value)
    assert "evil" not in {plugin.namespace for plugin in get_catalog().plugins}


def test_a_plugin_that_the_caller_names_is_loaded(run, tmp_path):
    file = tmp_path / "friendly_plugin.py"
    file.write_text(
        "from toolbox.plugin import Component, hookimpl\nfrom toolbox.utils.pool import TokenPool as Pool\n"
        "@hookimpl\ndef toolbox_components():\n"
        "    return [Component('pool', 'Pool', f'{__name__}:Pool', '')]\n"
    )
    tamper(run, lambda manifest: manifest["recipe"].update(plugins=[str(file)]))
    tamper(
        run, lambda manifest: manifest["recipe"]["model"].update(pool={"type": "friendly_plugin.Pool", "mode": "mean"})
    )
    with pytest.raises(ToolboxError, match="friendly_plugin"):
        toolbox.load(run)
    held = swap_catalog(type(get_catalog())(list(get_catalog().plugins)))
    try:
        assert toolbox.load(run, plugins=[str(file)]).recipe["plugins"] == [str(file)]
    finally:
        swap_catalog(held)
        sys.path.remove(str(tmp_path))
        sys.modules.pop("friendly_plugin")


def test_commands_load_no_plugin_of_a_run(run, ran, capsys):
    tamper(run, lambda manifest: manifest["recipe"].update(plugins=[evil_plugin(run, ran, "in the run")]))
    (run.parent / "photos").mkdir()
    Image.new("RGB", (16, 16)).save(run.parent / "photos" / "a.png")
    held = swap_catalog(type(get_catalog())([plugin for plugin in get_catalog().plugins if plugin.namespace != "toy"]))
    try:
        for command, more in (("embed", ["photos", "out.npz"]), ("export", ["out"]), ("mine_negatives", ["n.jsonl"])):
            assert console([command, str(run), *more]) == 2
            said = capsys.readouterr().err
            assert "needs the plugin 'toy'" in said, "the toy plugin of the recipe is a local one too"
            assert "--plugin" in said
        plugin = str(ROOT / "tests/toy_plugin.py")
        assert console(["embed", str(run), "photos", "out.npz", "--plugin", plugin, "--num-workers", "0"]) == 0
    finally:
        swap_catalog(held)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("os.system", "there is no plugin 'os'"),
        ("subprocess.Popen", "there is no plugin 'subprocess'"),
        ("toolbox.api.train", "does not name a component"),
        ("core.pool:Mean", "has no component 'pool:Mean'"),
        ("../evil.Pool", "does not name a component"),
    ],
)
def test_a_type_names_a_component_and_nothing_else(run, text, message):
    tamper(run, lambda manifest: manifest["recipe"]["model"].update(pool={"type": text}))
    with pytest.raises(ToolboxError, match=rf"model\.pool\.type: .*{message}"):
        toolbox.load(run)


@pytest.mark.parametrize(
    "line",
    [
        "__import__('pathlib').Path({ran!r}).touch()",
        "x = __import__('pathlib').Path({ran!r}).touch()",
        "_base_ = ['evil.py']",
        "custom_imports = dict(imports=['evil'])",
        "load_from = 'evil.py'",
        "model = [__import__('pathlib').Path({ran!r}).touch() for _ in 'a']",
        "plugins = ['evil.py']",
    ],
)
def test_the_recipe_of_a_run_is_data(run, ran, line):
    """`tools/test.py RUN/config.py RUN` is how a run is judged again: that runs nothing of the run either."""
    for folder in (run, run.parent):
        (folder / "evil.py").write_text(EVIL.format(ran=str(ran)))
    with (run / "config.py").open("a") as file:
        file.write(line.format(ran=str(ran)) + "\n")
    with pytest.raises(ToolboxError) if "plugins" not in line else pytest.MonkeyPatch.context():
        toolbox.evaluate(toolbox.load_config(run / "config.py"), run, split="val", device="cpu")
    toolbox.load(run)


def test_the_recipe_of_a_run_is_used(run):
    before = json.loads((run / "train_results.json").read_text())["after"]
    found = toolbox.evaluate(toolbox.load_config(run / "config.py"), run, split="val", device="cpu")
    assert found == before


@pytest.mark.parametrize("name", ["../../secret.json", "/etc/hostname", "adapters/../../../x", "C:x", "..\\x"])
def test_a_manifest_names_files_of_its_folder(run, name):
    tamper(run, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(ToolboxError, match="leads out of the folder"):
        toolbox.load(run)


@pytest.mark.parametrize(
    "change",
    [{"recipe": []}, {"files": []}, {"step": "3"}, {"frozen": None}, {"classes": "x"}, {"files": {"state.json": 3}}],
)
def test_a_manifest_of_other_types_is_refused(run, change):
    tamper(run, lambda manifest: manifest.update(change))
    with pytest.raises(ToolboxError, match="damaged"):
        toolbox.load(run)


def test_a_manifest_nested_without_end_is_refused(run):
    (run / "last" / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(ToolboxError, match="damaged"):
        toolbox.load(run)


def test_shards_are_read_as_numbers(run, ran):
    """torch's own format of sharded checkpoints has a pickle beside the numbers; ours has none, and reads none."""
    last = (run / "last").resolve()
    (last / "model").mkdir()
    whole = (last / "model.safetensors").read_bytes()
    (last / "model" / "shard-00001-model-00001-of-00001.safetensors").write_bytes(whole)
    (last / "model" / ".metadata").write_bytes(pickle.dumps(Payload(ran)))
    (last / "model" / "x.distcp").write_bytes(pickle.dumps(Payload(ran)))
    toolbox.load(last)


def pickled(file, ran):
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "hook": Payload(ran)}, file)


@pytest.mark.parametrize("ending", ["pth", "pt", "bin", "ckpt", "safetensors", "pth.tar"])
def test_a_pickle_as_weights_of_timm_runs_nothing(tmp_path, ran, ending, monkeypatch):
    """Also with a timm that reads pickles: older ones do by default."""
    import timm.models._helpers as helpers

    file = tmp_path / f"weights.{ending}"
    pickled(file, ran)
    with pytest.raises(OSError, match=r"cannot be read as a checkpoint of tensors alone|is damaged"):
        Timm("resnet18", checkpoint=str(file), size=64).load_weights()
    asked = []
    monkeypatch.setattr(torch, "load", lambda *_, **options: asked.append(options) or {})
    monkeypatch.setattr(helpers, "_torch_load", lambda *_, **options: asked.append(options) or {}, raising=False)
    with pytest.raises(OSError, match=r"holds no tensors|is damaged"):
        Timm("resnet18", checkpoint=str(file), size=64).load_weights()
    assert all(options.get("weights_only") is True for options in asked)
    assert asked or ending == "safetensors"


def timm_folder(folder, **more):
    content = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 64, 64]}, **more}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_a_folder_of_timm_loads_its_own_weights_as_numbers(tmp_path, ran):
    folder = timm_folder(
        tmp_path / "net", model_args={"checkpoint_path": str(tmp_path / "evil.pth"), "pretrained": True}
    )
    pickled(tmp_path / "evil.pth", ran)
    pickled(folder / "pytorch_model.bin", ran)
    with pytest.raises(OSError, match="tensors alone"):
        Timm(str(folder)).load_weights()


def test_keywords_that_stand_in_lines_are_words(tmp_path, ran):
    """The lines of an export's README are run: what comes from a recipe is no code in them."""
    key = f"x=__import__('pathlib').Path({str(ran)!r}).touch(), y"
    with pytest.raises(ValueError, match="keywords"):
        Timm("resnet18", arch={key: None}, weights=False)
    Timm(str(timm_folder(tmp_path / "net", model_args={key: None})), weights=False).export(tmp_path / "out")


def hf_folder(folder, **changes):
    from transformers import Dinov2Config

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, mlp_ratio=1
    ).to_dict()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "resample": 3,
                "size": {"shortest_edge": 28},
                "crop_size": {"height": 28, "width": 28},
                "image_processor_type": "BitImageProcessor",
            }
        )
    )
    return folder


def test_a_folder_of_transformers_brings_no_code(tmp_path, ran, monkeypatch):
    """`auto_map` names a module in the folder; with nobody to say no, transformers would ask on the terminal."""
    from transformers import AutoConfig, PreTrainedModel

    said = []
    for cls in (AutoConfig, PreTrainedModel):
        real = cls.from_pretrained.__func__
        monkeypatch.setattr(
            cls,
            "from_pretrained",
            classmethod(lambda c, *a, _real=real, **k: said.append(k.get("trust_remote_code")) or _real(c, *a, **k)),
        )
    auto = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoImageProcessor": "evil.Processor"}
    folder = hf_folder(tmp_path / "net", auto_map=auto)
    (folder / "evil.py").write_text(EVIL.format(ran=str(ran)))
    HFVision(str(folder), weights=False).model.save_pretrained(folder)
    assert "auto_map" not in json.loads((folder / "config.json").read_text()), "an export does not pass it on"
    hf_folder(tmp_path / "again", auto_map=auto)
    shutil.copy(folder / "model.safetensors", tmp_path / "again")
    shutil.copy(folder / "evil.py", tmp_path / "again")
    HFVision(str(tmp_path / "again")).load_weights()
    assert len(said) >= 3
    assert all(value is False for value in said)
    alone = hf_folder(tmp_path / "alone", auto_map=auto, model_type="evil")
    shutil.copy(folder / "evil.py", alone)
    with pytest.raises(ValueError, match=r"transformers cannot read .*alone"):
        HFVision(str(alone))


def test_a_bin_of_transformers_runs_nothing(tmp_path, ran):
    folder = hf_folder(tmp_path / "net")
    pickled(folder / "pytorch_model.bin", ran)
    with pytest.raises((OSError, ValueError, pickle.UnpicklingError)):
        HFVision(str(folder)).load_weights()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
def test_a_config_asks_for_no_kernel_of_the_hub(tmp_path, key):
    for value in ("evil/kernel", "evil/kernel:attention", {"vision_config": "evil/kernel"}):
        folder = hf_folder(tmp_path / f"{key}{len(str(value))}", **{key: value})
        with pytest.raises(ValueError, match="code of the Hub"):
            HFVision(str(folder), weights=False)
    weight_files.check_config({key: "sdpa"}, Path("config.json"))


def test_an_adapter_in_a_folder_of_weights_names_no_other_weights(tmp_path):
    folder = hf_folder(tmp_path / "net")
    HFVision(str(folder), weights=False).model.save_pretrained(folder)
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "evil/model", "auto_mapping": {"parent_library": "evil"}})
    )
    with pytest.raises(ValueError, match="adapter of peft"):
        HFVision(str(folder)).load_weights()


def test_every_call_of_transformers_says_no():
    """Each `Auto... .from_pretrained` and `type(model).from_pretrained` of the sources, README lines included."""
    found = 0
    for file in [*(ROOT / "toolbox").rglob("*.py"), *(ROOT / "plugins").rglob("src/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                found += 1
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert said.get("trust_remote_code") == "False", f"{file}:{node.lineno}"
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and ".from_pretrained(folder" in node.value
            ):
                found += 1
                assert "trust_remote_code=False" in node.value, f"{file}:{node.lineno}"
        text = file.read_text()
        for word in (
            "torch.load(",
            "torch.hub",
            "yaml.load(",
            "allow_pickle=True",
            "trust_remote_code=True",
            "weights_only=False",
            "joblib",
            "shell=True",
        ):
            assert word not in text, f"{file}: {word}"
    assert found >= 5


def test_metadata_in_the_current_folder_are_no_installed_plugin(tmp_path, ran, monkeypatch):
    """Python has the current folder on sys.path in notebooks."""
    (tmp_path / "evil_metadata.py").write_text(EVIL.format(ran=str(ran)))
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[toolbox.v1]\nevil = evil_metadata\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert "evil" not in {plugin.namespace for plugin in discover()[0]}


def test_old_versions_of_datasets_are_refused(tmp_path, ran, monkeypatch):
    """They run the script that lies in a folder."""
    import datasets

    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(OSError, match="too old"):
        hf_source.load_data(str(tmp_path), None, None)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "..\\outside"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_stay_in_their_folder(tmp_path, name, kind):
    source = tmp_path / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("top/mark", "")
            archive.writestr(name, "x")
    else:
        with tarfile.open(source, "w") as archive:
            for member in ("top/mark", name):
                archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(ValueError, match="leads out of the folder"):
        unpack_dataset(source, tmp_path / "out", "mark")
    assert not (tmp_path / "outside").exists()


def test_links_in_archives_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        for name, kind in (("top/mark", tarfile.REGTYPE), ("top/link", tarfile.SYMTYPE), ("top/hard", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret")
            archive.addfile(member, io.BytesIO())
    unpack_dataset(tmp_path / "data.tar", tmp_path / "out", "mark")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mark"]


def test_an_archive_larger_than_the_disk_is_refused_first(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/mark", b"0" * 2_000_000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(OSError, match="unpacks to"):
        unpack_dataset(tmp_path / "data.zip", tmp_path / "out", "mark")
    assert not (tmp_path / "out").exists()


SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def test_names_in_pages_are_text(tmp_path):
    """Names of classes, files and items, and numbers' names, come from others' data."""
    from toolbox_classification.commands.prediction_page import write_page

    from toolbox.inference.image_sources import find_image_sources
    from toolbox.report import save_report_items, write_report
    from toolbox.report.compare import compare_runs
    from toolbox.report.compare_page import write_comparison

    name = SCRIPT.replace("/", "") + ".png"
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = find_image_sources(str(tmp_path))
    pages = [write_page(tmp_path / "p.html", found, [0], [SCRIPT], [[(SCRIPT, 0.5)]], model=SCRIPT)]
    for run in ("a", "b"):
        folder = tmp_path / run
        folder.mkdir()
        results = {"before": {SCRIPT: 0.5}, "after": {SCRIPT: 0.6}, "device": SCRIPT, "steps": 1}
        (folder / "train_results.json").write_text(json.dumps(results))
        (folder / "config.py").write_text(f"x = {SCRIPT!r}\ny = {run!r}\n")
        report_items = [
            Table(SCRIPT, [SCRIPT], [[SCRIPT]]),
            Outcomes(SCRIPT, [SCRIPT, "b"], [run == "a", True]),
            Gallery(SCRIPT, []),
        ]
        save_report_items(folder, report_items)
        pages.append(write_report(folder, results, (found, report_items)))
    comparison = compare_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    pages.append(write_comparison(tmp_path / "compare", comparison, None, SCRIPT))
    for page in pages:
        text = Path(page).read_text()
        assert "<script>alert" not in text, page
        assert "<img src=x" not in text, page
        assert "&lt;script&gt;" in text, page
        assert "default-src 'none'" in text, "a page may run and load nothing"


def test_checksums_are_of_what_is_read(run):
    """A file is not swapped for another of the same size."""
    file = run / "last" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ToolboxError, match="not what was written"):
        toolbox.load(run / "last")
    assert hashlib.sha256(data).hexdigest()
