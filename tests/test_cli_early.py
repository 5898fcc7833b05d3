"""What the command line refuses before torch is imported: nothing that would have worked."""

from __future__ import annotations

from pathlib import Path

import pytest

from grad_cam import METHODS
from grad_cam.errors import GradCamError, ModelError
from grad_cam.interfaces import common
from grad_cam.interfaces.cli import early


def test_every_model_of_the_libraries_is_taken() -> None:
    """No name is refused that timm, torchvision or open_clip would open, old ones and names with weights included."""
    import timm
    from torchvision import models

    old = list(timm.models._registry._deprecated_models)
    for name in (*timm.list_models(), *timm.list_pretrained()[::5], *old):
        early.check_model_name(name)
    for name in models.list_models():
        early.check_model_name(f"torchvision/{name}")
    open_clip = pytest.importorskip("open_clip")
    for name in open_clip.list_models():
        early.check_model_name(f"open_clip/{name}")
        early.check_model_name(f"open_clip/{name}/openai")


@pytest.mark.parametrize(
    "name",
    ["demo", "hf:owner/name", "hf-hub:timm/x", "local-dir:/x", "tests.conftest:TinyNet", "tests.gone:x", "torch:nn"],
)
def test_what_only_the_library_can_know_is_left_to_it(name: str) -> None:
    """Names of the Hub and functions of one's own are decided when they are opened."""
    early.check_model_name(name)


def test_a_module_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source alone is read; where names are made in another way, nothing is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_alone.py").write_text("raise SystemExit\nnet = 3\n")
    (tmp_path / "mine_open.py").write_text("from torchvision.models import *\n")
    early.check_function("mine_alone:net")
    early.check_function("mine_open:resnet18")
    with pytest.raises(ModelError, match="'mine_alone' has no 'nett'; did you mean 'net'"):
        early.check_function("mine_alone:nett")


@pytest.mark.parametrize(
    ("version", "driver", "says"),
    [
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", "", "built without CUDA"),
        ("cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n", "no such library", "no NVIDIA driver"),
        ("cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n", None, ""),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '7'\n", "no such library", ""),
        ("__version__ = '2'\n", "no such library", ""),
    ],
)
def test_devices(version: str, driver: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is refused where this build of torch or this computer cannot have one, and nowhere else."""
    (tmp_path / "version.py").write_text(version)
    monkeypatch.setattr(early, "_folder", lambda package: tmp_path)
    monkeypatch.setattr(early, "_DRIVERS", dict.fromkeys(("linux", "win32", "darwin"), driver))
    early.check_device("cpu")
    if not says:
        return early.check_device("cuda:1")
    with pytest.raises(GradCamError, match=f"there is no device 'cuda:1' .*{says}"):
        early.check_device("cuda:1")


def test_sources(tmp_path: Path) -> None:
    """Only a folder without any picture and table is refused; whatever else is wrong is said by who reads it."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with pytest.raises(GradCamError, match="no pictures in the folder"):
        early.check_source(tmp_path)
    for name in ("a.PNG", "b.parquet", "c.arrow"):
        (tmp_path / "deep" / "er" / name).touch()
        early.check_source(str(tmp_path))
        (tmp_path / "deep" / "er" / name).unlink()
    early.check_source("photos/*.jpg")


@pytest.mark.parametrize("name", METHODS)
def test_facts_of_the_methods(name: str) -> None:
    """What is read off the source of a method is what its entry says."""
    entry, facts = METHODS[name], common.method_facts(name)
    assert facts is not None and facts == common.method_facts(entry.title)
    for field, value in facts._asdict().items():
        assert (list if field == "options" else type(value))(getattr(entry, field)) == value, field
