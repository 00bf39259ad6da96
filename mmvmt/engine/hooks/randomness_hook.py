"""Randomness of the model as a function of (seed, iteration, rank)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from mmvmt.compat import resume_batches
from mmvmt.datasets.samplers import SeededInfiniteSampler, derive_seed
from mmvmt.registry import HOOKS

_BEGIN = 'mmvmt_epoch_began'
"""Where the message hub has the number of the epoch, and the iteration that it began at."""


@HOOKS.register_module()
class RandomnessHook(Hook):
    """Seeds every training iteration, so that a resumed run drops the same paths as an uninterrupted one.

    mmengine saves no state of random generators. It does save the run's seed: on a resume this hook also hands that
    seed to the sampler, which was built before the checkpoint was read. All ranks take the seed of rank 0: with
    ``randomness.diff_rank_seed`` each has another one, but they deal one stream of samples among them.

    In a loop by epochs it lets the sampler end each of them; an epoch that a checkpoint was written in goes on where
    it was.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Share the seed, and hand it to the sampler.

        Raises:
            RuntimeError: This rank begins at another iteration than rank 0.
        """
        shared = torch.tensor([runner.seed, runner.iter], dtype=torch.int64)
        broadcast(shared)
        self._seed, iteration = shared.tolist()
        if iteration != runner.iter:
            raise RuntimeError(
                f'rank {get_rank()} begins at iteration {runner.iter}, but rank 0 at {iteration}: on a resume every '
                f'machine needs the checkpoint; put the work dir {runner.work_dir} where all of them see it'
            )
        sampler = _seeded_sampler(runner.train_dataloader)
        if sampler is not None:
            reseeded, sampler.seed = sampler.seed != self._seed, self._seed
            resume_batches(runner.train_loop, sampler, reseeded)

    def before_train_epoch(self, runner: Any) -> None:
        sampler = _seeded_sampler(runner.train_dataloader)
        if sampler is None or not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        # Checkpoints hold the message hub. From the length of an epoch alone, which may change with the batch or the
        # number of ranks, a resumed run could not tell how far it is in its epoch.
        epoch, began = runner.message_hub.runtime_info.get(_BEGIN, (None, 0))
        if epoch != runner.epoch:
            began = runner.iter
        runner.message_hub.update_info(_BEGIN, [runner.epoch, began])
        batches = runner.train_dataloader.batch_sampler
        sampler.start_epoch(runner.epoch, batches.batch_size, batches.drop_last, runner.iter - began)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Sequence[dict] | None = None) -> None:
        seed = derive_seed('iteration', self._seed, runner.iter, get_rank())
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  libraries draw from the global generator
        torch.manual_seed(seed)


def _seeded_sampler(dataloader: Any) -> SeededInfiniteSampler | None:
    """Our sampler in a loader, by itself or in a batch sampler of the config's own."""
    found = (dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None))
    return next((sampler for sampler in found if isinstance(sampler, SeededInfiniteSampler)), None)
