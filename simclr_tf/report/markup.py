"""HTML from parts: whatever is not markup already is escaped, and every element is closed."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

VOID = {"br", "col", "img", "meta"}  # elements without content
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
# Characters that HTML may not hold, escaped or not.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Html(str):
    """Markup: put into an element as it is."""


Child = str | int | Iterable["Child"] | None
Attribute = str | int | bool | None


class Rows(NamedTuple):
    """Rows of a table that belong together, under a heading of their own where they have one."""

    rows: Sequence[Sequence[Child]]
    heading: str = ""


def element(tag: str, *children: Child, **attributes: Attribute) -> Html:
    """Builds an element.

    Args:
        tag: Name, never taken from data.
        children: Markup, text that is escaped, or nested sequences of them; None is left out.
        attributes: Values are escaped; None and False leave an attribute out, True writes its bare
            name. In names, "_" stands for "-", and one at the end is cut off (`class_`).
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """Puts markup and text behind one another; text is escaped."""
    return Html("".join(_written(child) for child in children))


def table(
    caption: str, columns: Sequence[Child], *groups: Rows, numbers: Sequence[int] = ()
) -> Html:
    """Builds a table that scrolls by itself where the page is too narrow.

    Args:
        caption: What the table holds.
        columns: Headings; the first cell of each row is a heading too.
        groups: Rows.
        numbers: Columns set flush right.
    """

    def kind(column: int) -> str | None:
        return "number" if column in numbers else None

    head = element(
        "tr",
        [element("th", name, scope="col", class_=kind(i)) for i, name in enumerate(columns)],
    )
    bodies = []
    for group in groups:
        lines = []
        if group.heading:
            heading = element("th", group.heading, scope="rowgroup", colspan=len(columns))
            lines.append(element("tr", heading))
        for first, *others in group.rows:
            cells = [element("td", cell, class_=kind(i)) for i, cell in enumerate(others, start=1)]
            lines.append(element("tr", element("th", first, scope="row"), cells))
        bodies.append(element("tbody", lines))
    inner = element(
        "table", element("caption", element("span", caption)), element("thead", head), bodies
    )
    return scrolling(inner, caption)


def scrolling(content: Child, name: str) -> Html:
    """Wraps what may be wider than the page; the keyboard reaches it too."""
    return element("div", content, class_="scroll", role="region", tabindex=0, aria_label=name)


def facts(pairs: Iterable[tuple[Child, Child]]) -> Html:
    """Builds a list of names and values."""
    return element(
        "dl", [(element("dt", name), element("dd", value)) for name, value in pairs], class_="facts"
    )


def figure(path: Path, caption: Child, *, alt: str) -> Html:
    """Builds a figure that holds the picture itself; a note where it cannot be read.

    Args:
        path: PNG, JPEG, GIF or WebP.
        caption: Text below.
        alt: What the picture shows, for who does not see it.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            kind, (width, height) = FORMATS.get(image.format or ""), image.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        kind = None
    if kind is None:
        return element("p", f"The picture {path.name} could not be read.", class_="missing")
    source = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    image_element = element("img", src=source, alt=alt, width=width, height=height)
    return element("figure", image_element, element("figcaption", caption))


def bar(share: float, *, baseline: bool = False) -> Html:
    """Draws a share, 0 to 1, as a bar; it repeats a number, so it is not read aloud."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    filled = element("span", class_="bar baseline" if baseline else "bar", style=f"width:{width}")
    return element("span", filled, class_="track", aria_hidden="true")


def page(title: str, style: str, body: Child) -> Html:
    """Builds a whole document that loads nothing and runs nothing.

    Args:
        title: Of the window.
        style: Style sheet.
        body: Content.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(style)),
    )
    return Html(f"<!DOCTYPE html>\n{element('html', head, element('body', body), lang='en')}\n")


def _written(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, Iterable) and not isinstance(child, str):
        return "".join(_written(each) for each in child)
    return _escaped(str(child))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{_escaped(str(value))}"'


def _escaped(text: str) -> str:
    # Half a surrogate pair, as in a file name of another encoding, cannot be written as UTF-8.
    text = text.encode("utf-8", "replace").decode()
    return html.escape(FORBIDDEN.sub("�", text))
