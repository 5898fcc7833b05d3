"""Mathematics as MathML, which browsers draw themselves: no script and no font of another host."""

from __future__ import annotations

from typing import Any

from docutils import nodes


def _markup(text: str, display: str) -> str:
    from latex2mathml.converter import convert

    return str(convert(text, display=display))


def inline(writer: Any, node: nodes.math) -> None:
    """A formula in a sentence."""
    writer.body.append(_markup(node.astext(), "inline"))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    """A formula on a line of its own."""
    writer.body.append(f'<div class="formula">{_markup(node.astext(), "block")}</div>')
    raise nodes.SkipNode
