"""The page as a server: requests that no browser would send, replayed over HTTP against a page that really runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from grad_cam import loading
from grad_cam.interfaces import web
from grad_cam.interfaces.web import AppError, Limits, server, views
from grad_cam.interfaces.web.guards import KnownHosts
from grad_cam.interfaces.web.requests import QUEUES
from grad_cam.interfaces.web.server import free_port
from grad_cam.interfaces.web.uploads import upload_folder, uploaded

from .conftest import TinyNet, _settle

pytest.importorskip("gradio", reason="the web page needs gradio, which is not installed")

LIMIT = 60  # seconds no answer here comes near
SECRET = "what only the owner of the server may read"


class Client:
    """Sends requests to a page as a program would, with any header and any body.

    Args:
        url: Where the page is.
        visitor: Session of the visitor; every one has controls and pictures of its own.
    """

    def __init__(self, url: str, visitor: str = "stranger") -> None:
        place = urllib.parse.urlsplit(url)
        self.address, self.visitor = (place.hostname, place.port), visitor

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """One request; returns the status and the text of the answer."""
        connection = http.client.HTTPConnection(*self.address, timeout=LIMIT)
        kind = {} if isinstance(body, (bytes, type(None))) else {"Content-Type": "application/json"}
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {**kind, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[None]:
        """Holds a connection for messages open."""
        connection = http.client.HTTPConnection(*self.address, timeout=LIMIT)
        connection.request("GET", path)
        waiting = threading.Thread(target=connection.getresponse, daemon=True)
        waiting.start()
        waiting.join(0.2)
        try:
            yield
        finally:
            assert connection.sock is not None
            connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def config(self) -> dict[str, Any]:
        """What the page says of its components and functions."""
        return json.loads(self.send("GET", "/config")[1])

    def join(self, function: int, data: list[Any], event: Any = None) -> tuple[int, str]:
        """Puts a call of a function into its queue."""
        body = {"data": data, "fn_index": function, "session_hash": self.visitor, "event_data": event, "trigger_id": 1}
        return self.send("POST", "/gradio_api/queue/join", body)

    def answers(self) -> list[dict[str, Any]]:
        """The messages on the calls under way, until the last of them has ended."""
        _, text = self.send("GET", f"/gradio_api/queue/data?session_hash={self.visitor}")
        return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]

    def call(self, function: int, data: list[Any], event: Any = None) -> str:
        """Calls a function and returns all that the page answers, as text."""
        status, text = self.join(function, data, event)
        return text if status != 200 else json.dumps(self.answers())

    def ask(self, **changes: Any) -> str:
        """The answer to the controls, some changed, by label; asks in every queue it is sent to, as a browser does."""
        config = self.config()
        labels = {component["id"]: component["props"].get("label") for component in config["components"]}
        function, data, said = refresher(config), controls(config), ""
        for label, value in changes.items():
            data[[labels[i] for i in function["inputs"]].index(label)] = value
        due = [function["id"]]
        while due:
            status, text = self.join(due.pop(), data)
            assert status == 200, text
            for message in self.answers():
                said += json.dumps(message)
                changed = (message.get("output") or {}).get("changed_state_ids") or []
                due += [
                    f["id"]
                    for f in config["dependencies"]
                    for i in changed
                    if queued(config, f) and [i, "change"] in f["targets"]
                ]
        return said

    def upload(self, path: Path, name: str | None = None) -> str:
        """Uploads a file; returns where the server keeps it."""
        head = f'Content-Disposition: form-data; name="files"; filename="{name or path.name}"'
        body = f"--edge\r\n{head}\r\n\r\n".encode() + path.read_bytes() + b"\r\n--edge--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        return json.loads(self.send("POST", "/gradio_api/upload", body, kind)[1])[0]


def pointer(path: Path | str) -> dict[str, Any]:
    """A path in the form that makes gradio take it for a file."""
    return {"path": str(path), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}


def named_files(text: str) -> set[str]:
    """Every absolute path an answer speaks of."""
    return set(re.findall(r"/[^\s\"'\\,}\]]+", text.replace("\\", "")))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A tiny network."""
    torch.manual_seed(1)
    return _settle(TinyNet()).eval()


