"""The processes that share a run: torchrun starts them, torch.distributed connects them.

Each owns a share of the Gaussians. What all own together is in the order of ranks. Every rank calls the same
methods in the same order.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# A rank that hears nothing of another for so long gives up: within a minute all of them have ended.
PATIENCE = timedelta(seconds=50)
# Where each works by itself, and the fast wait for the slow. One that has ended is noticed at once even so.
PATIENCE_AT_THE_END = timedelta(hours=1)


def world_size() -> int:
    """Return how many processes torchrun has started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


class LostRank(OSError):
    """The exception of a rank that finds that another one has ended or does not answer."""


def _of_this_start(store: dist.Store, rank: int, count: int) -> dist.Store:
    """Return a part of torchrun's store that is of this start of the processes alone.

    After a restart the store still has the addresses of the processes before (pytorch/pytorch, issue 135712).
    So each gives itself a new name, and the first answers to names, in vain to those of before, until all
    have understood. Raise RuntimeError if one does not in time.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
    if rank > 0:
        store.set(f"name {rank}", own)
        first = store.get(f"answer {own}").decode()  # waits for it
        store.set(f"understood {first} {rank}", "")
        return dist.PrefixStore(first, store)
    for other in range(1, count):
        while not store.check([f"understood {own} {other}"]):
            if time.monotonic() > until:
                raise RuntimeError(f"process {other} does not answer")
            store.set(f"answer {store.get(f'name {other}').decode()}", own)
            time.sleep(0.01)
    return dist.PrefixStore(own, store)


class Ranks:
    """This process among those of a run; the only one, unless `connect` made it."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @classmethod
    def connect(cls, device: torch.device, patience: timedelta = PATIENCE) -> Ranks:
        """Return this process among those that torchrun has started, connected with the others.

        Raise OSError if they cannot be reached.
        """
        if world_size() == 1:
            return cls()
        backends = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
        try:
            store, rank, count = next(dist.rendezvous("env://", timeout=PATIENCE))
            group = {"rank": rank, "world_size": count, "timeout": patience}
            dist.init_process_group(backends, store=_of_this_start(store, rank, count), **group)
        except (RuntimeError, ValueError) as problem:
            raise OSError(f"the {world_size()} processes do not reach each other: {problem}") from None
        return cls(dist.get_rank(), dist.get_world_size())

    def disconnect(self) -> None:
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Return whether this rank is the one that writes files and talks to people."""
        return self.rank == 0

    @property
    def word(self) -> tuple[int, ...]:
        """Return what tells random numbers of this rank from those of others; nothing for the only one."""
        return () if self.count == 1 else (self.rank,)

    def renders(self, view: int, places: int) -> bool:
        """Return whether this rank renders a view, where steps of `places` views take turns.

        The same for the number of a place; see training/view_order.py.
        """
        return view % places % self.count == self.rank

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums over all ranks of what has the same shape on each."""
        if self.count == 1:
            return values
        total = values.clone()
        with self._talking():
            dist.all_reduce(total)
        return total

    def total(self, number: Tensor) -> int:  # ()
        """Return the sum of a number over all ranks."""
        return int(self.sum(number))

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether the flag is set on a rank."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(int(flag), device=device)))

    def counts(self, own: int, device: torch.device) -> list[int]:
        """Return the numbers that every rank gives for itself."""
        if self.count == 1:
            return [own]
        numbers = torch.zeros(self.count, dtype=torch.int64, device=device)
        numbers[self.rank] = own
        return self.sum(numbers).tolist()

    def together(self, rows: Tensor) -> Tensor:  # (n, ...)
        """Return the rows (N, ...) of all ranks; those of one type and width."""
        if self.count == 1:
            return rows
        counts = self.counts(len(rows), rows.device)
        plain = rows.detach().to(torch.uint8) if rows.dtype == torch.bool else rows.detach()
        padded = plain.new_zeros(max(counts), *rows.shape[1:])  # all_gather takes equal shapes
        padded[: len(rows)] = plain
        parts = [torch.empty_like(padded) for _ in counts]
        with self._talking():
            dist.all_gather(parts, padded)
        whole = torch.cat([part[:count] for part, count in zip(parts, counts)])
        return whole.to(rows.dtype)

    def own(self, rows: Tensor, count: int) -> Tensor:  # (N, ...) -> (n, ...)
        """Return this rank's part of the rows of all: `count` of them."""
        if self.count == 1:
            return rows
        before = sum(self.counts(count, rows.device)[: self.rank])
        return rows[before : before + count]

    def exchange(
        self, parts: Sequence[Tensor], received: Sequence[int] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Return what every rank has for this one, rank after rank, and how many rows of each.

        `parts` (n, ...), one for each rank, go to them. `received` is the second result, where it is known.
        Differentiable: gradients go back the same way.
        """
        sent, ones = [len(part) for part in parts], [1] * self.count
        if received is None:
            received = self.sent(torch.tensor(sent, device=parts[0].device), ones, ones).tolist()
        return _Exchange.apply(torch.cat(list(parts)), self, sent, received), list(received)

    def sent(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Return the rows that come from every rank, of which `rows` are for every rank so many."""
        if self.count == 1:
            return rows.clone()
        out = rows.new_empty(sum(received), *rows.shape[1:])
        with self._talking():
            dist.all_to_all_single(out, rows.contiguous(), received, sent)
        return out

    def of_first(self, values: Tensor) -> Tensor:
        """Return what the first rank gives; the others give something of the same shape."""
        return self.sum(values if self.is_first else torch.zeros_like(values))

    def message(self, content: bytes = b"") -> bytes:
        """Return the bytes that the first rank gives; what the others give does not count."""
        if self.count == 1:
            return content
        size = int(self.of_first(torch.tensor(len(content))))
        if size == 0:
            return b""
        values = torch.zeros(size, dtype=torch.uint8)
        if self.is_first:
            values = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return self.of_first(values).numpy().tobytes()

    def to_first(self, rows: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
        """Yield the rows of every rank, one after the other, at the first rank; nothing at the others.

        counts: of all ranks. Every rank must go on until nothing comes any more.
        """
        if not self.is_first:
            with self._talking():
                dist.send(rows.contiguous(), 0)
            return
        yield rows
        for other in range(1, self.count):
            part = rows.new_empty(counts[other], *rows.shape[1:])
            with self._talking():
                dist.recv(part, other)
            yield part

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.count > 1:
            with self._talking():
                dist.barrier()

    @contextlib.contextmanager
    def all_or_none(self, task: str) -> Iterator[None]:
        """Raise OSError, naming the task, at the ranks that complete the block, where it fails at another."""
        device = torch.device("cpu")
        try:
            yield
        except (OSError, ValueError):
            with contextlib.suppress(OSError):  # what has failed here is the better reason
                self.any(True, device)
            raise
        if self.any(False, device):
            raise OSError(f"another process of the run could not {task}")

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Raise LostRank where the block finds that another rank has ended or does not answer."""
        try:
            yield
        except RuntimeError as problem:
            reason = str(problem).strip().splitlines()[0]
            raise LostRank(f"process {self.rank} of the run has lost another one ({reason})") from None


ALONE = Ranks()


class _Exchange(torch.autograd.Function):
    """Rows to other ranks, their gradients back."""

    @staticmethod
    def forward(ctx, rows: Tensor, ranks: Ranks, sent: list[int], received: list[int]) -> Tensor:
        ctx.ranks, ctx.sent, ctx.received = ranks, sent, received
        return ranks.sent(rows, sent, received)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ctx.ranks.sent(grad, ctx.received, ctx.sent), None, None, None
