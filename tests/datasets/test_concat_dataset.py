"""Data sets whose tasks differ, as one: samples, meta information, samplers, gradients on one rank and on two."""

import itertools
from pathlib import Path

import mmengine.dataset
import numpy as np
import pytest
import torch
from distributed import run_ranks
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATA_SAMPLERS, DATASETS
from own_folder import LABELS, build_own_folder
from pascal_mt_folder import build_folder
from PIL import Image
from tiny import losses_of, tiny_model

import mmvmt
from mmvmt.datasets import ConcatDataset, RatioSampler, SeededInfiniteSampler
from mmvmt.datasets.samplers import SampleKey

PIPELINE = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.MultiTaskRandomScaleCrop', crop_size=(32, 32)),
    dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
    dict(type='mmvmt.PackMultiTaskInputs'),
]


@pytest.fixture
def folders(tmp_path):
    return build_own_folder(tmp_path / 'own'), build_folder(tmp_path / 'PASCAL_MT')


def parts_of(root):
    """Two data sets without a common task: masks of one folder, semseg and normals of another."""
    own = dict(type='mmvmt.MultiTaskDataset', data_root=f'{root}/own', images='photos/{id}.jpg', pipeline=PIPELINE)
    other = dict(type='mmvmt.PASCALContextMT', data_root=f'{root}/PASCAL_MT', tasks=['semseg'], pipeline=PIPELINE)
    return [own | dict(labels=dict(saliency=LABELS['lanes'])), other | dict(num_classes=dict(semseg=21))]


def build(root, parts=None, **options):
    return DATASETS.build(dict(type='mmvmt.ConcatDataset', datasets=parts or parts_of(root), **options))


def test_samples_have_all_tasks_and_labels_of_their_own(folders, tmp_path):
    dataset = build(tmp_path)
    assert [len(part) for part in dataset.datasets] == [3, 3]
    assert dataset.metainfo['tasks'] == ('saliency', 'semseg')
    assert len(dataset.metainfo['classes']) == 21
    assert dataset.metainfo['dataset_type'] == 'multi_task + pascal_context_mt'
    for index in range(6):
        sample = dataset[index]['data_samples']
        assert set(sample.gt.keys()) == {'saliency', 'semseg'}
        assert sample.gt.shape == (32, 32)
        labelled, other = ('saliency', 'semseg') if index < 3 else ('semseg', 'saliency')
        assert (sample.gt.get(labelled) != 255).any()
        assert (sample.gt.get(other) == 255).all()
        assert sample.num_classes['semseg'] == 21
    assert dataset.index_of(folders[1].train[2]) == 5
    with pytest.raises(KeyError, match="'nowhere' is in none of the 2 data sets"):
        dataset.index_of('nowhere')


def test_wrappers_in_each_other_hand_on_tasks_and_seeds(folders, tmp_path):
    own, other = parts_of(tmp_path)
    repeated = dict(type='RepeatDataset', times=2, dataset=own)
    inner = dict(type='mmvmt.ConcatDataset', datasets=[repeated, other])
    dataset = build(tmp_path, [inner, own])
    assert len(dataset) == 12
    plain = DATASETS.build(own)
    # Of the fourth sample in the repeated data set, and of the same at the end.
    for index in (4, 1, 10):
        packed = dataset[SampleKey(index, 77)]
        assert packed['inputs'].equal(plain[SampleKey(1, 77)]['inputs'])
        assert not packed['inputs'].equal(dataset[SampleKey(index, 78)]['inputs'])
        assert set(packed['data_samples'].gt.keys()) == {'saliency', 'semseg'}


def test_mmengines_own_wrappers_hand_on_seeds(folders, tmp_path):
    own = parts_of(tmp_path)[0]
    plain = DATASETS.build(own)
    dataset = mmengine.dataset.ConcatDataset([plain, plain])
    assert dataset[SampleKey(4, 5)]['inputs'].equal(plain[SampleKey(1, 5)]['inputs'])
    SeededInfiniteSampler(dataset, seed=0)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            dict(labels=dict(semseg=LABELS['crops']), num_classes=dict(semseg=5)),
            r'data sets 0 and 1 \(from 0\) of ConcatDataset contradict each other in metainfo\.classes: .*ignore_keys',
        ),
        (dict(metainfo=dict(note='mine')), None),
    ],
)
def test_meta_information_that_contradicts_is_refused(folders, tmp_path, change, message):
    own, other = parts_of(tmp_path)
    parts = [own | change, other | dict(metainfo=dict(license='free'))]
    if message is None:
        meta = build(tmp_path, parts).metainfo
        assert (meta['note'], meta['license']) == ('mine', 'free')
        return
    with pytest.raises(ValueError, match=message):
        build(tmp_path, parts)
    build(tmp_path, parts, ignore_keys=['classes', 'palette'])


