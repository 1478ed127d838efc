"""What the namespace `datasets` offers."""

from toolbox.plugin import Component, Problem, hookimpl


@hookimpl
def toolbox_components():
    return [
        Component("dataset", "SOP", "toolbox_datasets.sop:SOP", "Stanford Online Products: 120,053 product photos"),
        Component(
            "dataset", "InShop", "toolbox_datasets.inshop:InShop", "DeepFashion In-shop: 52,712 photos of clothes"
        ),
        Component("dataset", "CUB", "toolbox_datasets.cub:CUB", "Caltech-UCSD Birds: 11,788 photos of 200 species"),
        Component("dataset", "Cars", "toolbox_datasets.cars:Cars", "Stanford Cars (Cars196): 16,185 photos of cars"),
        Component(
            "dataset", "ImageFolder", "toolbox_datasets.imagefolder:ImageFolder", "your own images, one folder a class"
        ),
        Component(
            "dataset", "Records", "toolbox_datasets.records:Records", "your own pairs, in JSONL, CSV, TSV or Parquet"
        ),
        Component(
            "dataset", "HF", "toolbox_datasets.hf:HF", "any Hugging Face dataset with images and labels", ("datasets",)
        ),
        Component("dataset", "Food101", "toolbox_datasets.food101:Food101", "Food-101: 101,000 photos of 101 dishes"),
        Component(
            "dataset",
            "CIFAR10",
            "toolbox_datasets.cifar10:CIFAR10",
            "CIFAR-10: 60,000 images of 32 x 32 in 10 classes",
        ),
        Component(
            "dataset", "ImageNet", "toolbox_datasets.imagenet:ImageNet", "ImageNet-1k, whole or a subset of its classes"
        ),
    ]


@hookimpl
def toolbox_check_config(config: dict) -> list[Problem]:
    """What no dataset sees alone: training and validation that are carved from the same images in two ways."""
    from toolbox_datasets import leaks

    return leaks.find_leaks(config)
