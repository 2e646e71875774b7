"""3DGS's network viewer: the protocol, spoken by a client of our own, and what hostile clients get."""

from __future__ import annotations

import json
import socket
import struct
import threading

import numpy as np
import pytest
import torch
from training_runs import learn, new_run

from training import viewers
from training.interrupts import Interrupts
from utils.images import to_bytes
from utils.ranks import LostRank
from utils.rendering import render
from viewer import sibr
from viewer.sibr import LARGEST_REQUEST, RemoteViewer


@pytest.fixture
def viewer():
    said = []
    server = RemoteViewer("127.0.0.1", 0, said.append)
    server.said = said
    server.clients = []
    yield server
    server.close()
    for client in server.clients:
        client.socket.close()


class Client:
    """What the viewer's window does."""

    def __init__(self, viewer: RemoteViewer) -> None:
        self.socket = socket.create_connection(viewer.address, timeout=20)
        viewer.clients.append(self)

    def ask(self, **values) -> None:
        self.send(json.dumps(values).encode())

    def send(self, text: bytes) -> None:
        self.socket.sendall(struct.pack("<I", len(text)) + text)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (part := self.socket.recv(size - len(data))):
            data += part
        return data

    def answer(self, width: int, height: int) -> tuple[np.ndarray, str]:
        image = np.frombuffer(self.read(3 * width * height), np.uint8).reshape(height, width, 3)
        return image, self.read(struct.unpack("<I", self.read(4))[0]).decode()


def request_for(camera, **changes):
    """As SIBR asks: matrices for row vectors, with y and z turned."""
    view = camera.world_to_camera.T.copy()
    view[:, 1:3] *= -1
    return {
        "resolution_x": camera.width, "resolution_y": camera.height, "train": True,
        "fov_x": camera.FoVx, "fov_y": camera.FoVy, "z_near": 0.01, "z_far": 100.0,
        "shs_python": False, "rot_scale_python": False, "keep_alive": False, "scaling_modifier": 1.0,
        "view_matrix": view.flatten().tolist(), "view_projection_matrix": [0.0] * 16,
    } | changes  # fmt: skip


def test_training_shows_what_its_cameras_see(loaded_scene, tmp_path, viewer):
    run = new_run(loaded_scene, tmp_path, source_path="/scenes/tiny")
    learn(run, 5)
    client, camera = Client(viewer), loaded_scene.train[2]
    client.ask(**request_for(camera))
    viewers.Viewers(viewer).show(run, Interrupts())
    image, name = client.answer(camera.width, camera.height)
    with torch.no_grad():
        expected = to_bytes(render(camera, run.model, torch.zeros(3)).image)
    assert np.abs(image.astype(int) - expected).max() <= 1 and expected.std() > 5
    assert name == "/scenes/tiny"
    assert "is watching" in viewer.said[0]


def test_watching_changes_nothing(loaded_scene, tmp_path, viewer):
    runs = [
        new_run(loaded_scene, tmp_path, variant="tag_gradprune_decomp", importance_from_iter=2)
        for _ in range(2)
    ]
    client = Client(viewer)
    for _ in range(6):
        for run in runs:
            learn(run, 1)
        client.ask(**request_for(loaded_scene.train[0]))
        viewers.Viewers(viewer).show(runs[0], Interrupts())
        client.answer(loaded_scene.train[0].width, loaded_scene.train[0].height)
    for name, values in runs[0].model.raw.items():
        assert torch.equal(values, runs[1].model.raw[name]), name


def test_no_picture_where_none_is_wanted(viewer):
    client = Client(viewer)
    client.ask(resolution_x=0, resolution_y=0, train=True)
    viewer.serve(lambda request: pytest.fail("nothing to show"), "scene", last=False)
    assert client.answer(0, 0)[1] == "scene"


def test_it_takes_no_time_while_nobody_asks(viewer):
    viewer.serve(None, "scene", last=False)
    client = Client(viewer)
    viewer.serve(None, "scene", last=False)  # connected, but silent
    client.socket.close()


