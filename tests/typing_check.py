"""What `make lint` asks pyright and mypy about the installed package, beside `mypy` on its source.

How complete its types are, and whether the README's Python and `typing_samples.py` are clean. The files are checked in
a folder of their own, as in the project of a user: the package is found where it is installed.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
WANTED = 0.99
"""The least share of the public symbols whose type is known."""


def main() -> int:
    """Returns 1 if something is wrong, after saying what."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
        (folder / "readme.py").write_text("\n".join(blocks), encoding="utf-8")
        shutil.copy(ROOT / "tests" / "typing_samples.py", folder)
        files = ["readme.py", "typing_samples.py"]
        mypy = ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        mypy += ["--allow-untyped-defs"]  # a reader of the README annotates nothing
        clean = _run(*mypy, *files, cwd=folder)
        if _run("pyright", "--version", cwd=folder, quiet=True):
            clean &= _run("pyright", "--pythonpath", sys.executable, *files, cwd=folder)
            clean &= _is_complete(folder)
        else:
            print("pyright does not run here: the types are checked by mypy alone")
    return 0 if clean else 1


def _is_complete(folder: pathlib.Path) -> bool:
    """Whether enough of the public types are known; names the others."""
    call = ["pyright", "--verifytypes", "grad_cam", "--ignoreexternal", "--outputjson"]
    found = json.loads(_process(*call, cwd=folder).stdout)["typeCompleteness"]
    for symbol in found["symbols"]:
        if symbol["isExported"] and not symbol["isTypeKnown"]:
            print(symbol["name"], *(each["message"] for each in symbol["diagnostics"]), sep="\n    ")
    score = found["completenessScore"]
    print(f"pyright knows the types of {score:.1%} of the public symbols of {found['packageRootDirectory']}")
    return bool(score >= WANTED)


def _run(*call: str, cwd: pathlib.Path, quiet: bool = False) -> bool:
    """Whether a tool succeeds; shows what it says."""
    done = _process(*call, cwd=cwd)
    if not quiet:
        print(f"{call[0]}: {(done.stdout + done.stderr).strip()}")
    return done.returncode == 0


def _process(*call: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    first = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # --verifytypes asks "python"
    return subprocess.run(
        [sys.executable, "-m", *call], cwd=cwd, env={**os.environ, "PATH": first}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
