import os

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from mmvmt.engine.inputs import (
    check_load_from,
    check_sampler,
    comes_without_encoder,
    is_there,
    missing_inputs,
    set_resume,
)
from mmvmt.engine.run_config import set_data_root


def config(**more):
    loader = dict(dataset=dict(type='X', data_root='here'))
    return Config(dict(train_dataloader=loader, optim_wrapper=dict(type='OptimWrapper'), **more))


def test_missing_inputs_name_what_and_how(tmp_path):
    cfg = config(model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))))
    messages = missing_inputs(cfg, ('train_dataloader',), weights=True)
    assert len(messages) == 2
    assert "folder 'here' does not exist" in messages[0]
    assert 'x.pth' in messages[1]
    set_data_root(cfg, str(tmp_path))
    assert len(missing_inputs(cfg, ('train_dataloader',), weights=True)) == 1
    assert missing_inputs(cfg, ('train_dataloader',), weights=False) == []


def test_a_url_alone_is_no_gap(tmp_path):
    cfg = config(
        model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='https://nowhere.invalid/x.pth')))
    )
    set_data_root(cfg, str(tmp_path))
    assert missing_inputs(cfg, ('train_dataloader',), weights=True) == []


def test_resuming_needs_no_encoder_file(tmp_path):
    init_cfg = dict(type='Pretrained', checkpoint='gone.pth')
    cfg = config(work_dir=str(tmp_path), model=dict(backbone=dict(init_cfg=init_cfg)))
    set_resume(cfg)
    assert cfg.model.backbone.init_cfg == init_cfg
    torch.save(dict(state_dict={}), tmp_path / 'iter_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_1.pth'))
    set_resume(cfg)
    assert cfg.resume
    assert cfg.model.backbone.init_cfg is None


def test_missing_data_of_other_models_names_no_layout_of_ours():
    (message,) = missing_inputs(config(model=dict(type='EncoderDecoder')), ('train_dataloader',), weights=False)
    assert message.endswith('Pass --data-root DIR')
    (message,) = missing_inputs(
        config(model=dict(type='mmvmt.MultiTaskEncoderDecoder')), ('train_dataloader',), weights=False
    )
    assert 'PASCAL_MT layout' in message
    own = dict(type='mmvmt.MultiTaskDataset', data_root='here', labels=dict(depth='{id}.npy'))
    several = dict(type='mmvmt.MultiTaskEncoderDecoder')
    cfg = Config(dict(default_scope='mmvmt', model=several, train_dataloader=dict(dataset=own)))
    assert missing_inputs(cfg, ('train_dataloader',), weights=False)[0].endswith('Pass --data-root DIR')


def segmentation_config(folder, **dataset):
    """A data set of mmsegmentation with one image in ``folder``; entries of ``dataset`` say where."""
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True)
        cv2.imwrite(str(folder / name / f'a.{"jpg" if name == "images" else "png"}'), np.zeros((8, 8), np.uint8))
    dataset = (
        dict(type='ADE20KDataset', pipeline=[], data_prefix=dict(img_path='images', seg_map_path='labels')) | dataset
    )
    return Config(
        dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset), model=dict(type='EncoderDecoder'))
    )


@pytest.mark.parametrize('root', [None, '', 's3://bucket/ade', 'petrel://bucket/ade', 'openmmlab:s3://bucket/ade'])
def test_a_data_root_that_is_no_local_folder_is_left_to_the_run(root, tmp_path):
    cfg = segmentation_config(tmp_path, data_root=root)
    assert missing_inputs(cfg, ('train_dataloader',), weights=False) == []


def test_a_folder_that_nothing_needs_is_not_missed(tmp_path):
    """mmengine joins data_root with relative paths alone."""
    whole = dict(img_path=str(tmp_path / 'images'), seg_map_path=str(tmp_path / 'labels'))
    cfg = segmentation_config(tmp_path, data_root=str(tmp_path / 'gone'), data_prefix=whole)
    assert missing_inputs(cfg, ('train_dataloader',), weights=False) == []
    cfg.train_dataloader.dataset.data_prefix.img_path = 'images'
    (message,) = missing_inputs(cfg, ('train_dataloader',), weights=False)
    assert message == f"data: folder '{tmp_path}/gone' does not exist. Pass --data-root DIR"


