"""Which views are held out for testing: every 8th, or those in the lists of a scene's file."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from scene.views import PosedPhoto

# Every 8th view is held out, as in Mip-NeRF 360 and most work since.
HOLD_OUT_EVERY = 8
# nerfstudio's lists of image names.
TRAIN_LIST, HELD_OUT_LISTS = "train_filenames", ("test_filenames", "val_filenames")
_Item = TypeVar("_Item")
Split = tuple[list[PosedPhoto], list[PosedPhoto]]  # to train on, and held out


def hold_out(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Split into items to train on and held-out ones: every 8th, starting with the first."""
    train = [item for index, item in enumerate(items) if index % HOLD_OUT_EVERY]
    return train, items[::HOLD_OUT_EVERY]


def split_views(
    views: list[PosedPhoto],
    content: dict[str, Any],  # of the file
    file: Path,
    eval: bool,
    quiet: bool,
) -> Split:
    """Return the views to train on and, with `eval`, those held out: by the file's lists if it has any.

    Views that are in none of the lists are left out if there is a list of those to train on. What is left
    out, and names that are no view's, are printed unless `quiet`. Raise ValueError if a list names no view,
    if the lists contradict each other, or if nothing is held out.
    """
    lists = {key: read_list(content, key, file) for key in (TRAIN_LIST, *HELD_OUT_LISTS)}
    if not any(lists.values()):
        return hold_out(views) if eval else (views, [])
    found = {key: find_views(names, views, f"{key} of {file}", quiet) for key, names in lists.items()}
    train, held_out = found[TRAIN_LIST], set().union(*(found[key] for key in HELD_OUT_LISTS))
    if train and held_out:
        _report_unlisted(views, train | held_out, file, quiet)
    every = {view.image_name for view in views}
    if not eval:
        return _only(views, train | held_out if train and held_out else every), []
    train, held_out = train or every - held_out, held_out or every - train
    if not held_out:
        raise ValueError(f"{file}: --eval holds out nothing: {TRAIN_LIST} names all {len(views)} views")
    if both := sorted(train & held_out):
        raise ValueError(
            f"{file}: {len(both)} views are both in {TRAIN_LIST} and in a list of held-out ones: {both[0]}"
        )
    return _only(views, train), _only(views, held_out)


def read_list(content: dict[str, Any], key: str, file: Path) -> list[str]:
    """Return the names under `key`, empty without it. Raise ValueError if it is not a list of names."""
    names = content.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{file}: {key} must be a list of image names, got {str(names)[:80]}")
    return names


def find_views(names: Sequence[str], views: Sequence[PosedPhoto], owner: str, quiet: bool) -> set[str]:
    """Return the image names of the views that are meant by `names`.

    A name may lack the suffix or folders, have more folders before it, or backslashes. Print how many names
    are no view's, unless `quiet`. Raise ValueError, naming `owner`, if all of them are none.
    """
    by_stem: dict[str, list[str]] = {}
    for view in views:
        by_stem.setdefault(PurePosixPath(view.image_name).stem, []).append(view.image_name)
    found = {name: _find_view(name, by_stem) for name in names}
    unknown = [name for name, view in found.items() if view is None]
    if names and len(unknown) == len(found):
        raise ValueError(
            f"{owner} names no view: its first name is {names[0]}, the first view's is {views[0].image_name}"
        )
    if unknown and not quiet:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        print(f"{len(unknown)} of {len(found)} names in {owner} are no view's: {shown}")
    return {view for view in found.values() if view is not None}


def _find_view(name: str, by_stem: dict[str, list[str]]) -> str | None:
    """Return the one view's name of which `name` is a form, None if there is none or more than one."""
    path = PurePosixPath(posixpath.normpath(name.replace("\\", "/")))
    candidates = [PurePosixPath(view) for view in (*by_stem.get(path.stem, ()), *by_stem.get(path.name, ()))]
    same = [view for view in candidates if _ends_alike(path, view)]
    exact = [view for view in same if view == path] or [view for view in same if view.name == path.name]
    chosen = {str(view) for view in exact or same}
    return chosen.pop() if len(chosen) == 1 else None


def _ends_alike(first: PurePosixPath, second: PurePosixPath) -> bool:
    """Return whether one path, without its suffix, is the end of the other."""
    folders = first.parts[:-1], second.parts[:-1]
    count = min(map(len, folders))
    return all(parts[len(parts) - count :] == folders[0][len(folders[0]) - count :] for parts in folders)


def _report_unlisted(views: Sequence[PosedPhoto], listed: set[str], file: Path, quiet: bool) -> None:
    left_out = [view.image_name for view in views if view.image_name not in listed]
    if left_out and not quiet:
        print(
            f"{len(left_out)} of {len(views)} views are in no list of {file} and are left out: {left_out[0]}"
        )


def _only(views: list[PosedPhoto], names: set[str]) -> list[PosedPhoto]:
    return [view for view in views if view.image_name in names]