@pytest.fixture(scope="module")
def url(model: nn.Module) -> Iterator[str]:
    """A page that runs, and its address."""
    with web.launch(model, 0, input_size=64, limits=Limits(upload=200_000, pixels=300_000), block=False) as page:
        yield page.url


@pytest.fixture(scope="module")
def command() -> Iterator[str]:
    """The page as `grad-cam app` serves it, in a process of its own."""
    with started() as (_, address, _):
        yield address


def _listening() -> None:
    """A shell's background job passes on that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(prelude: str = "") -> Iterator[tuple[subprocess.Popen[str], str, IO[str]]]:
    """Runs `grad-cam app`: the process, the address and its messages, once the model is loaded."""
    program = [sys.executable, "-c", f"{prelude}\nfrom grad_cam.interfaces.cli import main; main()", "app"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=said, text=True, preexec_fn=_listening)
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            said.seek(0)
            assert found is not None, said.read()
            assert "is loaded" in process.stdout.readline()
            yield process, found[0], said
        finally:
            process.terminate()  # and not killed, which would leave its folder for uploads
            process.communicate(timeout=LIMIT)


@pytest.fixture(scope="module")
def mounted(model: nn.Module) -> Iterator[str]:
    """The page made by `build`, served by its user as a part of an application of theirs."""
    gradio, fastapi, uvicorn = (pytest.importorskip(name) for name in ("gradio", "fastapi", "uvicorn"))
    site = gradio.mount_gradio_app(fastapi.FastAPI(), web.build(model, input_size=64), "/", ssr_mode=False)
    port = free_port(port=0)
    running = uvicorn.Server(uvicorn.Config(site, port=port, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started and thread.is_alive():
        thread.join(0.02)
    yield f"http://127.0.0.1:{port}/"
    running.should_exit = True
    thread.join(LIMIT)


@pytest.fixture(params=["url", "command", "mounted"])
def served(request: pytest.FixtureRequest) -> str:
    """The address of a page made by `launch`, of one made by the command line, and of one made by `build`."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture in a file."""
    y, x = np.mgrid[0:48, 0:64]
    path = tmp_path / "mine.png"
    Image.fromarray(np.stack([4 * x, 5 * y, x + y], -1).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def secrets() -> Iterator[list[Path]]:
    """Files of the server: in its home, among temporary files and in the working directory."""
    with contextlib.ExitStack() as stack:
        found = []
        for place in (Path.home(), Path(tempfile.gettempdir()), Path.cwd()):
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=place, prefix="owner-"))
            found.append(Path(folder) / "secret.txt")
            found[-1].write_text(SECRET)
        yield found


# ------------------------------------------------------------------------------------------------- files of the server


def test_no_function_and_no_field_gives_a_file_of_the_server(served: str, secrets: list[Path]) -> None:
    """Whatever field names the file, directly, in a list or in a table, no answer leads to a copy of it."""
    client = Client(served)
    functions = client.config()["dependencies"]
    assert len(functions) >= 10
    answers = [str(secret) for secret in secrets]
    for function in functions:
        count = len(function["inputs"])
        for secret in secrets:
            for place in range(max(count, 1)):
                for value in (pointer(secret), [pointer(secret)], {"value": pointer(secret), "pick": pointer(secret)}):
                    data = [value if i == place else None for i in range(count)]
                    answers.append(client.join(function["id"], data, value)[1])
        answers.append(json.dumps(client.answers()))
    for name in set().union(*map(named_files, answers)):
        status, text = client.send("GET", f"/gradio_api/file={urllib.parse.quote(name)}")
        assert SECRET not in text, (status, name)


