"""Checks a site that was built: every file and heading that a page links to is there, and nothing is fetched elsewhere.

``python -m docs.workshop.links site``
"""

from __future__ import annotations

import pathlib
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

_FETCHED = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href", "video": "src"}
_NAMED = {"canonical", "license", "author"}  # <link> that a browser does not fetch


class Reader(HTMLParser):
    """What a page names, links to and fetches; `main` holds the links of its text, without menus."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.main: list[str] = []
        self._depth = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what one element names or needs."""
        given = {key: value or "" for key, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        self._depth += tag == "article"
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
            if self._depth:
                self.main.append(given["href"])
        elif tag in _FETCHED and given.get(_FETCHED[tag]) and given.get("rel") not in _NAMED:
            self.fetched.append(given[_FETCHED[tag]])

    def handle_endtag(self, tag: str) -> None:
        """Notes the end of the text."""
        self._depth -= tag == "article"


def read(site: pathlib.Path) -> dict[pathlib.Path, Reader]:
    """All pages of a site."""
    return {path: Reader(path) for path in sorted(site.rglob("*.html"))}


def target(page: pathlib.Path, link: str) -> tuple[pathlib.Path, str] | None:
    """The file and the heading a link leads to; None for other hosts."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
    return path, unquote(parts.fragment)


def faults(site: pathlib.Path) -> list[str]:
    """What is wrong, one line each."""
    pages = read(site)
    ids = {path.resolve(): reader.ids for path, reader in pages.items()}
    found = []
    for path, reader in pages.items():
        name = path.relative_to(site)
        for address in reader.fetched:
            if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
                found.append(f"{name} fetches {address}")
        for link in [*reader.links, *(a for a in reader.fetched if not a.startswith("data:"))]:
            place = target(path, link)
            if place is None:
                continue
            file, heading = place
            if not file.exists():
                found.append(f"{name} links to {link}, which is not there")
            elif heading and file in ids and heading not in ids[file]:
                found.append(f"{name} links to {link}: no such heading")
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    wrong = faults(pathlib.Path(sys.argv[1]))
    print("\n".join(wrong) or f"{len(read(pathlib.Path(sys.argv[1])))} pages, every internal link leads somewhere")
    sys.exit(bool(wrong))
