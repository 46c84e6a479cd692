"""A template to one HTML page with its style and its pictures in it."""

import base64
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def render(package: str, template: str, **values: Any) -> str:
    """The page that `template`, a file of `package`, makes of the values. Every name from outside is escaped.

    It has `style`, and the filters `picture` (PNG bytes to a data URI), `count`, `percent` and `size` (bytes).
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"picture": _picture, "count": "{:,}".format, "percent": "{:.1%}".format, "size": _size}
    text = (resources.files(package) / template).read_text()
    style = Markup((resources.files("pipeline.pages") / "style.css").read_text())
    return environment.from_string(text).render(style=style, **values)


def _picture(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _size(count: int) -> str:
    power = min((len(str(count)) - 1) // 3, 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
