"""Runs of several processes: they compute what one does, end together, and go on with another number."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scene_files import write_photo
from tiny_scene import HEIGHT, WIDTH, write_tiny_scene

import subfunction as policy
from arguments import make_settings
from gaussian_model import GaussianModel
from scene import Camera, load_scene
from training.density_control import moves_between
from utils import run_folder
from utils.before_torch import gpu_of_process
from utils.checkpoints import load_checkpoint
from utils.images import to_bytes
from utils.ply import write_point_cloud
from utils.rendering import render
from utils.ranks import _of_this_start

FLAGS = """--scale_schedule --densification_interval 6 --prune_interval 6 --tag_lifespan 10 --error_floor 6e-4
    --threads 1 --eval""".split()
PATIENCE = 120  # seconds for any command here


def torchrun(ranks: int, *arguments: object, **options: object) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*launcher, *map(str, arguments)], env=environment, **pipes, **options)


def outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def finishes(ranks: int, *arguments: object) -> str:
    code, out, err = outcome(torchrun(ranks, *arguments))
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def program(project_dir) -> Path:
    return project_dir / "train.py"


def wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not path.is_file():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_do_what_one_process_does(project_dir, scene, tmp_path, ranks):
    """Exchanges, photos, a step with all its statistics, and Gaussians that move from rank to rank."""
    with_blank = write_tiny_scene(tmp_path / "with_blank")
    write_photo(with_blank / "masks" / "view_3.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    out = finishes(ranks, project_dir / "tests" / "ranks_driver.py", scene, with_blank)
    assert out.count("is content") == ranks


def test_a_run_of_two_has_the_same_bytes_every_time_and_files_as_of_one(program, scene, tmp_path, run_here):
    begin = ("-s", scene, *FLAGS, "--iterations", 90, "--test_iterations", 90, "--save_iterations", 30)
    lines = [finishes(2, program, *begin, "-m", tmp_path / name) for name in ("first", "second")]
    assert run_here("train.py", *begin, "-m", tmp_path / "one", "--views_per_step", 2).returncode == 0
    paths = [run_folder.point_cloud_path(tmp_path / name, 90) for name in ("first", "second", "one")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    counts = [len(GaussianModel.load_ply(path, "cpu")) for path in paths[1:]]
    assert counts[0] == pytest.approx(counts[1], rel=0.2) and f"Saved {counts[0]:,} Gaussians" in lines[0]
    found = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("first", "one")]
    assert found[0] == found[1]
    configs = [run_folder.read_config(tmp_path / name) for name in ("first", "one")]
    assert [config["settings"]["views_per_step"] for config in configs] == [2, 2]
    quality = [config["measures"]["90"]["test"]["PSNR"] for config in configs]
    assert quality[0] == pytest.approx(quality[1], abs=1.0)
    _, record = load_checkpoint(run_folder.latest_checkpoint_path(tmp_path / "first"))
    assert record["iteration"] == 90


def test_two_ranks_train_what_the_address_space_of_one_does_not_hold(program, scene, tmp_path):
    """1.2 million Gaussians: one process needs above 2.7 GB besides its libraries, each of two 2.2 GB."""
    count, random = 1_200_000, np.random.default_rng(0)
    points = tmp_path / "many.ply"
    positions, colors = random.uniform(-8, 8, (count, 3)), random.integers(0, 256, (count, 3), np.uint8)
    write_point_cloud(points, positions, colors)
    flags = ["-s", scene, *FLAGS, "--variant", "3dgs", "--init_points", points, "--views_per_step", 2]
    flags += ["--iterations", 4, "--sh_degree_interval", 1, "--checkpoint_every", 0, "--disable_viewer", "-m"]
    limit = address_space_of_libraries(program) + 2_450_000_000
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))}

    code, _, err = outcome(torchrun(1, program, *flags, tmp_path / "one", **limited))
    assert code != 0 and err.count("error: out of memory") == 1 and f'File "{program}"' not in err, err
    code, out, err = outcome(torchrun(2, program, *flags, tmp_path / "two", **limited))
    assert code == 0 and f"Saved {count:,} Gaussians" in out, err


def address_space_of_libraries(program: Path) -> int:
    """Return the bytes of address space that a process takes for its code and libraries."""
    code = "import train; print(*[line for line in open('/proc/self/status') if line.startswith('VmPeak')])"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.check_output(
        [sys.executable, "-c", code], cwd=program.parent, env=environment, text=True
    )
    return 1024 * int(out.split()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ranks_that_were_stopped_go_on_as_more_or_as_one(program, scene, tmp_path, run_here, number):
    folder = tmp_path / "run"
    flags = ("-s", scene, *FLAGS, "--iterations", 200, "--checkpoint_every", 0.005)
    process = torchrun(2, program, *flags, "-m", folder)
    wait_for(run_folder.latest_checkpoint_path(folder))
    process.send_signal(number)
    code, _, err = outcome(process)
    assert code != 0 and err.count("interrupted at iteration") == 2, err
    tensors, record = load_checkpoint(run_folder.latest_checkpoint_path(folder))
    assert 0 < record["iteration"] < 200 and record["iteration"] % 2 == 0
    assert f"interrupted at iteration {record['iteration']} of 200" in err
    assert len({len(values) for name, values in tensors.items() if name.startswith("raw.")}) == 1
    if number == signal.SIGINT:
        finishes(3, program, "--resume", "-m", folder)
    else:
        assert run_here("train.py", "--resume", "-m", folder).returncode == 0
    assert run_folder.read_config(folder)["finished"]
    assert run_folder.read_config(folder)["settings"]["views_per_step"] == 2
    assert run_folder.point_cloud_path(folder, 200).is_file()


def test_a_rank_that_is_killed_ends_the_run_with_a_sentence(program, scene, tmp_path, run_here):
    folder = tmp_path / "run"
    flags = ("-s", scene, *FLAGS, "--iterations", 200, "--checkpoint_every", 0.005)
    process = torchrun(2, program, *flags, "-m", folder)
    wait_for(run_folder.latest_checkpoint_path(folder))
    started = time.monotonic()
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    code, _, err = outcome(process)
    assert code != 0 and time.monotonic() - started < 60
    assert "has lost another one" in err or "interrupted at iteration" in err, err
    load_checkpoint(run_folder.latest_checkpoint_path(folder))
    assert run_here("train.py", "--resume", "-m", folder).returncode == 0
    assert run_folder.point_cloud_path(folder, 200).is_file()


def ask(client: socket.socket, camera: Camera, **values) -> bytes:
    """Ask as 3DGS's network viewer does, and return the image's bytes."""
    pose = (np.diag([1, -1, -1, 1]) @ camera.world_to_camera).T  # for row vectors, in OpenGL's axes
    values |= {"resolution_x": camera.width, "resolution_y": camera.height, "fov_x": camera.FoVx}
    text = json.dumps(values | {"fov_y": camera.FoVy, "view_matrix": pose.flatten().tolist()}).encode()
    client.sendall(struct.pack("<I", len(text)) + text)
    with client.makefile("rb") as answer:
        image = answer.read(3 * camera.width * camera.height)
        assert answer.read(struct.unpack("<I", answer.read(4))[0])
    return image


def connected(port: int, process: subprocess.Popen) -> socket.socket:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        time.sleep(0.05)
    pytest.fail(f"nobody listens: {outcome(process)}")


@pytest.mark.parametrize("killed", [False, True])
def test_a_viewer_sees_and_pauses_what_ranks_share(program, scene, tmp_path, killed):
    """Its images are those of the checkpoint that a Ctrl-C leaves during the pause."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder, cameras = tmp_path / "run", load_scene(str(scene), quiet=True).train
    flags = ("-s", scene, *FLAGS, "--iterations", 20_000, "--port", port, "-m", folder)
    process = torchrun(2, program, *flags)
    try:
        with connected(port, process) as client:
            ask(client, cameras[0], train=True)
        with connected(port, process) as client:
            started = [ask(client, cameras[0], train=True) for _ in range(20)]
            paused = [ask(client, camera, train=False) for camera in (*cameras[:3], cameras[0])]
            if killed:
                os.kill(children(process.pid)[-1], signal.SIGKILL)
            else:
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError, struct.error):  # until the connection ends
                while ask(client, cameras[0], train=False) == paused[0]:
                    time.sleep(0.1)
    except BaseException:
        process.terminate()
        raise
    finally:
        code, _, err = outcome(process)
    assert code != 0 and started[0] != started[-1] and paused[0] == paused[3]
    if killed:
        assert "has lost another one" in err or "interrupted at iteration" in err, err
        return
    assert err.count("interrupted at iteration") == 2, err
    tensors, record = load_checkpoint(run_folder.latest_checkpoint_path(folder))
    settings = make_settings({}, record["settings"])
    model = GaussianModel.from_state(
        tensors, settings.optimization, settings.importance, 1.0, torch.device("cpu")
    )
    model.active_sh_degree = record["active_sh_degree"]
    model = model.baked(policy.baking_gate(record["iteration"], settings))
    for camera, image in zip(cameras, paused[:3]):
        expected = to_bytes(render(camera, model, torch.zeros(3)).image).astype(int).flatten()
        assert np.abs(np.frombuffer(image, np.uint8) - expected).max() <= 1 and expected.std() > 10


