"""The templates of the pages, and pages of a plugin's command."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from toolbox.base.files import write_text
from toolbox.report.gallery import MOST_BYTES, Thumbnail, ThumbnailSheet
from toolbox.report.grid import make_grid

if TYPE_CHECKING:
    from toolbox.base import Dataset

HERE = Path(__file__).parent


def load_template(name: str, folder: Path = HERE) -> Template:
    """A template of `folder`, which finds those of this one too.

    What it shows is escaped, and a name that it misses is an error. The filter `grid` makes of a
    `toolbox.base.report_items.Table` what the macro `table` prints.
    """
    return _environment(folder).get_template(name)


@cache
def _environment(folder: Path) -> Environment:
    """The templates of a folder, each compiled once; Jinja looks whether a file has changed."""
    environment = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grid"] = make_grid
    return environment


def write_page(
    path: Path, template: Template, when: datetime, images: ThumbnailSheet | None, *, hint: str, **values: Any
) -> None:
    """Write a page, whole or not at all. Raises ToolboxError with `hint` when it cannot be written.

    - `when`: the time that it shows; `images`: those that it holds, None for none.
    - `values`: what else its template shows.
    """
    page = template.render(
        when=f"{when.day} {when:%B %Y, %H:%M}",
        when_iso=when.isoformat("T", "minutes"),
        images=list(images.held.values()) if images else [],
        **values,
    )
    # file names that are no valid UTF-8 reach us as surrogates, which utf-8 refuses
    write_text(path, page, hint=hint, errors="xmlcharrefreplace")


class HtmlPage:
    """An HTML file that opens without a network, of a Jinja template and thumbnails of a dataset's images.

    - `template`: the template's path. `{% import "parts.html.j2" as parts %}` gives it the macros of the toolbox's own
      pages: `head(title, description)`, `sheet(images)`, `tile(image, alt)`, `table(a_table | grid)`;
      `{% include "style.css.j2" %}` gives it their style. What it shows is escaped.
    - `dataset`: whose images the page shows.
    """

    def __init__(self, template: Path, dataset: Dataset) -> None:
        self.template, self._images = template, ThumbnailSheet(dataset)

    @property
    def is_full(self) -> bool:
        """Whether its images take as many bytes as a page should have."""
        return self._images.size > MOST_BYTES

    def add_image(self, index: int) -> Thumbnail:
        """The thumbnail of an item of the dataset, for the macro `tile`; one that cannot be read says why instead."""
        return self._images.get(index)

    def write(self, path: Path, **values: Any) -> None:
        """Write the file, which is whole or as it was.

        - `values`: what the template shows. It also gets `images`, for the macro `sheet`, and the time as `when`
          and `when_iso`.

        Raises ToolboxError when it cannot be written.
        """
        template = load_template(self.template.name, self.template.parent)
        write_page(path, template, datetime.now(), self._images, hint="Choose another page.", **values)
