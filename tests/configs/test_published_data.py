"""The shipped configs of NYUD-v2 and Cityscapes train and validate on folders in their formats, by the command."""

import cityscapes_folder
import commands
import nyud_folder
import pytest

TINY = [
    *('model.backbone.init_cfg=None', 'model.backbone.embed_dims=8', 'model.backbone.depths=(1,1,1,1)'),
    *('model.backbone.num_heads=(1,2,4,8)', 'model.backbone.window_size=4', 'train_cfg.max_iters=2'),
    *('train_cfg.val_interval=2', 'train_dataloader.batch_size=2', 'default_hooks.logger.interval=1'),
    *(
        f'{loader}_dataloader.{key}'
        for loader in ('train', 'val')
        for key in ('num_workers=0', 'persistent_workers=False')
    ),
]


@pytest.mark.parametrize(
    'config,tasks,figures',
    [
        ('nyud', ('semseg', 'depth', 'normals', 'edge'), ('semseg/mIoU', 'depth/rmse', 'normals/mean', 'edge/odsF')),
        ('cityscapes', ('semseg', 'depth'), ('semseg/mIoU', 'depth/rmse')),
    ],
)
def test_training(tmp_path, config, tasks, figures):
    if config == 'nyud':
        root = nyud_folder.build_folder(tmp_path / 'NYUD_MT', 'astmt').root
        options = ['train_dataloader.dataset.pipeline.3.crop_size=(32,48)', 'val_evaluator.metrics.edge.num_workers=0']
    else:
        root = cityscapes_folder.build_folder(tmp_path / 'cityscapes').root
        options = ['train_dataloader.dataset.pipeline.2.crop_size=(32,64)']
    heads = [f'model.heads.{task}.channels=8' for task in tasks]
    arguments = [f'configs/vmt/swin_t_{config}.py', '--data-root', root, '--work-dir', tmp_path / 'run']
    output = commands.run('tools/train.py', *arguments, '--cfg-options', *TINY, *options, *heads).stdout
    trained = next(line for line in output.splitlines() if 'Iter(train) [2/2]' in line)
    scored = [line for line in output.splitlines() if 'Iter(val) [2/2]' in line][-1]
    assert [task for task in tasks if f'loss_{task}:' not in trained] == []
    assert [figure for figure in figures if f'{figure}:' not in scored] == []
    assert (tmp_path / 'run/adapter.safetensors').is_file()
