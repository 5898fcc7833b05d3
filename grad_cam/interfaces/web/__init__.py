"""The web page: a photo, a model, and what it saw at every layer.

`launch` serves the page, `build` makes it without a server; gradio is imported then. From the bottom up: `views` knows
what a visitor looks at and computes it, `drawing` and `fragments` turn it into pictures and HTML, `updates` says what
changes on the page; none of them knows gradio. `layout` and `page` are the page itself, `server` and `guards` serve it.

Each visitor has a `View` of their own, kept by the server for their session; models are shared. Maps are computed when
a picture, model, class, method or layer is new; a display control only draws the maps that are there once more.
"""

from .errors import AppError
from .server import Page, build, launch
from .uploads import Limits

__all__ = ["AppError", "Limits", "Page", "build", "launch"]