@pytest.mark.parametrize(
    'init_cfg, missed',
    [
        (dict(type='Pretrained', checkpoint='gone.pth'), True),
        (dict(type='PretrainedInit', checkpoint='gone.pth'), True),
        ([dict(type='Kaiming', layer='Conv2d'), dict(type='Pretrained', checkpoint='gone.pth')], True),
        (dict(type='Pretrained', checkpoint='open-mmlab://resnet50_v1c'), False),
        (dict(type='Pretrained', checkpoint='s3://bucket/x.pth'), False),
        (dict(type='Kaiming', layer='Conv2d'), False),
        ([dict(type='Kaiming', layer='Conv2d')], False),
        (None, False),
    ],
)
def test_encoder_weights_are_missed_only_where_a_run_would_miss_them(init_cfg, missed, tmp_path):
    cfg = config(model=dict(backbone=dict(init_cfg=init_cfg)))
    set_data_root(cfg, str(tmp_path))
    messages = missing_inputs(cfg, ('train_dataloader',), weights=True)
    assert [message.startswith("encoder weights: file 'gone.pth' does not exist") for message in messages] == (
        [True] if missed else []
    )


@pytest.mark.parametrize('model', [None, dict(), dict(backbone=None), dict(backbone=dict(type='ResNet'))])
def test_models_without_encoder_weights_miss_none(model, tmp_path):
    cfg = config(model=model)
    set_data_root(cfg, str(tmp_path))
    assert missing_inputs(cfg, ('train_dataloader',), weights=True) == []


def test_paths_mean_what_they_mean_to_mmengine(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(state_dict={}), tmp_path / 'x.pth')
    assert is_there('~/x.pth')
    assert is_there('s3://bucket/x.pth')
    assert not is_there('~/y.pth')
    assert not comes_without_encoder('~/x.pth')
    # Only mmengine can read it; whether it does is for the run to tell.
    assert not comes_without_encoder('s3://bucket/x.pth')
    check_load_from(config(load_from='open-mmlab://resnet50'))
    check_load_from(config(load_from=None))


def test_the_remedy_belongs_to_the_case(tmp_path):
    gone = str(tmp_path / 'gone.pth')
    with pytest.raises(FileNotFoundError, match=r'gone.pth.* does not exist; load_from names it: .*load_from=None'):
        check_load_from(config(load_from=gone))
    with pytest.raises(FileNotFoundError, match=r'gone.pth.* does not exist; load_from names it: .*load_from=None'):
        set_resume(config(load_from=gone, work_dir=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r'gone.pth.* does not exist; name a local file'):
        comes_without_encoder(gone)
    (tmp_path / 'last_checkpoint').write_text(gone)
    with pytest.raises(FileNotFoundError) as error:
        set_resume(config(work_dir=str(tmp_path)))
    assert f'{tmp_path}/last_checkpoint names it. Put it back' in str(error.value)
    assert 'init_cfg' not in str(error.value)


def test_a_run_is_resumed_from_its_own_folder(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    a.mkdir()
    torch.save(dict(state_dict={}), a / 'iter_2.pth')
    (a / 'last_checkpoint').write_text(str(a / 'iter_2.pth'))
    os.rename(a, b)
    cfg = config(work_dir=str(b), model=dict(backbone=dict(init_cfg=None)))
    set_resume(cfg)
    # The config of the run, which mmengine writes beside, must not go on naming this checkpoint.
    assert cfg.get('load_from') is None
    assert find_latest_checkpoint(str(b)) == str(b / 'iter_2.pth')


@pytest.mark.parametrize(
    'loop', [dict(type='EpochBasedTrainLoop'), dict(by_epoch=True), dict(type='mmengine.EpochBasedTrainLoop')]
)
def test_an_epoch_that_would_not_end_is_refused(loop):
    sampler = dict(type='mmvmt.SeededInfiniteSampler')
    cfg = Config(dict(train_cfg=dict(loop, max_epochs=1), train_dataloader=dict(sampler=sampler)))
    with pytest.raises(ValueError, match='the first epoch would not end'):
        check_sampler(cfg)
    cfg.custom_hooks = [dict(type='mmvmt.RandomnessHook')]
    check_sampler(cfg)
    cfg.custom_hooks = None
    cfg.train_dataloader.sampler.type = 'DefaultSampler'
    check_sampler(cfg)
    check_sampler(Config(dict(train_cfg=dict(type='IterBasedTrainLoop'), train_dataloader=dict(sampler=sampler))))
    check_sampler(Config(dict(train_cfg=None)))