def test_no_other_door_gives_a_file_of_the_server(served: str, secrets: list[Path]) -> None:
    """Calls without the queue, the components' own functions and paths in an address lead nowhere either."""
    client, answers = Client(served), []
    config = client.config()
    for secret in secrets:
        for function in config["dependencies"]:
            data = [pointer(secret)] * len(function["inputs"])
            body = {"data": data, "fn_index": function["id"], "session_hash": "x"}
            for door in ("run/predict", "api/predict", "call/predict", "call/v2/predict"):
                answers.append(client.send("POST", f"/gradio_api/{door}", body)[1])
        for component in config["components"]:
            place = {"component_id": component["id"], "session_hash": "x", "fn_name": "preprocess"}
            answers.append(client.send("POST", "/gradio_api/component_server", {**place, "data": pointer(secret)})[1])
    names = {str(secret) for secret in secrets}.union(*map(named_files, answers))
    names |= {f"{tempfile.gettempdir()}/gradio/../{os.path.relpath(s, tempfile.gettempdir())}" for s in secrets}
    for name in names:
        for door in ("file=", "file/", "proxy=file://", "stream/"):
            answers.append(client.send("GET", f"/gradio_api/{door}{urllib.parse.quote(name)}")[1])
    assert not [text for text in answers if SECRET in text]


def uploader(config: dict[str, Any]) -> int:
    """The function that takes an uploaded photo."""
    kinds = {component["id"]: component["type"] for component in config["components"]}
    return next(f["id"] for f in config["dependencies"] if [kinds[i] for i in f["inputs"]] == ["file"])


def refresher(config: dict[str, Any]) -> dict[str, Any]:
    """The function that answers the controls."""
    return max(config["dependencies"], key=lambda function: len(function["inputs"]) + len(function["outputs"]))


def queued(config: dict[str, Any], function: dict[str, Any]) -> bool:
    """Whether a function answers in a queue of its own what another one has left to it."""
    return function["inputs"] == refresher(config)["inputs"] and len(function["targets"]) == 1


def controls(config: dict[str, Any]) -> list[Any]:
    """What the controls say when the page is opened, in the order the answering function takes them."""
    values = {component["id"]: component["props"].get("value") for component in config["components"]}
    return [values[i] for i in refresher(config)["inputs"]]


def test_an_upload_is_taken_and_a_picture_of_the_server_is_not(served: str, secrets: list[Path], picture: Path) -> None:
    """What a visitor uploads is shown; a picture that lies elsewhere on the server, or is linked to, is refused."""
    elsewhere = secrets[0].with_name("private.png")
    Image.new("RGB", (40, 30), "red").save(elsewhere)
    client = Client(served, "painter")
    config = client.config()
    mine = client.upload(picture)
    link = Path(mine).with_name("link.png")
    link.unlink(missing_ok=True)
    link.symlink_to(elsewhere)
    shown = re.compile(r'id=\\*"gc-photo\\*" src=\\*"data:image/jpeg;base64,([^"\\]+)')
    seen = {}
    climbing = Path(mine).parent / ".." / ".." / ".." / elsewhere.relative_to("/")
    for path in (Path(mine), elsewhere, link, climbing, secrets[1].with_name("gone.png")):
        client.visitor = f"painter{len(seen)}"
        client.call(uploader(config), [pointer(path)])
        found = shown.findall(client.call(refresher(config)["id"], controls(config)))
        seen[path] = found[-1] if found else ""
    untouched = Client(served, "looker")
    cat = shown.findall(untouched.call(refresher(config)["id"], controls(config)))[-1]
    first, *others = seen.values()
    assert first and first != cat
    assert all(other in (cat, "") for other in others)


