"""What keeps a page from readers who do not see it, in a browser: some rules of our own, and axe-core where it is."""

from __future__ import annotations

import os
import pathlib
from typing import Any

AXE = os.environ.get("AXE_CORE", "")
"""Path of axe.min.js, from the npm package axe-core; its rules are checked, too, if it is given."""

_FLAWS = """(spared) => {
  const found = [], told = (e) => !e.closest('[aria-hidden=true]') && !(spared && e.closest(spared));
  const seen = (e) => e.checkVisibility() && told(e);
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const bare = (text) => text.toLowerCase().replace(/\\s+/g, ' ').trim();
  const spoken = (e) => {
    const copy = e.cloneNode(true);
    copy.querySelectorAll('[aria-hidden=true]').forEach((part) => part.remove());
    return bare(copy.textContent); // hidden by style or not
  };
  let level = 0;
  for (const heading of all('h1, h2, h3, h4, h5, h6')) {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) found.push(`heading ${heading.textContent}: level ${now} after ${level}`);
    level = now;
  }
  for (const e of all('button[aria-label], a[aria-label], [role=tab][aria-label]')) {
    if (!bare(e.getAttribute('aria-label')).includes(spoken(e))) found.push(`its name lacks its text: ${e.outerHTML}`);
  }
  for (const e of all('figure[role]')) found.push(`a role that it cannot have: ${e.outerHTML}`);
  for (const e of all('img:not([alt])')) found.push(`no alternative text: ${e.outerHTML}`);
  const ids = all("[id]:not([id=''])").map((e) => e.id);
  found.push(...ids.filter((id, i) => ids.indexOf(id) !== i).map((id) => `twice: #${id}`));
  return found.map((text) => text.slice(0, 200));
}"""


def flaws(page: Any, spared: str = "") -> list[str]:
    """The flaws of an open page, but those inside of `spared`, a selector; the page must let scripts be added."""
    found: list[str] = page.evaluate(_FLAWS, spared)
    if AXE:
        page.evaluate(pathlib.Path(AXE).read_text(encoding="utf-8") + ";0")
        context = {"include": ["html"], "exclude": [spared] if spared else []}
        found += page.evaluate(
            """async (context) => (await axe.run(context, { resultTypes: ['violations'] })).violations.flatMap(
                 (rule) => rule.nodes.map((node) => `${rule.id}: ${node.target}`))""",
            context,
        )
    return found
