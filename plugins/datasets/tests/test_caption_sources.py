"""Images with captions as others hand them out become records; what is left out is counted, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from toolbox_datasets.records import Records

from toolbox.cli import prepare_data

COCO = {
    "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}, {"id": 4, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": 3, "caption": "A cat\non a  mat. "},
        {"image_id": 7, "caption": "A dog."},
        {"image_id": 3, "caption": "Ein Kätzchen."},
        {"image_id": 7, "caption": " "},
        {"image_id": 99, "caption": "Nobody."},
    ],
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (10 * number, 0, 0)).save(name, format="JPEG")


def read(path: str) -> dict[str, list[str]]:
    """{image: its texts} as the dataset reads them."""
    dataset = Records(path, mode="i2t")
    assert dataset.check() == []
    samples = [dataset[index] for index in range(len(dataset))]
    listed = [sample["text"] if isinstance(sample["text"], list) else [sample["text"]] for sample in samples]
    return {Path(sample["path"]).name: texts for sample, texts in zip(samples, listed, strict=True)}


def test_the_captions_of_coco():
    save("train2017/a.jpg", "train2017/b.jpg")
    Path("captions.json").write_text(json.dumps(COCO))
    said = Records.prepare("pairs/train.jsonl", source="captions.json", root="train2017")
    assert said.splitlines() == [
        "wrote pairs/train.jsonl: 2 images with 3 captions (1 to 2 an image, 1.50 on average)",
        "left out: 1 captions of images that it does not list",
        "left out: 1 empty captions",
        "left out: 1 images without a caption",
    ]
    assert read("pairs/train.jsonl") == {"b.jpg": ["A dog."], "a.jpg": ["A cat on a mat.", "Ein Kätzchen."]}
    assert json.loads(Path("pairs/train.jsonl").read_text().splitlines()[0])["query_image"] == "../train2017/b.jpg"
    again = Path("pairs/train.jsonl").read_bytes()
    Records.prepare("pairs/train.jsonl", source="captions.json", root="train2017")
    assert Path("pairs/train.jsonl").read_bytes() == again


def karpathy(*splits: str) -> dict:
    images = [
        {"filepath": "val2014", "filename": f"{i}.jpg", "split": split, "sentences": [{"raw": f"text {i}"}] * 2}
        for i, split in enumerate(splits)
    ]
    return {"images": images, "dataset": "coco"}


def test_the_splits_of_karpathy():
    save(*(f"val2014/{i}.jpg" for i in range(5)))
    Path("dataset_coco.json").write_text(json.dumps(karpathy("train", "val", "test", "restval", "test")))
    sizes = {}
    for split in ("train", "val", "test"):
        Records.prepare(f"{split}.jsonl", source="dataset_coco.json", split=split)
        sizes[split] = list(read(f"{split}.jsonl"))
    assert sizes == {"train": ["0.jpg", "3.jpg"], "val": ["1.jpg"], "test": ["2.jpg", "4.jpg"]}
    with pytest.raises(ValueError, match="divides its images: choose --split train, val or test"):
        Records.prepare("all.jsonl", source="dataset_coco.json")
    Path("dataset_coco.json").write_text(json.dumps(karpathy("trian")))
    with pytest.raises(ValueError, match="has the split 'trian', which is none of Karpathy's"):
        Records.prepare("all.jsonl", source="dataset_coco.json", split="train")


def test_karpathys_flickr30k_has_no_folders():
    save("images/1.jpg")
    content = {"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "One."}]}]}
    Path("dataset_flickr30k.json").write_text(json.dumps(content))
    Records.prepare("train.jsonl", source="dataset_flickr30k.json", split="train", root="images")
    assert read("train.jsonl") == {"1.jpg": ["One."]}


def test_the_captions_of_flickr30k():
    save("images/1.jpg", "images/2.jpg")
    Path("results.token").write_text("1.jpg#0\tA man .\n\n1.jpg one\n")
    with pytest.raises(ValueError, match=r"results\.token:3 is no line of Flickr30k"):
        Records.prepare("all.jsonl", source="results.token", root="images")
    lines = ["1.jpg#0\tA man .", "1.jpg#1\tTwo men .", "2.jpg#0\tA dog .", "2.jpg#1\t ", "3.jpg#0\tGone ."]
    Path("results.token").write_text("\r\n".join(lines))
    said = Records.prepare("all.jsonl", source="results.token", root="images")
    assert "left out: 1 images that are not in images" in said
    assert "left out: 1 empty captions" in said
    assert read("all.jsonl") == {"1.jpg": ["A man .", "Two men ."], "2.jpg": ["A dog ."]}


def test_a_source_is_known_by_what_stands_in_it():
    save("1.jpg")
    Path("captions.txt").write_text("1.jpg#0\tA man .\n1.jpg#1\tA man .\n1.jpg#2\tTwo men .\n")
    said = Records.prepare("all.jsonl", source="captions.txt")
    assert said.splitlines()[1:] == ["left out: 1 captions that repeat one of the same image"]
    assert read("all.jsonl") == {"1.jpg": ["A man .", "Two men ."]}
    Path("karpathy").write_text(json.dumps(COCO | {"images": [{"id": 3, "file_name": "./1.jpg"}]}))
    Records.prepare("coco.jsonl", source="karpathy")
    assert read("coco.jsonl") == {"1.jpg": ["A cat on a mat.", "Ein Kätzchen."]}


def test_an_image_is_in_one_split():
    save("1.jpg")
    images = [{"filename": "1.jpg", "split": split, "sentences": [{"raw": split}]} for split in ("train", "restval")]
    Path("twice.json").write_text(json.dumps({"images": images}))
    Records.prepare("train.jsonl", source="twice.json", split="train")
    assert read("train.jsonl") == {"1.jpg": ["train", "restval"]}
    images[1]["split"] = "test"
    Path("twice.json").write_text(json.dumps({"images": images}))
    with pytest.raises(ValueError, match=r"twice\.json: the image 1\.jpg is in 'train' and in 'test'"):
        Records.prepare("test.jsonl", source="twice.json", split="test")


@pytest.mark.parametrize("root", ["images", "link", "linked/images"])
def test_paths_hold_where_folders_are_links(root):
    save("images/1.jpg", "disk/deep/images/1.jpg")
    Path("linked").symlink_to("disk/deep")
    Path("link").symlink_to("images")
    Path("a.token").write_text("1.jpg#0\tone\n")
    Records.prepare("linked/all.jsonl", source="a.token", root=root)
    assert read("linked/all.jsonl") == {"1.jpg": ["one"]}
    path = json.loads(Path("linked/all.jsonl").read_text())["query_image"]
    assert (path == "images/1.jpg") == (root == "linked/images"), "images below the file move with it"


def test_a_folder_of_images_with_texts_beside_them():
    save("own/a.jpg", "own/sub/b.png", "own/c.jpg")
    Path("own/a.txt").write_text("a first line\n\na second\n", encoding="utf-8-sig")
    Path("own/sub/b.txt").write_text("below")
    Path("own/d.txt").write_text("no image")
    said = Records.prepare("own/all.jsonl", source="own")
    assert read("own/all.jsonl") == {"a.jpg": ["a first line", "a second"], "b.png": ["below"]}
    assert "left out: 1 .txt files without an image" in said
    assert "left out: 1 images without a caption" in said
    assert json.loads(Path("own/all.jsonl").read_text().splitlines()[0])["query_image"] == "a.jpg"


def test_texts_beside_images_in_all_their_forms():
    save("own/a.jpg", "own/a.png", "own/b.jpg")
    Path("own/a.txt").write_text("one\u2028line\r\nanother", encoding="utf-8")
    Path("own/b.TXT").write_text("loud")
    Records.prepare("own/all.jsonl", source="own")
    both = ["one line", "another"]
    assert read("own/all.jsonl") == {"a.jpg": both, "a.png": both, "b.jpg": ["loud"]}
    Path("own/a.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(ValueError, match=r"own/a\.txt is no text in UTF-8"):
        Records.prepare("own/new.jsonl", source="own")


def test_a_folder_may_have_a_dot_in_its_name():
    Path("v1.2").mkdir()
    save(*(f"v1.2/{i}.jpg" for i in range(3)))
    Path("v1.2/0.txt").write_text("alone")
    with pytest.raises(
        ValueError, match=r"no image with a caption in \w+ \(3 images in all; a \.jsonl file gets them\)"
    ):
        Records.prepare("v1.2", source="v1.2")
    assert not list(Path("v1.2").glob("*.jsonl")), "all splits, or none"
    for i in range(3):
        Path(f"v1.2/{i}.txt").write_text("a text")
    assert len(Records.prepare("v1.2", source="v1.2").splitlines()) == 3


def test_what_has_no_splits_is_divided_by_names():
    save(*(f"own/{i}.jpg" for i in range(60)))
    for i in range(60):
        Path(f"own/{i}.txt").write_text(f"text {i}")
    parts = {}
    for split in ("train", "val", "test"):
        Records.prepare(f"own/{split}.jsonl", source="own", split=split)
        parts[split] = set(read(f"own/{split}.jsonl"))
    assert set.union(*parts.values()) == {f"{i}.jpg" for i in range(60)}
    assert sum(map(len, parts.values())) == 60
    assert 38 < len(parts["train"]) < 56
    before = parts["train"]
    for split in parts:
        Path(f"own/{split}.jsonl").rename(f"{split}.before")
    said = Records.prepare("own", source="own").splitlines()
    assert [line.split(":")[0] for line in said] == [f"wrote own/{split}.jsonl" for split in ("train", "val", "test")]
    assert all(Path(f"own/{split}.jsonl").read_bytes() == Path(f"{split}.before").read_bytes() for split in parts)
    with pytest.raises(ValueError, match="is a folder, which gets all splits"):
        Records.prepare("own", source="own", split="val")
    save("own/new.jpg")
    Path("own/new.txt").write_text("new")
    Path("own/train.jsonl").unlink()
    Records.prepare("own/train.jsonl", source="own", split="train")
    assert set(read("own/train.jsonl")) - {"new.jpg"} == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is no JSON: give the captions of COCO"),
        ("a.json", "[]", "holds no images with captions"),
        ("a.json", json.dumps({"images": []}), "holds no images with captions"),
        ("a.json", json.dumps({"images": [{"id": 1}], "annotations": []}), "is not as COCO and Karpathy have it"),
        ("a.json", json.dumps(COCO | {"annotations": [{"image_id": 3, "bbox": []}]}), "have no captions"),
        ("a.json", json.dumps(COCO | {"annotations": []}), "has no image with a caption"),
        (
            "a.json",
            json.dumps(COCO | {"images": [{"id": "3", "file_name": "a.jpg"}]}),
            "left out: 5 captions of images",
        ),
        ("a.token", "1.jpg a man", "a.token:1 is no line of Flickr30k"),
        ("a.csv", "filepath,title", "a.csv needs no --source: datasets.Records reads such a file as it is"),
    ],
)
def test_other_files_are_refused(name, content, message):
    Path(name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Records.prepare("out.jsonl", source=name)
    assert not Path("out.jsonl").exists()


def test_mistakes_are_told_and_nothing_is_overwritten(capsys):
    save("train2017/a.jpg")
    Path("captions.json").write_text(json.dumps(COCO))
    for arguments, message in (
        (["--out", "a.csv", "--source", "captions.json"], "must end in .jsonl"),
        (["--out", "a.jsonl", "--source", "gone.json"], "gone.json does not exist"),
        (["--out", "a.jsonl", "--source", "captions.json"], "set --root to the folder"),
        (["--out", "a.jsonl", "--source", "train2017"], "has no image with a caption"),
        (["--out", "a.jsonl", "--source", "captions.json", "--mode", "t2t"], "makes records for mode i2t"),
        (["--out", "a.jsonl", "--split", "val"], "--split chooses a part of a --source"),
    ):
        assert prepare_data.main(["records", *arguments]) == 2
        assert message in capsys.readouterr().err
    Path("a.jsonl").write_text("mine")
    assert prepare_data.main(["records", "--out", "a.jsonl", "--source", "captions.json", "--root", "train2017"]) == 2
    assert "holds something else already" in capsys.readouterr().err
    assert Path("a.jsonl").read_text() == "mine"
    Path("a.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.jsonl holds something else already"):
        Records.prepare("a.jsonl", source="captions.json", root="train2017")