def test_names_of_the_hub_do_not_tell_which_folders_the_server_has(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is a folder or file of the server is answered like one that the Hub does not know, and not opened."""

    def load(name: str, **how: Any) -> nn.Module:
        where = Path(name.partition(":")[2])
        raise loading.ModelError(
            f"cannot get {name}: {'no model in it' if where.exists() else 'not known'} {where.resolve()}"
        )

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme" / "there").mkdir(parents=True), (tmp_path / "there.txt").touch()
    client = Client(url, "collector")
    for hub in ("hf:", "hf-hub:", "hf_hub:"):
        said = []
        for name in ("acme/there", "acme/gone", "there.txt", "gone.txt"):
            text = client.ask(Model=hub + name)
            assert str(tmp_path) not in text
            said.append(re.findall(r'role=\\"alert\\">([^<]+)<', text)[0].replace(name, "NAME"))
        assert len(set(said)) == 1 and "from the Hugging Face Hub" in said[0], said


def test_errors_of_the_server_are_not_told(launched: str) -> None:
    """A request that no page sends is answered without the words of the error, which may hold paths and values."""
    client = Client(launched, "clumsy")
    for function in client.config()["dependencies"]:
        if function["inputs"]:
            text = client.call(function["id"], [{"wrong": "kind"}] * len(function["inputs"]))
            assert not re.search("site-packages|Traceback|Error:", text)


def test_a_page_is_there_while_its_model_is_loading(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it waits for; who comes early is answered as soon as the model is there."""
    real, go_on, port = server.open_page_model, threading.Event(), free_port(port=0)

    def slow(*model: Any, **how: Any) -> Any:
        assert go_on.wait(LIMIT)
        return real(*model, **how)

    monkeypatch.setattr(server, "open_page_model", slow)
    with ThreadPoolExecutor(2) as pool:
        page = pool.submit(web.launch, model, port, input_size=64, block=False)
        early = Client(f"http://127.0.0.1:{port}/", "early")
        while not page.done():
            with contextlib.suppress(OSError):
                assert "Starting, loading the model TinyNet" in early.send("GET", "/config")[1]
                break
            time.sleep(0.05)
        asked = pool.submit(early.ask)
        time.sleep(0.3)
        assert not asked.done()
        go_on.set()
        assert "gc-overlay" in asked.result(LIMIT)
        page.result(LIMIT).close()


def test_a_model_that_cannot_be_loaded_ends_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is that of the model, and the port is free again."""
    port = free_port(port=0)
    with pytest.raises(loading.ModelError, match="resnet18"):
        web.launch("resnet_18", port, block=False)
    assert free_port(port=port) == port


@pytest.mark.parametrize("path", ["no path", "", None, 3, "/etc/passwd", ".."])
def test_only_a_file_of_the_upload_folder_is_an_upload(path: Any, tmp_path: Path) -> None:
    """Whatever else is called an upload is refused, also the folder itself and any link."""
    with pytest.raises(AppError, match="not uploaded"):
        uploaded(path, tmp_path)
    inside, outside = tmp_path / "in", tmp_path / "out.png"
    inside.mkdir()
    outside.touch(), (inside / "real.png").touch()
    assert uploaded(str(inside / "real.png"), inside) == inside / "real.png"
    (inside / "far").symlink_to(outside), (inside / "near").symlink_to(inside / "real.png")
    for other in (inside, outside, inside / "far", inside / "near", inside / ".." / "out.png", inside / "gone.png"):
        with pytest.raises(AppError, match="not uploaded"):
            uploaded(other, inside)


def test_uploads_have_a_folder_that_nobody_else_uses() -> None:
    """Other pages of this computer, and other users of it, keep their files elsewhere."""
    folder = upload_folder()
    assert folder == Path(os.environ["GRADIO_TEMP_DIR"]).resolve() and folder.name.startswith("grad-cam-")
    assert folder.stat().st_mode & 0o077 == 0 or os.name != "posix"


def test_a_proxy_of_the_environment_is_not_asked_for_this_computer(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page opens behind a proxy that cannot reach it, and leaves the environment as it was."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port(port=0)}")
    monkeypatch.setenv("no_proxy", "elsewhere")
    with web.launch(model, 0, input_size=64, block=False) as page:
        assert Client(page.url).send("GET", "/config")[0] == 200
    assert os.environ["no_proxy"] == "elsewhere"


# --------------------------------------------------------------------------------------------------- other web sites


@pytest.fixture(params=["url", "command"])
def launched(request: pytest.FixtureRequest) -> str:
    """The address of a page made by `launch`, and of one made by the command line."""
    return request.getfixturevalue(request.param)


def test_a_name_that_is_pointed_to_this_computer_is_refused(launched: str) -> None:
    """Requests whose Host is another site's get no answer to read, at any door; those to this computer do."""
    client = Client(launched)
    port = client.address[1]
    doors = [
        ("GET", "/", None), ("GET", "/config", None), ("POST", "/gradio_api/upload", b""),
        ("POST", "/gradio_api/queue/join", {"data": [], "fn_index": 0, "session_hash": "x"}),
        ("GET", "/gradio_api/queue/data?session_hash=x", None), ("GET", "/gradio_api/heartbeat/x", None),
    ]  # fmt: skip
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "", "[", "a@b", "::1"):
        for method, path, body in doors:
            status, text = client.send(method, path, body, {"Host": host})
            assert status in (400, 403) and "gradio" not in text, (host, path, status)
    for host in (f"localhost:{port}", "LOCALHOST", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert client.send("GET", "/config", None, {"Host": host})[0] == 200, host


def test_another_site_cannot_send_forms_to_the_page(launched: str, picture: Path) -> None:
    """A request with a foreign Origin changes nothing, although a browser would send it; the page's own are taken."""
    client = Client(launched)
    port = client.address[1]
    kept = set(upload_folder().parent.glob("grad-cam-*/*"))
    body = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc\r\n--edge--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    for origin in ("http://evil.example", "null", f"http://localhost:{port + 1}", f"https://evil.example:{port}"):
        for door in ("/gradio_api/upload", "/gradio_api/queue/join"):
            status, _ = client.send("POST", door, body, {**kind, "Origin": origin})
            assert status == 403, (origin, door)
    assert set(upload_folder().parent.glob("grad-cam-*/*")) == kept
    own = {**kind, "Origin": f"http://127.0.0.1:{port}"}
    assert client.send("POST", "/gradio_api/upload", body, own)[0] == 200


def test_a_page_for_everyone_is_known_by_number_and_by_the_names_it_is_given() -> None:
    """Listening everywhere, a page takes any number for its host, since names are what can be pointed here."""
    everywhere = KnownHosts(None, "0.0.0.0", ["lab.example"])
    for place in ("192.168.1.5:7860", "[fe80::1]:80", "lab.example:7860", "localhost", "LAB.example"):
        assert everywhere.knows(place), place
    for place in ("evil.example", "lab.example.evil", "", "192.168.1.5.evil", "[::1"):
        assert not everywhere.knows(place), place
    here = KnownHosts(None)
    assert not here.knows("192.168.1.5:7860") and here.knows("[::1]:7860")


@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "localhost"])
def test_a_page_is_served_at_the_host_chosen(host: str, model: nn.Module) -> None:
    """Other addresses than the default one work, and the address told can be opened."""
    try:
        free_port(host, 0)
    except AppError:
        pytest.skip(f"this computer has no {host}")
    with web.launch(model, 0, host=host, input_size=64, block=False) as page:
        assert Client(page.url).send("GET", "/config")[0] == 200


