"""The page in the browser: who gets which picture when, and the whole of it in a real headless Chromium."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from commands import fails, run

from viewer.browser import BrowserSplats, RenderedView, WebViewer

SECONDS_TO_START = 120


def need_viser():
    pytest.importorskip("viser", reason="viser is not installed (make extras)")


# The page, with browsers made up


class Browser:
    """What viser tells of one, and what it was sent."""

    def __init__(self, width=400, height=200):
        self.client_id = 0
        self.pictures = []
        self.camera = SimpleNamespace(
            image_width=width, image_height=height, fov=1.0, wxyz=(1.0, 0, 0, 0), position=(0.0, 0, -4),
            on_update=lambda moved: setattr(self, "moved", moved),
        )  # fmt: skip
        self.scene = SimpleNamespace(set_background_image=lambda image, **_: self.pictures.append(image))

    def move(self, *position):
        self.camera.position = position
        self.moved(None)


@pytest.fixture
def page():
    need_viser()
    viewer = WebViewer("127.0.0.1", 8300, modes=("color", "depth"), scores=("opacity",), trains=True)
    viewer.wishes, viewer.beats = [], []

    def show(request):
        viewer.wishes.append(request)
        return RenderedView(np.zeros((request.height, request.width, 3), np.uint8), [])

    nobody = np.zeros((1, 3))
    splats = BrowserSplats(nobody, np.eye(3)[None], nobody, np.ones((1, 1)))

    def beat():
        viewer.beats.append(len(viewer.wishes))

    viewer.answer = lambda: viewer.serve(show, lambda request: splats, "so far", beat)
    yield viewer
    viewer.close()


def welcome(page, monkeypatch, browser):
    monkeypatch.setattr(page._server, "get_clients", lambda: {0: browser})
    page._welcome(browser)
    return browser


def test_nobody_looks_and_nothing_is_drawn(page):
    assert not page.is_watched
    page.answer()
    assert page.wishes == []


def test_a_browser_gets_a_picture_of_what_its_camera_sees(page, monkeypatch):
    browser = welcome(page, monkeypatch, Browser())
    page.answer()
    (request,) = page.wishes
    assert (request.width, request.height, request.mode, request.prune_share) == (400, 200, "color", 0)
    assert np.tan(request.fov_x / 2) == pytest.approx(2 * np.tan(request.fov_y / 2))
    assert np.allclose(request.world_to_camera @ [0, 0, 0, 1], [0, 0, 4, 1])
    page.answer()
    assert len(browser.pictures) == 1  # nothing has changed


def test_pictures_are_small_while_the_camera_moves_and_full_when_it_rests(page, monkeypatch):
    browser = welcome(page, monkeypatch, Browser())
    page.answer()
    monkeypatch.setattr("viewer.browser.SECONDS_STILL", 60.0)
    page._watchers[0].pixels_per_second = 1e5
    browser.move(1.0, 0, -4)
    page.answer()
    assert browser.pictures[-1].shape[1] < 400
    page.answer()
    assert len(browser.pictures) == 2
    monkeypatch.setattr("viewer.browser.SECONDS_STILL", 0.0)
    page.answer()
    assert browser.pictures[-1].shape == (200, 400, 3)


def test_a_changed_control_asks_for_a_new_picture(page, monkeypatch):
    welcome(page, monkeypatch, Browser())
    page.answer()
    page._controls._mode.value = "depth"
    page._outdate()
    page.answer()
    assert [request.mode for request in page.wishes] == ["color", "depth"]


def test_pausing_goes_on_answering_and_ends(page, monkeypatch):
    browser, waits = welcome(page, monkeypatch, Browser()), []
    page._controls._pause.value = True

    def wait():
        waits.append(len(browser.pictures))
        browser.move(0.0, len(waits), -4)
        page._controls._pause.value = len(waits) < 3

    monkeypatch.setattr(page, "wait", wait)
    page.answer()
    assert waits == page.beats == [1, 2, 3] and len(browser.pictures) == 4


def test_training_goes_on_when_the_last_one_who_paused_it_has_left(page, monkeypatch):
    welcome(page, monkeypatch, Browser())
    page._controls._pause.value = True
    monkeypatch.setattr(page, "wait", page._watchers.clear)
    page.answer()


def test_a_browser_that_draws_by_itself_gets_gaussians(page, monkeypatch):
    browser = welcome(page, monkeypatch, Browser())
    page._controls._in_browser.value = True
    page.answer()
    assert browser.pictures == [None] and page._watchers[0].splats
    browser.move(1.0, 0, -4)
    page.answer()
    assert browser.pictures == [None]  # it has them already
    page._controls._in_browser.value = False
    page._outdate()
    page.answer()
    assert browser.pictures[-1] is not None and not page._watchers[0].splats


def test_an_address_that_is_none_is_refused():
    need_viser()
    with pytest.raises(OSError):
        WebViewer("203.0.113.7", 8300, modes=("color",), scores=("opacity",))


def test_a_port_that_is_taken_gives_way_to_the_next(page):
    other = WebViewer("127.0.0.1", int(page.address.rpartition(":")[2]), modes=("a",), scores=("b",))
    assert other.address != page.address
    other.close()


def ask_http(page, path):
    """Status and body of a request as it stands, not as a library would tidy it."""
    host, port = page.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    return int(answer.split()[1]), answer


def test_the_page_listens_at_loopback_and_gives_out_nothing_but_itself(page):
    assert page.address.startswith("http://127.0.0.1:")
    assert ask_http(page, "/")[0] == 200
    for path in (
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
    ):
        status, answer = ask_http(page, path)
        assert status != 200 or b"root:" not in answer, path


def test_hostile_messages_end_their_connection_and_nothing_else(page, monkeypatch, capfd):
    client = pytest.importorskip("websockets.sync.client")
    import viser

    address = page.address.replace("http", "ws")
    chance = np.random.default_rng(0)
    messages = [b"", b"\xc1", b"\x81\xa4type\xa7nothing", chance.bytes(5000), bytes(10**6), "text"]
    for message in messages:
        with client.connect(
            address, subprotocols=[f"viser-v{viser.__version__}"], max_size=None
        ) as connection:
            connection.send(message)
            with contextlib.suppress(Exception):
                connection.recv(timeout=0.2)
    idle = socket.create_connection(
        page.address.removeprefix("http://").split(":"), timeout=20
    )  # says nothing
    browser = welcome(page, monkeypatch, Browser())
    page.answer()
    assert len(browser.pictures) == 1 and ask_http(page, "/")[0] == 200
    idle.close()
    capfd.readouterr()


# The command


def test_without_viser_it_says_what_to_install(run_here, trained, monkeypatch):
    monkeypatch.setattr("viewer.browser.importlib.util.find_spec", lambda name: None)
    assert fails(run_here("view.py", "-m", trained[0]), "pip install viser")


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ([], "either a run's folder with -m or a file with --ply"),
        (["-m", "a", "--ply", "b"], "either a run's folder with -m or a file with --ply"),
        (["-m", "no/such/run"], "no/such/run"),
        (["--ply", "none.ply"], "none.ply"),
        (["-m", "RUN", "--iteration", "5"], "iteration 5 is not saved"),
        (["-m", "RUN", "--ip", "nowhere.invalid"], ""),
    ],
)
def test_mistakes_get_one_sentence(run_here, trained, flags, complaint):
    need_viser()
    flags = [str(trained[0]) if flag == "RUN" else flag for flag in flags]
    assert fails(run_here("view.py", *flags), complaint)


# A real browser


@pytest.fixture(scope="module")
def chromium():
    need_viser()
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium here (or set CHROMIUM)")
    flags = [
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--ignore-gpu-blocklist",
    ]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@contextlib.contextmanager
def running(project_dir, *arguments):
    """A command with a page, and the page's address."""
    command = [sys.executable, "-u", *map(str, (project_dir / arguments[0], *arguments[1:]))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until, said = time.monotonic() + SECONDS_TO_START, ""
        while time.monotonic() < until and not re.search(r"http://[\d.]+:\d+", said):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield re.search(r"http://[\d.]+:\d+", said).group(), process
    finally:
        process.kill()
        process.communicate()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def look(browser, address):
    page = browser.new_page(viewport={"width": 640, "height": 480})
    page.goto(address)
    return page


def screenshot(page):
    """The part that no panel covers, (H, W, 3)."""
    image = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    return image[200:440, 60:300].astype(int)


def wait_for(page, condition, seconds=60):
    """The first screenshot that meets it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        image = screenshot(page)
        if condition(image):
            return image
        page.wait_for_timeout(300)
    pytest.fail("the page did not come to show what it should")


def choose(page, old, new):
    page.locator(f"input[value='{old}']:visible").first.click()
    page.get_by_role("option", name=new, exact=True).click()


def drag(page):
    page.mouse.move(150, 300)
    page.mouse.down()
    page.mouse.move(190, 310, steps=3)
    page.mouse.up()


def test_a_model_is_seen_in_a_browser(project_dir, scene, tmp_path, chromium):
    folder, port = tmp_path / "run", free_port()
    flags = ("--iterations", 40, "--save_iterations", 20, "--checkpoint_iterations", 40, "--threads", 1)
    assert run(project_dir, "train.py", "-s", scene, "-m", folder, *flags).returncode == 0
    with running(project_dir, "view.py", "-m", folder, "--port", port, "--threads", 1) as (address, command):
        assert address == f"http://127.0.0.1:{port}"
        page = look(chromium, address)
        first = wait_for(page, lambda image: image.std() > 15)
        drag(page)
        turned = wait_for(page, lambda image: np.abs(image - first).mean() > 2)
        choose(page, "color", "age")  # this iteration has a checkpoint
        wait_for(page, lambda image: np.abs(image - turned).mean() > 2)
        page.get_by_text("age: blue").wait_for(timeout=30_000)
        choose(page, "age", "error of the view")
        page.get_by_text("on average").wait_for(timeout=60_000)
        page.close()
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 0


def test_training_is_seen_in_a_browser_and_can_be_paused(project_dir, scene, tmp_path, chromium):
    flags = ["--iterations", 100_000, "--viewer", "--viewer_port", free_port(), "--disable_viewer"]
    command = ("train.py", "-s", scene, "-m", tmp_path / "run", "--threads", 1, *flags)
    with running(project_dir, *command) as (address, _):
        page = look(chromium, address)
        wait_for(page, lambda image: image.std() > 15)
        status = page.get_by_text(re.compile(r"iteration [\d,]+, [\d,]+ Gaussians"))
        before = status.inner_text()
        page.wait_for_timeout(1500)
        assert status.inner_text() != before
        page.get_by_text("pause training").locator("xpath=following::input[1]").dispatch_event("click")
        page.wait_for_timeout(1500)
        paused = status.inner_text()
        page.wait_for_timeout(1500)
        assert status.inner_text() == paused
        still = screenshot(page)
        drag(page)
        wait_for(page, lambda image: np.abs(image - still).mean() > 2)
        page.close()
