"""Training order and randomness as a function of (seed, position): a resumed run sees the same."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence, Sized
from fractions import Fraction
from typing import Any

import torch
from mmengine.dataset import RepeatDataset
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from mmvmt.registry import DATA_SAMPLERS


def derive_seed(*parts: int | str) -> int:
    """A 32-bit seed from some numbers and names, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, 'little')


class SampleKey(int):
    """Index of a sample that carries the seed of its randomness.

    Data sets of this package seed their pipeline with it; for others it is a plain index. What mmengine's
    ``ConcatDataset`` and ``RepeatDataset`` make of it, a difference and a remainder, carries the same seed.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> SampleKey:
        key = super().__new__(cls, index)
        key.seed = seed
        return key

    def __sub__(self, other: int) -> SampleKey:
        return SampleKey(int(self) - int(other), self.seed)

    def __mod__(self, other: int) -> SampleKey:
        return SampleKey(int(self) % int(other), self.seed)

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
        TypeError: The data set wraps others in a way that loses the seeds of samples.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        _check_wrappers(dataset)
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
        self._orders: dict[tuple[int, ...], tuple[int, list[int]]] = {}
        while end is None or position < end:
            yield SampleKey(self._index_at(position), derive_seed('sample', self.seed, position))
            position += self.world_size

    def _index_at(self, position: int) -> int:
        """The sample at a position of the stream."""
        epoch, offset = divmod(position, self.size)
        return self._order(epoch, self.size)[offset]

    def _order(self, epoch: int, size: int, *stream: int) -> list[int]:
        """A permutation of a row of them; the last one of each row is kept."""
        if self._orders.get(stream, (-1, None))[0] != epoch:
            order = torch.arange(size)
            if self.shuffle:
                generator = torch.Generator().manual_seed(derive_seed('order', self.seed, *stream, epoch))
                order = torch.randperm(size, generator=generator)
            self._orders[stream] = epoch, order.tolist()
        return self._orders[stream][1]

    def __len__(self) -> int:
        """Images of a pass that every rank has at least: from it follow the batches of an epoch."""
        return self.size // self.world_size


_LONGEST_CYCLE = 1000


@DATA_SAMPLERS.register_module()
class RatioSampler(SeededInfiniteSampler):
    """An endless stream of several data sets, each with a given share, dealt to the ranks in turn.

    ``ratios=[2, 1]`` takes two samples of the first data set for every one of the second, whatever their sizes: of
    every three positions of the stream, in a random order. Each data set comes in endless permutations of its own. What
    holds of :class:`SeededInfiniteSampler` holds of this sampler; in a loop by epochs an epoch has as many samples as
    the data sets together.

    Args:
        dataset: A ``ConcatDataset``.
        ratios: The share of each data set, positive numbers that need not add up to one.
        shuffle: Whether the order is random.
        seed: As of :class:`SeededInfiniteSampler`.

    Raises:
        TypeError: The data set is no ``ConcatDataset``, or wraps others in a way that loses the seeds of samples.
        ValueError: A ratio is not positive, or there are not as many as data sets.
    """

    def __init__(self, dataset: Sized, ratios: Sequence[float], shuffle: bool = True, seed: int | None = None) -> None:
        super().__init__(dataset, shuffle, seed)
        sizes = getattr(dataset, 'cumulative_sizes', None)
        if sizes is None:
            raise TypeError(
                f'RatioSampler draws from the parts of a ConcatDataset, got {type(dataset).__name__}; list the data '
                "sets as dataset=dict(type='mmvmt.ConcatDataset', datasets=[...])"
            )
        if len(ratios) != len(sizes):
            raise ValueError(f'ratios={list(ratios)} has {len(ratios)} shares for {len(sizes)} data sets')
        for number, ratio in enumerate(ratios):
            if not ratio > 0:
                raise ValueError(
                    f'ratios={list(ratios)}: the share of data set {number} must be positive; leave a data set out of '
                    'datasets to take nothing from it'
                )
        shares = [Fraction(ratio).limit_denominator(_LONGEST_CYCLE) for ratio in ratios]
        whole = math.lcm(*(share.denominator for share in shares))
        counts = [int(share * whole) for share in shares]
        if sum(counts) > _LONGEST_CYCLE * math.gcd(*counts):
            counts = [round(_LONGEST_CYCLE * share / sum(shares)) for share in shares]
        if min(counts) < 1:
            raise ValueError(f'ratios={list(ratios)}: a share is less than 1 in {_LONGEST_CYCLE}; leave that one out')
        self.counts = [count // math.gcd(*counts) for count in counts]
        self.begins = [0, *sizes[:-1]]
        self.sizes = [end - begin for begin, end in zip(self.begins, sizes, strict=True)]
        # Of the stream, so many positions have the data sets in exactly their shares.
        self._cycle = [part for part, count in enumerate(self.counts) for _ in range(count)]

    def _index_at(self, position: int) -> int:
        cycle, offset = divmod(position, len(self._cycle))
        # Another order in every cycle, so that no rank gets one data set alone.
        parts = [self._cycle[place] for place in self._order(cycle, len(self._cycle), 0)[: offset + 1]]
        part = parts.pop()
        epoch, offset = divmod(cycle * self.counts[part] + parts.count(part), self.sizes[part])
        return self.begins[part] + self._order(epoch, self.sizes[part], part + 1)[offset]


def _check_wrappers(dataset: Any) -> None:
    """Refuse wrappers that hand on indices of their own, without the seed."""
    if isinstance(dataset, torch.utils.data.ConcatDataset):
        for part in dataset.datasets:
            _check_wrappers(part)
    elif isinstance(dataset, RepeatDataset):
        _check_wrappers(dataset.dataset)
    elif hasattr(dataset, 'dataset') or hasattr(dataset, 'datasets'):
        raise TypeError(
            f'{type(dataset).__name__} wraps other data sets and hands them indices without the seed of a sample; use '
            "it with sampler=dict(type='InfiniteSampler'), which gives up exact resuming, or unwrap it"
        )