def test_torchrun_starts_ranks_again_that_go_on_from_the_checkpoint(program, scene, tmp_path):
    """The first start has no checkpoint to resume; the first process is killed when there is one."""
    folder = tmp_path / "run"
    flags = ("-s", scene, *FLAGS, "--iterations", 200, "--checkpoint_every", 0.005, "--resume")
    process = torchrun(2, "--max_restarts", 1, program, *flags, "-m", folder)
    wait_for(run_folder.latest_checkpoint_path(folder))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    code, _, err = outcome(process)
    assert code == 0 and "failed (exitcode" in err, err
    assert run_folder.read_config(folder)["finished"] and run_folder.point_cloud_path(folder, 200).is_file()


def test_a_new_start_shares_nothing_with_the_one_before():
    """Ranks meet in the store of the launcher, in which names and addresses of the start before still are."""
    store, starts = dist.HashStore(), []
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            of_ranks = [pool.submit(_of_this_start, store, rank, 3) for rank in (2, 1)]
            time.sleep(0.1)  # the first rank is the last to come: what it left before must not answer for it
            assert not any(of_rank.done() for of_rank in of_ranks)
            of_ranks.append(pool.submit(_of_this_start, store, 0, 3))
            starts.append([of_rank.result(PATIENCE) for of_rank in of_ranks])
    starts[0][0].set("address", "before")
    assert [part.check(["address"]) for part in starts[0] + starts[1]] == [True] * 3 + [False] * 3
    starts[1][2].set("address", "now")
    assert all(part.get("address") == b"now" for part in starts[1])