@pytest.mark.parametrize(("first", "last"), [({"train": False}, False), ({"keep_alive": True}, True)])
def test_training_waits_while_the_viewer_holds_it(viewer, first, last):
    """Until it asks without that, or leaves."""
    client, done, beats = Client(viewer), threading.Event(), []
    client.ask(resolution_x=0, resolution_y=0, **first)

    def training():
        viewer.serve(lambda request: b"", "scene", last, lambda: beats.append(done.is_set()))
        done.set()

    thread = threading.Thread(target=training)
    thread.start()
    assert client.answer(0, 0)[1] == "scene"
    assert not done.wait(0.3)
    client.ask(resolution_x=0, resolution_y=0, train=True)
    assert client.answer(0, 0)[1] == "scene"
    assert done.wait(10)
    thread.join()
    assert beats == [False]  # before the second request


GOOD = {
    "resolution_x": 8,
    "resolution_y": 8,
    "fov_x": 1.0,
    "fov_y": 1.0,
    "view_matrix": np.eye(4).flatten().tolist(),
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (
            json.dumps(GOOD | {"resolution_x": 10**9}).encode(),
            "resolution_x 1000000000, expected a number from 0 to 4096",
        ),
        (json.dumps(GOOD | {"resolution_y": "8"}).encode(), "resolution_y '8'"),
        (json.dumps(GOOD | {"fov_x": 0}).encode(), "fov_x 0"),
        (json.dumps(GOOD | {"fov_y": float("nan")}).encode(), "fov_y nan"),
        (json.dumps(GOOD | {"scaling_modifier": -1}).encode(), "scaling_modifier -1"),
        (json.dumps(GOOD | {"view_matrix": [1, 2]}).encode(), "view_matrix is not a rotation"),
        (json.dumps(GOOD | {"view_matrix": None}).encode(), "view_matrix is not a rotation"),
        (json.dumps(GOOD | {"view_matrix": [float("inf")] * 16}).encode(), "view_matrix is not a rotation"),
    ],
)
def test_malformed_requests_end_the_connection_and_nothing_else(viewer, text, reason):
    client = Client(viewer)
    client.send(text)
    viewer.serve(lambda request: pytest.fail("nothing to show"), "scene", last=False)
    assert client.read(1) == b"" and reason in viewer.said[-1]
    again = Client(viewer)
    again.ask(**GOOD)
    viewer.serve(lambda request: bytes(3 * 64), "scene", last=False)
    assert again.answer(8, 8)[1] == "scene"


def test_a_huge_length_is_not_waited_for(viewer):
    client = Client(viewer)
    client.socket.sendall(struct.pack("<I", LARGEST_REQUEST + 1))
    viewer.serve(None, "scene", last=False)
    assert client.read(1) == b"" and "expected at most" in viewer.said[-1]


def test_a_viewer_that_stops_in_the_middle_does_not_stop_training(viewer, monkeypatch):
    monkeypatch.setattr(sibr, "SECONDS_TO_WAIT", 0.2)
    client = Client(viewer)
    client.socket.sendall(struct.pack("<I", 100) + b"{")
    viewer.serve(None, "scene", last=False)
    assert "The viewer is gone" in viewer.said[-1]
    leaving = Client(viewer)
    leaving.socket.sendall(b"\x01")
    leaving.socket.close()
    viewer.serve(None, "scene", last=False)
    assert "closed the connection" in viewer.said[-1]


def test_a_lost_rank_is_not_taken_for_a_viewer_that_left(viewer):
    def show(request):
        raise LostRank("process 0 of the run has lost another one")

    Client(viewer).ask(**GOOD)
    with pytest.raises(LostRank):
        viewer.serve(show, "scene", last=False)


def test_a_port_that_is_taken_is_said_and_training_goes_on(loaded_scene, tmp_path, viewer):
    class Said(list):
        say = list.append

    run, said = new_run(loaded_scene, tmp_path, port=viewer.address[1]), Said()
    viewers.open_viewers(run, said).show(run, Interrupts())
    assert "No network viewer at 127.0.0.1:" in said[0]
    run.settings.run.disable_viewer = True
    viewers.open_viewers(run, said).close()
    assert len(said) == 1
