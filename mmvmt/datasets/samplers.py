"""Training order and randomness as a function of (seed, position): a resumed run sees the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sized
from typing import Any

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmvmt.registry import DATA_SAMPLERS


def derive_seed(*parts: int | str) -> int:
    """A 32-bit seed from some numbers and names, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, 'little')


class SampleKey(int):
    """Index of a sample that carries the seed of its randomness.

    Data sets of this package seed their pipeline with it; for others it is a plain index.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> SampleKey:
        key = super().__new__(cls, index)
        key.seed = seed
        return key

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleKey, (int(self), self.seed)


@DATA_SAMPLERS.register_module()
class SeededInfiniteSampler(Sampler):
    """Endless permutations of a data set, dealt to the ranks in turn.

    Position p of the stream (counted over all ranks) is the same sample with the same augmentation seed whatever the
    number of workers, and whether or not the run was interrupted.

    A loop by epochs gets one permutation at a time: :class:`mmvmt.engine.RandomnessHook` calls :meth:`start_epoch`.

    Args:
        dataset: The data set.
        shuffle: Whether each pass has a new order.
        seed: Seed of the stream; None: one that all ranks agree on.

    Raises:
        TypeError: The data set wraps others, so that the seeds of samples would be lost on the way.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        if hasattr(dataset, 'dataset') or hasattr(dataset, 'datasets'):
            raise TypeError(
                f'{type(dataset).__name__} wraps other data sets and hands them indices without the seed of a sample; '
                "use it with sampler=dict(type='InfiniteSampler'), which gives up exact resuming, or unwrap it"
            )
        self.rank, self.world_size = get_dist_info()
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.start = 0
        self._epoch: tuple[int, int] | None = None

    def skip(self, num_samples: int) -> None:
        """Start after this many samples of this rank, as mmengine's training loop asks on a resume.

        Raises:
            ValueError: The number is negative.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples must not be negative, got {num_samples}')
        self.start = num_samples

    def start_epoch(self, epoch: int, batch_size: int, drop_last: bool = False, batches_done: int = 0) -> None:
        """Let the next iteration over the sampler end with the epoch, after as many batches on every rank.

        Every image comes once in an epoch. Only where an image more would make a batch more on some of the ranks, which
        the others would wait for in vain, the remainder (fewer images than ranks, others in every epoch) is left out.

        Args:
            epoch: Its number, from 0.
            batch_size: Of one rank.
            drop_last: Whether the loader leaves out an incomplete batch.
            batches_done: Batches of this epoch that were trained before an interruption.

        Raises:
            ValueError: There are fewer images than ranks.
        """
        share, rest = divmod(self.size, self.world_size)
        if not share:
            raise ValueError(f'{self.size} training images cannot be dealt to {self.world_size} processes; use fewer')
        full = batch_size if drop_last else 1
        same_batches = (share + batch_size - full) // batch_size == (share + 1 + batch_size - full) // batch_size
        if same_batches and self.rank < rest:
            share += 1
        self._epoch = epoch, share
        self.skip(batches_done * batch_size)

    def __iter__(self) -> Iterator[SampleKey]:
        # In the stream, of all ranks. What is left out at the end of an epoch is passed over.
        begin, end = 0, None
        if self._epoch is not None:
            epoch, share = self._epoch
            begin = epoch * self.size
            end = begin + self.rank + share * self.world_size
        position = begin + self.rank + self.start * self.world_size
        order, order_epoch = None, -1
        while end is None or position < end:
            epoch, offset = divmod(position, self.size)
            if epoch != order_epoch:
                order, order_epoch = self._order(epoch), epoch
            yield SampleKey(int(order[offset]), derive_seed('sample', self.seed, position))
            position += self.world_size

    def _order(self, epoch: int) -> torch.Tensor:
        if not self.shuffle:
            return torch.arange(self.size)
        generator = torch.Generator().manual_seed(derive_seed('order', self.seed, epoch))
        return torch.randperm(self.size, generator=generator)

    def __len__(self) -> int:
        """Images of a pass that every rank has at least: from it follow the batches of an epoch."""
        return self.size // self.world_size
