"""Which images a training sees: with mmengine's own loops, on one rank and on two, interrupted or not."""

import os

import pytest
import torch
from distributed import run_ranks
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Dataset

from mmvmt.engine import RandomnessHook

IMAGES = 8


@DATASETS.register_module(force=True)
class Numbers(Dataset):
    """Every sample says its index and the seed of its augmentation."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        return dict(samples=torch.tensor([int(key), key.seed]))


class Recorder(BaseModel):
    """Learns nothing, but keeps what it saw, with a draw of the generator that drop path would use."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, samples, mode):
        self.seen += [(*pair, torch.rand(()).item()) for pair in samples.tolist()]
        return dict(loss=self.weight * samples[:, 0].float().mean())


def train(work_dir, train_cfg, rank=0, size=IMAGES, batch_size=2, workers=0, randomness=None, **options):
    """Train the recorder.

    Returns:
        What it saw, and the runner.
    """
    distributed = torch.distributed.is_initialized()
    loader = dict(
        batch_size=batch_size,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=dict(type='default_collate'),
        sampler=dict(type='mmvmt.SeededInfiniteSampler'),
        dataset=dict(type='Numbers', size=size),
    )
    loader |= options.pop('loader', {})
    runner = Runner(
        Recorder(),
        str(work_dir),
        train_dataloader=loader,
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[RandomnessHook()],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', **options.pop('checkpoint', dict(interval=1)))),
        launcher='pytorch' if distributed else 'none',
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        randomness=randomness or dict(seed=3),
        log_level='ERROR',
        experiment_name=f'{work_dir.parent.name}_{work_dir.name}_{rank}',
        **options,
    )
    model = runner.model.module if distributed else runner.model
    runner.train()
    return model.seen, runner


def by_epoch(epochs):
    return dict(type='EpochBasedTrainLoop', max_epochs=epochs)


def by_iteration(iterations):
    return dict(type='IterBasedTrainLoop', max_iters=iterations)


def indices(seen):
    return [index for index, *_ in seen]


def seen_by_rank(rank, world_size, work_dir, train_cfg, options):
    os.environ['LOCAL_RANK'] = str(rank)
    return train(work_dir, train_cfg, rank, **options)[0]


@pytest.mark.parametrize('train_cfg', [by_iteration(2), by_epoch(1)], ids=['iterations', 'epochs'])
def test_ranks_with_seeds_of_their_own_share_one_stream(tmp_path, train_cfg):
    """mmengine gives every rank another seed; still 8 images on 2 ranks are seen once each."""
    options = dict(randomness=dict(seed=3, diff_rank_seed=True))
    first, second = run_ranks(seen_by_rank, 2, tmp_path / 'ranks', train_cfg, options)
    assert sorted(indices(first + second)) == list(range(IMAGES))
    whole, _ = train(tmp_path / 'one', train_cfg, batch_size=4)
    # The stream of the seed in the config, dealt in turn; each rank draws numbers of its own.
    assert [pair[:2] for pairs in zip(first, second) for pair in pairs] == [pair[:2] for pair in whole]
    assert {draw for *_, draw in first}.isdisjoint(draw for *_, draw in second)


