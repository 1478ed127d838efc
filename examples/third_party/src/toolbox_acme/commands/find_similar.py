"""The command `find_similar`: the images of a folder that are most like one image."""

from __future__ import annotations

from pathlib import Path

import toolbox
from toolbox.base import find_images


def main(argv: list[str]) -> int:
    """Run the command; returns its exit code."""
    parser = toolbox.new_command_parser("find_similar", "Print the images of a folder that are most like one image.")
    parser.add_argument("model", metavar="MODEL", help="a run's folder, a checkpoint, or the id of a backbone")
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument("folder", metavar="FOLDER", help="where to look, with all folders below")
    parser.add_argument("--top", metavar="N", type=int, default=5, help="how many images (5)")
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        raise toolbox.ToolboxError(f"--top takes a number from 1 up, not {arguments.top}.")
    encoder = toolbox.load(arguments.model)
    try:
        paths = [Path(arguments.folder, name) for name in find_images(arguments.folder).paths]
        similarities = encoder.encode_image(paths) @ encoder.encode_image(arguments.image)[0]
    except OSError as error:  # no such folder, or no image: a mistake of the user gets no traceback
        raise toolbox.ToolboxError(str(error)) from error
    best = similarities.topk(min(arguments.top, len(paths)))
    for similarity, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{similarity:.3f}  {paths[place]}")
    return 0
