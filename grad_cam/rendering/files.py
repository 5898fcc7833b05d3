"""Files are written whole or not at all, and never over another file unless that is asked for."""

from __future__ import annotations

import os
import pathlib
import secrets

from ..errors import refuse_existing


def write(path: str | os.PathLike[str], content: bytes | str, *, force: bool = False) -> pathlib.Path:
    """Writes a file under a temporary name beside it and renames it once it is complete.

    A disk that is full, or a computation that is interrupted, leaves nothing behind, and an old file as it was. Of two
    processes that write one name at the same time, only one succeeds without `force`.

    Args:
        path: Where to; a folder that is not there is made. A device or a pipe is written to directly.
        content: Bytes, or text that is encoded in UTF-8.
        force: Replace a file that exists; a link is followed.

    Returns:
        The path.

    Raises:
        FileExistsError: The file exists and `force` is False.
        NotADirectoryError: A parent of the path is a file.
        IsADirectoryError: The path is a folder.
    """
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{str(parent)!r} is a file, not a folder; choose another name")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return path
    refuse_existing([path], force)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = pathlib.Path(os.path.realpath(path)) if force else path
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        if force:
            os.replace(temporary, target)
        else:
            _publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _publish(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a complete file its name, unless another process has taken the name meanwhile."""
    try:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: the name is taken first, then filled
            open(target, "xb").close()
            os.replace(temporary, target)
    except FileExistsError:
        refuse_existing([target], False)
        raise
