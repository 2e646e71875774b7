"""Views whose photos are in memory, or in a cache of limited size that reads them again when needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import overload

from scene.camera import Camera
from scene.smaller import smaller

WORKERS = 2  # threads that read ahead


class PhotoCache:
    """A cache of cameras with their pixels, by number.

    A camera is read when it is needed. The least recently used ones are dropped when the cache is full.
    """

    def __init__(self, read: Callable[[int], Camera], room: float) -> None:
        """Make an empty cache.

        read: reads a camera by its number.
        room: largest number of bytes of all pixels. At least one camera is kept whatever its size.
        """
        self._read, self._room, self._taken = read, room, 0
        self._kept: OrderedDict[int, Camera] = OrderedDict()
        self._coming: dict[int, Future[Camera]] = {}
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(WORKERS, "photos")

    def get(self, number: int) -> Camera:
        """Return a camera with its pixels."""
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
            coming = self._coming.pop(number, None)
        camera = coming.result() if coming else self._read(number)
        with self._lock:
            self._kept[number] = camera
            self._taken += pixel_bytes(camera)
            while self._taken > self._room and len(self._kept) > 1:
                self._taken -= pixel_bytes(self._kept.popitem(last=False)[1])
        return camera

    def expect(self, numbers: Sequence[int]) -> None:
        """Start to read cameras that are needed soon."""
        with self._lock:
            for number in numbers:
                if number not in self._kept and number not in self._coming:
                    self._coming[number] = self._pool.submit(self._read, number)


class Cameras(Sequence[Camera]):
    """Views of a scene, each with its photo when it is taken out.

    Those that `without_images` has without photos are read by a cache, if there is one.
    """

    def __init__(
        self,
        without_images: Sequence[Camera],
        cache: PhotoCache | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """`numbers`: those of the views in the cache; None: 0, 1, ..."""
        self.without_images, self._cache = list(without_images), cache
        self._numbers = list(range(len(without_images)) if numbers is None else numbers)
        self._divisor, self._smaller = 1, dict[int, Camera]()

    def __len__(self) -> int:
        return len(self.without_images)

    @overload
    def __getitem__(self, index: int) -> Camera: ...

    @overload
    def __getitem__(self, index: slice) -> list[Camera]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        cached = self._cache is not None and not self._is_kept(index)
        return self._cache.get(self._numbers[index]) if cached else self.without_images[index]

    def at_divisor(self, index: int, divisor: int) -> Camera:
        """Return a view with the sides of its photo divided, as far as `smaller` does so.

        Those of one divisor are kept, if their photos are.
        """
        if divisor != self._divisor:
            self._divisor, self._smaller = divisor, {}
        if divisor == 1:
            return self[index]
        if index in self._smaller:
            return self._smaller[index]
        view = smaller(self[index], divisor)
        if self._is_kept(index):
            self._smaller[index] = view
        return view

    def __iter__(self) -> Iterator[Camera]:
        return (self[index] for index in range(len(self)))

    def only(self, indices: Sequence[int]) -> Cameras:
        """Return the views with these indices."""
        chosen = [self.without_images[index] for index in indices]
        return Cameras(chosen, self._cache, [self._numbers[index] for index in indices])

    def __add__(self, other: Cameras) -> Cameras:
        """Return the views of both. They must share a cache."""
        numbers = self._numbers + other._numbers
        return Cameras(self.without_images + other.without_images, self._cache, numbers)

    def expect(self, indices: Sequence[int]) -> None:
        """Start to read the photos of views that are taken out soon."""
        if self._cache is not None:
            self._cache.expect([self._numbers[index] for index in indices if not self._is_kept(index)])

    def _is_kept(self, index: int) -> bool:
        return self.without_images[index].image is not None


def pixel_bytes(camera: Camera) -> int:
    """Return the bytes that photo, mask and depth map of a camera take."""
    held = (camera.image, camera.mask, camera.invdepth)
    return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)