@pytest.mark.parametrize('workers', [0, 2])
def test_epochs_are_passes(tmp_path, workers):
    seen, runner = train(tmp_path / 'run', by_epoch(3), size=7, workers=workers)
    passes = [indices(seen)[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(numbers) == list(range(7)) for numbers in passes)
    assert passes[0] != passes[1] != passes[2]
    assert (runner.epoch, runner.iter, runner.max_iters) == (3, 12, 12)
    # A stream by iterations is the same one.
    endless, _ = train(tmp_path / 'endless', by_iteration(21), size=7, batch_size=1)
    assert [pair[:2] for pair in endless] == [pair[:2] for pair in seen]


def resumed_on_rank_0_alone(rank, world_size, work_dir, checkpoint):
    options = dict(resume=True, load_from=checkpoint) if rank == 0 else {}
    return seen_by_rank(rank, world_size, work_dir, by_iteration(3), options)


def test_ranks_that_begin_apart_are_stopped(tmp_path):
    """As where one machine does not see the work dir: its weights would be others, without a word."""
    train(tmp_path / 'run', by_iteration(2), checkpoint=dict(interval=1, by_epoch=False))
    with pytest.raises(Exception, match='rank 1 begins at iteration 0, but rank 0 at 2: on a resume every machine'):
        run_ranks(resumed_on_rank_0_alone, 2, tmp_path / 'ranks', str(tmp_path / 'run' / 'iter_2.pth'))


def test_uneven_ranks_end_an_epoch_together(tmp_path):
    """9 images on 2 ranks in batches of 2: the ninth would make a batch that only one rank has."""
    first, second = run_ranks(seen_by_rank, 2, tmp_path / 'ranks', by_epoch(2), dict(size=9))
    assert len(first) == len(second) == 8
    for epoch in (slice(0, 4), slice(4, 8)):
        assert len(set(indices(first[epoch] + second[epoch]))) == 8


@pytest.mark.parametrize(
    'checkpoint, workers',
    [(dict(interval=1), 0), (dict(interval=1, by_epoch=False), 0), (dict(interval=1, by_epoch=False), 1)],
    ids=['between', 'inside', 'inside, workers'],
)
def test_interrupted_epochs_end_as_others(tmp_path, checkpoint, workers):
    schedule = dict(type='LinearLR', start_factor=0.1, begin=0, end=3, by_epoch=True, convert_to_iter_based=True)
    options = dict(size=7, workers=workers, checkpoint=checkpoint)
    whole, runner = train(tmp_path / 'whole', by_epoch(3), param_scheduler=[dict(schedule)], **options)
    saved = sorted((tmp_path / 'whole').glob('*.pth'), key=lambda path: int(path.stem.split('_')[1]))
    assert len(saved) == (3 if checkpoint.get('by_epoch', True) else 12)
    # Workers take their time to start: once, in the middle of an epoch.
    for index in range(len(saved) - 1) if workers == 0 else [len(saved) // 2]:
        path = saved[index]
        rest, resumed = train(
            tmp_path / f'resumed_{path.stem}',
            by_epoch(3),
            param_scheduler=[dict(schedule)],
            resume=True,
            load_from=str(path),
            randomness=dict(seed=None),
            **options,
        )
        assert rest == whole[-len(rest) :]
        # Three epochs of 7 images in batches of 2, 2, 2 and 1.
        done = (index + 1) * 7 if len(saved) == 3 else 7 * ((index + 1) // 4) + 2 * ((index + 1) % 4)
        assert len(rest) == 21 - done
        assert (resumed.epoch, resumed.iter) == (3, 12)
        assert resumed.optim_wrapper.get_lr() == runner.optim_wrapper.get_lr()
        assert resumed.optim_wrapper.get_momentum() == runner.optim_wrapper.get_momentum()
        assert torch.equal(resumed.model.weight, runner.model.weight)


def test_an_epoch_of_another_length_begins_where_an_epoch_ended(tmp_path):
    """Epochs of 3 batches of 3, then of 4 batches of 2: numbers of iterations do not say where an epoch begins."""
    whole, _ = train(tmp_path / 'whole', by_epoch(3), size=7, batch_size=3)
    rest, _ = train(
        tmp_path / 'resumed',
        by_epoch(3),
        size=7,
        batch_size=2,
        resume=True,
        load_from=str(tmp_path / 'whole' / 'epoch_1.pth'),
    )
    assert indices(rest) == indices(whole)[7:]


class Pairs(BatchSampler):
    """A batch sampler of a user."""

    def __init__(self, sampler, batch_size):
        super().__init__(sampler, batch_size, drop_last=False)


def test_a_sampler_inside_a_batch_sampler_is_found(tmp_path):
    options = dict(size=7, randomness=dict(seed=3, diff_rank_seed=True))
    seen, _ = train(tmp_path / 'pairs', by_epoch(2), loader=dict(batch_sampler=dict(type=Pairs)), **options)
    plain, _ = train(tmp_path / 'plain', by_epoch(2), **options)
    assert seen == plain
