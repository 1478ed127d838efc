"""The templates of the pages, and pages of a plugin's command."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from toolbox.report.files import write_text
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


def render_page(page: Template, when: datetime, pictures: ThumbnailSheet | None, **values: Any) -> str:
    """The text of a page.

    - `when`: the time that it shows; `pictures`: those that it holds, None for none.
    - `values`: what else its template shows.
    """
    return page.render(
        when=f"{when.day} {when:%B %Y, %H:%M}",
        when_iso=when.isoformat("T", "minutes"),
        pictures=list(pictures.held.values()) if pictures else [],
        **values,
    )


class HtmlPage:
    """An HTML file that opens without a network, of a Jinja template and small pictures of a dataset's images.

    - `template`: the template's path. `{% import "parts.html.j2" as parts %}` gives it the macros of the toolbox's own
      pages: `head(title, description)`, `sheet(pictures)`, `tile(picture, alt)`, `table(a_table | grid)`;
      `{% include "style.css.j2" %}` gives it their style. What it shows is escaped.
    - `dataset`: whose images the page shows.
    """

    def __init__(self, template: Path, dataset: Dataset) -> None:
        self.template, self._pictures = template, ThumbnailSheet(dataset)

    @property
    def is_full(self) -> bool:
        """Whether its pictures take as many bytes as a page should have."""
        return self._pictures.size > MOST_BYTES

    def add_picture(self, index: int) -> Thumbnail:
        """The picture of an item of the dataset, for the macro `tile`; one that cannot be read says why instead."""
        return self._pictures.get(index)

    def write(self, path: Path, **values: Any) -> None:
        """Write the file, which is whole or as it was.

        - `values`: what the template shows. It also gets `pictures`, for the macro `sheet`, and the time as `when`
          and `when_iso`.

        Raises ToolboxError when it cannot be written.
        """
        page = load_template(self.template.name, self.template.parent)
        write_text(path, render_page(page, datetime.now(), self._pictures, **values), hint="Choose another page.")
