"""What memory a program may take, and when it gives back what it has freed."""

from __future__ import annotations

import os
import resource

import pytest

from utils import heap, memory


def test_available_memory_is_what_the_machine_has_at_most(monkeypatch, tmp_path):
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.available_memory() <= everything
    (tmp_path / "max").write_text("5000000\n")
    (tmp_path / "current").write_text("1000000\n")
    monkeypatch.setattr(memory, "_GROUP_LIMITS", (str(tmp_path / "max"),))
    monkeypatch.setattr(memory, "_GROUP_USES", (str(tmp_path / "current"),))
    assert memory.available_memory() == 4e6
    (tmp_path / "max").write_text("max\n")
    assert memory.available_memory() > 1e8


def test_a_limit_of_the_address_space_counts(monkeypatch):
    taken, in_memory = memory.taken_memory()
    assert 1e7 < in_memory < taken
    monkeypatch.setattr(resource, "getrlimit", lambda _: (taken + 10**8, resource.RLIM_INFINITY))
    assert 0 <= memory.available_memory() <= 1.1e8


def test_processes_of_a_run_divide_the_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 12.0)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert memory.share_of_memory() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.share_of_memory() == 3


@pytest.mark.parametrize("left, is_given_back", [(24, True), (26, False)])
def test_freed_memory_is_given_back_where_little_is_left(monkeypatch, left, is_given_back):
    given_back = []
    monkeypatch.setattr(heap, "taken_memory", lambda: (1000, 100))
    monkeypatch.setattr(heap, "share_of_memory", lambda: left)
    monkeypatch.setattr(heap, "give_back_freed_memory", lambda: given_back.append(True))
    heap.give_back_if_little_is_left()
    assert bool(given_back) == is_given_back
