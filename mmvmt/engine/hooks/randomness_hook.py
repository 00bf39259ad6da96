"""Randomness of the model as a function of (seed, iteration, rank)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmvmt.compat import resume_batches
from mmvmt.datasets.samplers import SeededInfiniteSampler, derive_seed
from mmvmt.registry import HOOKS


@HOOKS.register_module()
class RandomnessHook(Hook):
    """Seeds every training iteration, so that a resumed run drops the same paths as an uninterrupted one.

    mmengine saves no state of random generators. It does save the run's seed: on a resume this hook also hands that
    seed to the sampler, which was built before the checkpoint was read.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        sampler = runner.train_dataloader.sampler
        if isinstance(sampler, SeededInfiniteSampler):
            sampler.seed = runner.seed
            resume_batches(runner.train_loop, sampler)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Sequence[dict] | None = None) -> None:
        seed = derive_seed('iteration', runner.seed, runner.iter, get_rank())
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  libraries draw from the global generator
        torch.manual_seed(seed)