def test_axes_and_classes_of_tasks_that_a_data_set_has_not_contradict_nothing(folders, tmp_path):
    _, other = parts_of(tmp_path)
    root = dict(data_root=f'{tmp_path}/PASCAL_MT')
    mirrored = (
        other | root | dict(tasks=['normals'], num_classes={}, metainfo=dict(normals_x='right', classes=('a', 'b')))
    )
    meta = build(tmp_path, [other, mirrored]).metainfo
    assert (meta['normals_x'], len(meta['classes'])) == ('right', 21)
    both = other | dict(tasks=['normals', 'semseg'])
    with pytest.raises(ValueError, match=r"metainfo\.normals_x: 'left' and 'right'"):
        build(tmp_path, [both, mirrored])


def test_a_data_set_that_cannot_be_told_is_refused(folders, tmp_path):
    foreign = dict(type='mmseg.BaseSegDataset', data_root=str(tmp_path), data_prefix=dict(img_path='own/photos'))
    with pytest.raises(TypeError, match=r'BaseSegDataset does not know the tasks .*saliency.*FromMMSeg'):
        build(tmp_path, [parts_of(tmp_path)[0], foreign])
    with pytest.raises(ValueError, match='needs at least one data set'):
        ConcatDataset([])


class Sized:
    def __init__(self, *sizes):
        self.cumulative_sizes = list(itertools.accumulate(sizes))

    def __len__(self):
        return self.cumulative_sizes[-1]


def take(sampler, number):
    return [(int(key), key.seed) for key in itertools.islice(iter(sampler), number)]


@pytest.mark.parametrize(
    'ratios, shares', [([2, 1], (2, 1)), ([0.5, 0.25], (2, 1)), ([3, 3], (1, 1)), ([0.9, 0.1], (9, 1))]
)
def test_data_sets_have_exactly_their_shares(ratios, shares):
    keys = take(RatioSampler(Sized(5, 40), ratios, seed=3), 120)
    for start in range(0, 120, sum(shares)):
        drawn = [index < 5 for index, _ in keys[start : start + sum(shares)]]
        assert (sum(drawn), len(drawn) - sum(drawn)) == shares
    first = [index for index, _ in keys if index < 5]
    assert all(sorted(first[i : i + 5]) == list(range(5)) for i in range(0, len(first) - 4, 5))
    second = [index for index, _ in keys if index >= 5]
    assert len(set(second[:40])) == min(40, len(second))
    assert len({seed for _, seed in keys}) == 120
    assert keys != take(RatioSampler(Sized(5, 40), ratios, seed=4), 120)


@pytest.mark.parametrize('skipped', [0, 1, 7, 50])
def test_a_stream_with_shares_goes_on_where_it_was(skipped):
    whole = take(RatioSampler(Sized(5, 11), [2, 1], seed=5), 80)
    sampler = RatioSampler(Sized(5, 11), [2, 1], seed=5)
    sampler.skip(skipped)
    assert take(sampler, 20) == whole[skipped : skipped + 20]
    ranks = [RatioSampler(Sized(5, 11), [2, 1], seed=5) for _ in range(3)]
    for rank, sampler in enumerate(ranks):
        sampler.rank, sampler.world_size = rank, 3
        sampler.skip(skipped)
    dealt = [key for keys in zip(*(take(sampler, 5) for sampler in ranks)) for key in keys]
    assert dealt == whole[3 * skipped : 3 * skipped + 15] or skipped == 50
    # Three ranks and cycles of three: each gets both data sets.
    assert all({index < 5 for index, _ in take(sampler, 20)} == {True, False} for sampler in ranks)