# ------------------------------------------------------------------------------------------------------- many visitors


@contextlib.contextmanager
def slow_score_cam(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[list[float]]:
    """Makes Score-CAM take some time, in small steps; gives the times of its steps, and infinity where it ended."""
    real, steps = views._computed, []

    def computed(view: views.View, key: views.Key, progress: views.Progress | None) -> views.View:
        if key.method == "score_cam":
            assert progress is not None
            for done in range(round(20 * seconds)):
                steps.append(time.monotonic())
                time.sleep(0.05)
                progress(done, round(20 * seconds))
            steps.append(math.inf)
        return real(view, key, progress)

    with monkeypatch.context() as patch:
        patch.setattr(views, "_computed", computed)
        yield steps


def slow_function(config: dict[str, Any]) -> int:
    """The function that answers requests for slow methods."""
    states = [c["id"] for c in config["components"] if c["type"] == "state"]
    last = max(states)
    return next(f["id"] for f in config["dependencies"] if queued(config, f) and [last, "change"] in f["targets"])


def test_a_slow_method_is_answered_in_its_own_queue(url: str) -> None:
    """A perturbation method arrives by way of the queue for slow work; asked again, it is still answered."""
    client = Client(url, "patient")
    config = client.config()
    for _ in range(2):
        text = client.ask(Method="score_cam")
        assert "Score-CAM" in text and "gc-overlay" in text and text.count("process_completed") == 2
        assert "Grad-CAM" in client.ask(Method="grad_cam")
    found = [f for f in config["dependencies"] if queued(config, f)]
    assert sorted(f["targets"][0][1] for f in found) == ["change"] * (len(QUEUES) - 1) + ["click"]  # evidence's button


def test_quick_answers_take_the_short_way(url: str) -> None:
    """A display control is answered in one request, without a queue; a click on a card asks the server for nothing."""
    config = Client(url).config()
    names = {component["id"]: component["props"].get("elem_id") for component in config["components"]}
    listeners: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for function in config["dependencies"]:
        for place, event in function["targets"]:
            listeners.setdefault((names.get(place, ""), event), []).append(function)
    for slider in ("gc-threshold", "gc-smoothing", "gc-alpha", "gc-colormap", "gc-kind"):
        (function,) = listeners[slider, "change"]
        assert function["queue"] is False and function["backend_fn"]
    for cards in ("gc-predictions", "gc-layers", "gc-methods"):
        (function,) = listeners[cards, "click"]
        assert not function["backend_fn"] and "gradCamPicked" in function["js"]


def test_slow_methods_of_thirty_visitors_do_not_delay_a_quick_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While thirty wait for Score-CAM, a quick method is answered before any of those has ended, with little work.

    The work is counted in seconds of this process, which does nothing else meanwhile: they do not depend on what else
    the computer does.
    """
    with slow_score_cam(monkeypatch, 300) as steps:
        crowd = [Client(url, f"slow{i}") for i in range(30)]
        config = crowd[0].config()
        data = controls(config)
        data[data.index("auto")] = "score_cam"
        for one in crowd:
            for function in (refresher(config)["id"], slow_function(config)):
                assert one.join(function, data)[0] == 200
        while not steps:
            time.sleep(0.05)
        begun = time.process_time()
        text = Client(url, "quick").ask(Method="layer_cam")
        assert "LayerCAM" in text and "gc-overlay" in text
        assert time.process_time() - begun < 3 and math.inf not in steps
        for one in crowd:  # they leave again
            with one.stream(f"/gradio_api/queue/data?session_hash={one.visitor}"):
                pass
        calm(url)


def text_of(file: IO[str]) -> str:
    """All that a process has written into a file, which stays as it is."""
    return os.pread(file.fileno(), 1 << 20, 0).decode()


def calm(url: str) -> None:
    """Waits until the page computes nothing."""
    ended = time.monotonic() + LIMIT
    while json.loads(Client(url).send("GET", "/gradio_api/queue/status")[1])["queue_size"] and time.monotonic() < ended:
        time.sleep(0.1)


@pytest.mark.parametrize("door", ["/gradio_api/queue/data?session_hash=", "/gradio_api/heartbeat/"])
def test_a_visitor_who_vanishes_is_not_computed_for(door: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the connection of a visitor breaks, the computation ends at its next step."""
    with slow_score_cam(monkeypatch, 20) as steps:
        one = Client(url, f"ghost{len(door)}")
        config = one.config()
        data = controls(config)
        data[data.index("auto")] = "score_cam"
        one.join(slow_function(config), data)
        with one.stream(door + one.visitor):
            while len(steps) < 5:
                time.sleep(0.05)
        left = time.monotonic()
        while time.monotonic() - (steps[-1]) < 0.5:
            time.sleep(0.1)
        assert steps[-1] - left < 15


def test_only_some_visitors_are_remembered(model: nn.Module) -> None:
    """What is kept for visitors is bounded; two hundred by default."""
    assert Limits().visitors <= 200
    with web.launch(model, 0, input_size=64, limits=Limits(visitors=3), block=False) as page:
        for number in range(8):
            assert "gc-overlay" in Client(page.url, f"guest{number}").ask()
        assert len(page._blocks.state_holder.session_data) <= 3


def test_malformed_requests_leave_no_traceback(picture: Path) -> None:
    """Whatever a client sends, it is answered and the messages of `grad-cam app` hold no traceback."""
    with started() as (process, address, said):
        client = Client(address, "rude")
        config = client.config()
        bodies: list[Any] = [
            b"", b"{", b"[]", {}, {"data": 3}, {"data": [], "fn_index": 999, "session_hash": "x"},
            {"data": [], "fn_index": "one", "session_hash": "x"}, {"data": [], "fn_index": None, "session_hash": None},
            {"data": [], "fn_index": -1, "session_hash": {"a": 1}}, b"\xff\xfe",
        ]  # fmt: skip
        doors = (
            "queue/join", "run/predict", "api/x", "call/predict", "call/v2/x", "upload", "component_server", "cancel",
            "reset", "stream/x", "process_recording",
        )  # fmt: skip
        json_kind = {"Content-Type": "application/json"}
        for door in doors:
            for body in bodies:
                status, _ = client.send("POST", f"/gradio_api/{door}", body, json_kind)
                assert 200 <= status < 500, (door, body, status)
        for function in config["dependencies"]:
            count = len(function["inputs"])
            for data in ([], [None] * count, [{"a": 1}] * count, [10**400] * count, ["x"] * (count + 3)):
                client.join(function["id"], data, {"pick": {"deep": []}})
        client.answers()
        for path in (
            "queue/data", "queue/data?session_hash=nobody", "heartbeat/", "call/predict/1", "file=", "file=\0",
            "proxy=x", "upload_progress", "custom_component/1/a/b/c", "stream/a/1/2/playlist.m3u8", "info",
        ):  # fmt: skip
            client.send("GET", f"/gradio_api/{urllib.parse.quote(path, safe='/=?&')}")
        head = {"Content-Type": "multipart/form-data; boundary=edge", "Content-Length": "5000"}
        with contextlib.suppress(OSError):  # an upload that breaks off
            connection = http.client.HTTPConnection(*client.address, timeout=1)
            connection.request("POST", "/gradio_api/upload", b"--edge\r\nContent-", head)
            connection.close()
        assert "gc-overlay" in Client(address, "polite").ask()
        said.seek(0)
        assert "Traceback" not in said.read() and process.poll() is None


@pytest.mark.skipif(os.name != "posix", reason="other systems have no SIGTERM")
@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_uploads_are_removed_at_the_end(sent: str, picture: Path) -> None:
    """`grad-cam app` ends cleanly when the system asks it to, and no photo stays behind."""
    with started() as (process, address, said):
        mine = Path(Client(address).upload(picture))
        assert mine.is_file() and mine.parent.parent.name.startswith("grad-cam-")
        process.send_signal(getattr(signal, sent))
        assert process.wait(LIMIT) == 0
        said.seek(0)
        assert not mine.parent.parent.exists() and "Traceback" not in said.read()


LONG = """
import sys, time
from grad_cam.interfaces.web import views
def computed(view, key, progress, real=views._computed):
    sys.stderr.write(f"computing {key.method}\\n")
    if key.method == "score_cam" and not REAL:
        time.sleep(3600)
    return real(view, key, progress)
views._computed = computed
"""


def cpu_seconds(process: subprocess.Popen[str] | None = None) -> float:
    """The computing time that a running process has used; without one, that of all processes that have ended."""
    if process is None:
        ended = os.times()
        return ended.children_user + ended.children_system
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the computing time is read from Linux")
@pytest.mark.parametrize("real", [True, False], ids=["in many forwards", "in a step of an hour"])
def test_ctrl_c_ends_a_computation(real: bool) -> None:
    """In the middle of Score-CAM, with visitors waiting, `grad-cam app` ends cleanly and without further work.

    The work after the signal is counted in seconds of the process, which do not depend on what else the computer does;
    a computation that cannot be stopped, because it lasts an hour without a step, is not waited for.
    """
    with started(f"REAL = {real}\n{LONG}") as (process, address, said):
        visitors = [Client(address, f"visitor{i}") for i in range(3)]
        config = visitors[0].config()
        data = controls(config)
        data[data.index("auto")] = "score_cam"
        with contextlib.ExitStack() as stack:
            for one in visitors:
                assert one.join(slow_function(config), data)[0] == 200
                stack.enter_context(one.stream(f"/gradio_api/queue/data?session_hash={one.visitor}"))
            deadline = time.monotonic() + LIMIT
            while "computing score_cam" not in text_of(said) and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)  # in the middle
            ended, used = cpu_seconds(), cpu_seconds(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 0
            assert cpu_seconds() - ended - used < 2
        assert "computing score_cam" in text_of(said)
        said.seek(0)
        assert not re.search("Traceback|terminate called", said.read())
