"""HTML by functions: text is escaped unless it is `Html` already."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

_EMPTY = ("img", "meta")  # elements that have no end


class Html(str):
  """Text that is HTML already; any other text is escaped where it is put."""

  __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | int) -> Html:
  """One element.

  Args:
    name: its tag.
    *children: what is in it, in order: text, or `Html`.
    **attributes: a trailing underscore is dropped (class_), others become
      hyphens (aria_label).

  Returns:
    The element.
  """
  start = name + "".join(
    f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
  )
  if name in _EMPTY:
    return Html(f"<{start}>\n")
  inner = "".join(
    child if isinstance(child, Html) else html.escape(child)
    for child in children
  )
  return Html(f"<{start}>{inner}</{name}>\n")


def join(parts: Iterable[Html]) -> Html:
  """Several pieces of HTML, one after the other."""
  return Html("".join(parts))


def table(
  caption: str,
  header: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  groups: Sequence[tuple[str, int]] = (),
  text_columns: int = 1,
) -> Html:
  """A table that scrolls by itself where it is too wide.

  Args:
    caption: what it shows.
    header: a name for each column.
    rows: their cells; the first names the row.
    groups: names above the header, each with the columns that it spans.
    text_columns: so many columns hold text, the others numbers.

  Returns:
    The table in a region of its own, which the keyboard can scroll.
  """

  def kind(place: int) -> dict[str, str]:
    return {"class": "text"} if place < text_columns else {}

  above = [
    element("th", name, scope="colgroup", colspan=span)
    if name
    else element("td", colspan=span)
    for name, span in groups
  ]
  names = [
    element("th", name, scope="col", **kind(k)) for k, name in enumerate(header)
  ]
  body = [
    element(
      "tr",
      element("th", row[0], scope="row", **kind(0)),
      *(element("td", cell, **kind(k)) for k, cell in enumerate(row[1:], 1)),
    )
    for row in rows
  ]
  return element(
    "div",
    element(
      "table",
      element("caption", caption),
      element(
        "thead",
        *([element("tr", *above)] if above else []),
        element("tr", *names),
      ),
      element("tbody", *body),
    ),
    class_="scroll",
    role="region",
    tabindex=0,
    aria_label=caption,
  )


def picture(png: bytes, alternative: str, caption: str) -> Html:
  """A figure that is part of the page.

  Args:
    png: the file's bytes.
    alternative: what is told to whom can't see it.
    caption: what stands below.

  Returns:
    The figure.
  """
  # A PNG begins with 16 bytes that are always the same, then its size.
  width, height = (int.from_bytes(png[k : k + 4]) for k in (16, 20))
  return element(
    "figure",
    element(
      "img",
      src=f"data:image/png;base64,{base64.b64encode(png).decode()}",
      alt=alternative,
      width=width,
      height=height,
    ),
    element("figcaption", caption),
  )