def test_fewer_gaussians_than_ranks(program, scene, tmp_path):
    """One that every view shows, and one that none does."""
    points = tmp_path / "two.ply"
    write_point_cloud(points, np.array([[0.0, 0, 0], [0, 0, 900]]), np.full((2, 3), 200, np.uint8))
    flags = ("--variant", "3dgs", "--iterations", 12, "--init_points", points)
    finishes(3, program, "-s", scene, *FLAGS, *flags, "-m", tmp_path / "run")
    assert len(GaussianModel.load_ply(run_folder.point_cloud_path(tmp_path / "run", 12), "cpu")) == 2


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ([], "-m: several processes have to be told the folder that they train into"),
        (["-m", "DIRECTORY", "-s", "nowhere"], "nowhere"),
    ],
)
def test_what_ranks_refuse(program, scene, tmp_path, flags, complaint):
    flags = [str(tmp_path / "run") if flag == "DIRECTORY" else flag for flag in flags]
    code, _, err = outcome(torchrun(2, program, "-s", scene, *FLAGS, *flags))
    assert code != 0 and complaint in err
    assert 'Traceback (most recent call last):\n  File "' + str(program) not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("counts", [[3, 3], [10, 0], [0, 0, 7], [5, 1, 9, 2], [1, 0, 0]])
def test_rows_move_until_all_own_as_many(counts):
    moves = moves_between(counts)
    assert [sum(row) for row in moves] == counts
    after = [sum(row[taker] for row in moves) for taker in range(len(counts))]
    assert max(after) - min(after) <= 1
    assert all(moves[rank][rank] == min(counts[rank], after[rank]) for rank in range(len(counts)))


def test_views_are_rendered_by_ranks_as_by_one(project_dir, scene, tmp_path, run_here):
    folder = tmp_path / "run"
    assert run_here("train.py", "-s", scene, *FLAGS, "--iterations", 30, "-m", folder).returncode == 0
    assert run_here("render.py", "-m", folder, "--depth").returncode == 0
    files = sorted(path for split in ("train", "test") for path in (folder / split).rglob("*.*"))
    before = [path.read_bytes() for path in files]
    finishes(2, project_dir / "render.py", "-m", folder, "--depth")
    assert [path.read_bytes() for path in files] == before
    assert files == sorted(path for split in ("train", "test") for path in (folder / split).rglob("*.*"))


@pytest.mark.parametrize(
    "environment, gpu",
    [
        ({}, None),
        ({"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
        ({"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "2"}, "2"),
        ({"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "5,7"}, "7"),
        ({"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "5"}, ""),
    ],
)
def test_every_process_sees_a_gpu_of_its_own(environment, gpu):
    assert gpu_of_process(environment) == gpu


@pytest.mark.parametrize("fails, code, said", [(False, 0, ""), (True, 2, "error: so it is")])
def test_one_of_several_processes_leaves_before_the_interpreter_ends(project_dir, fails, code, said):
    """What the interpreter's end would abort does not matter any more, and what was printed is there."""
    program = f"""
import atexit, os
from utils.commands import run_command
def main():
    atexit.register(os.abort)
    print("done")
    if {fails}:
        raise ValueError("so it is")
run_command(main)
"""
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": "0"}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=project_dir, env=environment, capture_output=True, text=True
    )
    assert (process.returncode, process.stdout, process.stderr.strip()) == (code, "done\n", said)
