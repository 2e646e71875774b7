import io
import sys
import types

import pytest
import torch
from training.tensorboard import TensorBoardLog
from training.view_order import ViewOrder
from utils import progress as progress_module
from utils.progress import Progress, each
from utils.ranks import Ranks


def test_plain_lines_hold_the_numbers_and_no_control_characters(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    bar = Progress(0, 1000, terminal=False)
    for iteration in range(10, 1001, 10):
        now[0] += 2.0  # 5 it/s
        bar.update(iteration, 0.5, 20.0, 12_345)
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[50/1000] loss 0.5000, PSNR 20.00, 12,345 Gaussians, 5.0 it/s, 03:10 left"
    assert len(lines) == 20 and lines[-1].startswith("[1000/1000]") and lines[-1].endswith("00:00 left")


def test_numbers_are_moving_averages(capsys):
    bar = Progress(0, 20, terminal=False)
    bar.update(10, 1.0, 10.0, 1)
    bar.update(20, 0.0, 20.0, 1)
    assert "loss 0.6000, PSNR 14.00" in capsys.readouterr().out


def test_a_terminal_gets_a_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    bar = Progress(0, 100, terminal=True)
    bar.update(50, 0.25, 30.0, 7)
    bar.close()
    assert "50/100" in screen.getvalue() and "loss 0.2500, PSNR 30.00, 7 Gaussians" in screen.getvalue()


def test_quiet_is_quiet(capsys):
    bar = Progress(0, 10, quiet=True, terminal=True)
    bar.update(10, 1.0, 1.0, 1)
    bar.say("something")
    assert list(each([1, 2], "Counting", quiet=True)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_tensorboard_gets_the_names_of_3dgs_where_it_is_installed(monkeypatch, tmp_path):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def add_histogram(self, name, values, step):
            written.append((name, len(values), step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    log = TensorBoardLog(tmp_path)
    log.training(10, 0.5, 20.0, 7)
    log.views(10, "test", 0.1, 25.0)
    log.opacities(10, torch.zeros(3, 1))
    log.close()
    assert written[0] == str(tmp_path) and written[-1] == "closed"
    assert ("train_loss_patches/total_loss", 0.5, 10) in written and ("total_points", 7, 10) in written
    assert ("test/loss_viewpoint - psnr", 25.0, 10) in written and (
        "scene/opacity_histogram",
        3,
        10,
    ) in written


def test_without_tensorboard_nothing_happens(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = TensorBoardLog(tmp_path)
    log.training(10, 0.5, 20.0, 7)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_every_view_comes_once_before_any_comes_again():
    order = ViewOrder(5, torch.Generator().manual_seed(0))
    rounds = [[order.next() for _ in range(5)] for _ in range(20)]
    assert all(sorted(visited) == list(range(5)) for visited in rounds)
    assert len(set(map(tuple, rounds))) > 10
    again = torch.Generator().manual_seed(0)
    assert all(torch.randperm(5, generator=again).tolist()[::-1] == visited for visited in rounds)


@pytest.mark.parametrize("count, places", [(12, 4), (13, 4), (15, 4), (21, 2), (3, 5), (7, 7)])
def test_each_place_of_a_step_draws_from_its_own_part_of_the_views(count, places):
    order = ViewOrder(count, torch.Generator().manual_seed(0), places)
    rounds, foreign = [], []
    for number in range(40):
        drawn = [(order.next(), (number * count + ahead) % places) for ahead in range(count)]
        rounds.append(tuple(view for view, _ in drawn))
        foreign.append(sum(view % places != place for view, place in drawn))
    assert all(sorted(visited) == list(range(count)) for visited in rounds)
    assert len(set(rounds)) > 5 or count <= places
    assert foreign[0] == 0 and max(foreign) <= count % places


def test_what_a_rank_will_render_is_known_and_places_begin_anew_after_a_resume():
    orders = [ViewOrder(13, torch.Generator().manual_seed(0), 4) for _ in range(2)]
    for _ in range(8):
        orders[0].next()
    coming = [list(orders[0].coming(Ranks(rank, 3))) for rank in range(3)]
    orders[1].restore(list(orders[0].remaining))
    left = [orders[1].next() for _ in range(5)]
    assert coming == [[left[0], left[3], left[4]], [left[1]], [left[2]]]