@pytest.mark.parametrize(
    'dataset, ratios, error, message',
    [
        (Sized(2, 3), [1, 0], ValueError, r'ratios=\[1, 0\]: the share of data set 1 must be positive; leave'),
        (Sized(2, 3), [1, -2], ValueError, 'data set 1 must be positive'),
        (Sized(2, 3), [float('nan'), 1], ValueError, 'data set 0 must be positive'),
        (Sized(2, 3), [1], ValueError, r'ratios=\[1\] has 1 shares for 2 data sets'),
        (Sized(2, 3), [1, 1e-6], ValueError, 'a share is less than 1 in 1000'),
        (range(3), [1], TypeError, r'RatioSampler draws from the parts of a ConcatDataset, got range'),
    ],
)
def test_shares_that_cannot_be(dataset, ratios, error, message):
    with pytest.raises(error, match=message):
        RatioSampler(dataset, ratios, seed=0)


def test_a_config_names_the_sampler(folders, tmp_path):
    cfg = dict(type='mmvmt.RatioSampler', ratios=[2, 1], seed=0)
    sampler = DATA_SAMPLERS.build(cfg, default_args=dict(dataset=build(tmp_path)))
    assert sorted(index // 3 for index, _ in take(sampler, 6)) == [0, 0, 0, 0, 1, 1]


def mixed_batch(root, indices):
    dataset = build(Path(root))
    return pseudo_collate([dataset[SampleKey(index, index)] for index in indices])


def gradients(model):
    return {name.removeprefix('module.'): p.grad for name, p in model.named_parameters() if p.requires_grad}


def model_of(tasks=('saliency', 'semseg'), **options):
    model = tiny_model(tasks, **options).train()
    head = mmvmt.registry.MODELS.build(
        dict(
            type='mmvmt.MLPHead',
            in_channels=[8, 16, 32, 64],
            channels=8,
            norm_cfg=dict(type='GN', num_groups=2),
            output=dict(type='mmvmt.ClassesOutput', num_classes=21),
        )
    )
    torch.manual_seed(1)
    head.load_state_dict({name: torch.randn_like(value) * 0.1 for name, value in head.state_dict().items()})
    model.heads['semseg'] = head
    return model


def gradients_of_rank(rank, world_size, root):
    """Each rank has the images of one data set alone, so no label of the other's task."""
    from mmengine.model import MMDistributedDataParallel

    model = model_of()
    wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    losses = wrapped(**model.data_preprocessor(mixed_batch(root, range(3 * rank, 3 * rank + 2)), True), mode='loss')
    sum(losses.values()).backward()
    return gradients(wrapped)


def test_two_ranks_with_different_tasks_give_the_gradients_of_one_process(folders, tmp_path):
    model = model_of()
    losses = losses_of(model, mixed_batch(tmp_path, (0, 1, 3, 4)))
    assert all(loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    first, second = run_ranks(gradients_of_rank, 2, str(tmp_path))
    for name, gradient in gradients(model).items():
        assert gradient.any(), name
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize('at_once', [False, True])
def test_a_task_without_labels_in_the_batch_has_exactly_no_gradient(folders, tmp_path, at_once):
    model = model_of()
    model.gradients_at_once = at_once
    losses = losses_of(model, mixed_batch(tmp_path, (0, 1, 2)))
    assert losses['loss_semseg'] == 0 < losses['loss_saliency']
    sum(losses.values()).backward()
    own = {name for name, _ in model.named_parameters() if 'semseg' in name}
    assert own
    for name, gradient in gradients(model).items():
        assert gradient is not None
        assert gradient.any() == (name not in own), name
    alone = model_of()
    alone.set_trained_tasks(['saliency'])
    sum(losses_of(alone, mixed_batch(tmp_path, (0, 1, 2))).values()).backward()
    for name, gradient in gradients(alone).items():
        torch.testing.assert_close(gradient, gradients(model)[name], atol=1e-7, rtol=1e-5, msg=name)


def test_images_of_any_size_mix(folders, tmp_path):
    Image.fromarray(np.zeros((50, 30, 3), np.uint8)).save(tmp_path / 'own/photos/day0/field_000.jpg')
    Image.fromarray(np.zeros((50, 30), np.uint8)).save(tmp_path / 'own/lanes/day0/field_000_mask.png')
    parts = [part | dict(pipeline=[*PIPELINE[:2], PIPELINE[-1]]) for part in parts_of(tmp_path)]
    dataset = build(tmp_path, parts)
    batch = model_of().data_preprocessor(pseudo_collate([dataset[0], dataset[3]]), True)
    assert batch['inputs'].shape == (2, 3, 50, 60)
    assert [sample.gt.shape for sample in batch['data_samples']] == [(50, 60)] * 2
