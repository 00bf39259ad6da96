"""Every config under configs/ is complete: its model builds, and so does everything that needs no data.

Those under configs/interop, whose data and runtime are mmsegmentation's, are tested in test_interop.py.
"""

import re
import shutil
from copy import deepcopy
from functools import cache
from pathlib import Path

import cityscapes_folder
import nyud_folder
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from own_folder import build_own_folder
from safetensors.torch import load_file

import mmvmt  # noqa: F401
from mmvmt.models import MultiTaskEncoderDecoder, parameter_groups
from mmvmt.models.parameter_groups import count
from mmvmt.registry import DATASETS, EVALUATOR, HOOKS, MODELS, TRANSFORMS

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob('*.py') if not {'_base_', 'interop'} & set(p.parts))
METADATA = {
    model['Config'].removeprefix('configs/'): model['Metadata']
    for path in ROOT.glob('*/metafile.yml')
    for model in yaml.safe_load(path.read_text(encoding='utf-8'))['Models']
}
ENCODERS = re.compile(r'(patch_embed|stages)\..*(?<!relative_position_index)$')
"""Names of the weights of an encoder, without its buffers, output norms and adapters."""
NAMED = [
    *(f'vmt/swin_{size}{lite}_pascal.py' for size in 'tsbl' for lite in ('', '_lite')),
    *(f'vmt/{encoder}_pascal.py' for encoder in ('dinov2_s', 'pvt_v2_b2', 'mit_b2')),
    'baselines/swin_t_decoders_only_pascal.py',
    'baselines/swin_t_full_multitask_pascal.py',
    *(f'baselines/swin_t_single_{task}_pascal.py' for task in ('semseg', 'human_parts', 'saliency', 'normals')),
    *(f'{folder}/swin_t{lite}_nyud.py' for folder in ('vmt', 'polyhistor') for lite in ('', '_lite')),
    *(f'baselines/swin_t_{kind}_nyud.py' for kind in ('decoders_only', 'full_multitask')),
    *(f'baselines/swin_t_single_{task}_nyud.py' for task in ('semseg', 'depth', 'normals', 'edge')),
    'vmt/swin_t_cityscapes.py',
    'vmt/swin_nano_synthetic.py',
]


read = cache(Config.fromfile)  # every test below takes each of them


def load(name):
    cfg = deepcopy(read(ROOT / name))
    init_default_scope(cfg.default_scope)
    return cfg


def tasks_of(cfg):
    """A config has a head for every task, or one for all that it declares."""
    return list(cfg.model.get('tasks') or cfg.model.heads)


def test_the_promised_configs_are_there():
    assert set(NAMED) <= set(CONFIGS)


def test_inheritance_has_at_most_three_levels():
    def levels(path):
        bases = Config._get_base_files(str(path))
        return 1 + max((levels((path.parent / base).resolve()) for base in bases), default=0)

    assert CONFIGS
    for name in CONFIGS:
        assert levels(ROOT / name) <= 3, name


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.usefixtures('undrawn')
def test_the_model_builds(name):
    cfg = load(name)
    model = MODELS.build(cfg.model)
    remedy = 'run python tools/dev/write_metafiles.py'
    assert METADATA[name]['Parameters'] == count(model.parameters()), remedy
    assert METADATA[name]['Trainable Parameters'] == count(p for p in model.parameters() if p.requires_grad), remedy
    if isinstance(model, MultiTaskEncoderDecoder):
        trainable = sum(count(p) for group, p in parameter_groups(model).items() if group != 'frozen')
        assert trainable > 0
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
        assert sum(count(group['params']) for group in optimizer.param_groups) == trainable


@pytest.mark.parametrize('name', CONFIGS)
def test_pipelines_evaluators_and_hooks_build(name):
    cfg = load(name)
    for loader in ('train_dataloader', 'val_dataloader'):
        for transform in cfg[loader].dataset.get('pipeline', ()):
            TRANSFORMS.build(transform)
        assert cfg[loader].num_workers > 0
        assert cfg[loader].persistent_workers
    for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks):
        HOOKS.build(hook)
    if 'metrics' in cfg.val_evaluator:
        evaluator = EVALUATOR.build(cfg.val_evaluator)
        tasks = tasks_of(cfg)
        assert sorted(metric.task for metric in evaluator.metrics) == sorted(tasks)
        assert sorted(cfg.train_dataloader.dataset.tasks) == sorted(tasks)
        assert sorted(cfg.val_dataloader.dataset.tasks) == sorted(tasks)


@pytest.fixture(scope='session')
def first_samples(tmp_path_factory, scenes):
    """What the data set of a config gives first, its meta information, and the size of its images; one answer for all
    configs with the same data set."""
    root = tmp_path_factory.mktemp('published')
    nyud_folder.build_folder(root / 'NYUD_MT', 'mtinet')
    cityscapes_folder.build_folder(root / 'cityscapes')
    own = build_own_folder(root / 'own').root
    for split in ('train', 'val'):
        shutil.copy(own / 'lists/first.txt', own / f'lists/{split}.txt')
    others = {'mmvmt.NYUDv2MT': (root / 'NYUD_MT', (40, 60)), 'mmvmt.CityscapesMT': (root / 'cityscapes', (32, 64))}
    others['mmvmt.MultiTaskDataset'] = own, (40, 60)
    folders = dict.fromkeys(('mmvmt.PASCALContextMT', 'mmvmt.SyntheticMT'), (scenes, (64, 64))) | others
    known = {}

    def first_sample(cfg):
        key = repr(cfg)
        if key not in known:
            root, size = folders[cfg.type]
            dataset = DATASETS.build(cfg | dict(data_root=str(root)))
            known[key] = dataset[0], dataset.metainfo, size
        return known[key]

    return first_sample


@pytest.mark.parametrize('name', [name for name in CONFIGS if '_base_' not in name and 'pretrain' not in name])
@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader'])
def test_pipelines_run_on_a_real_folder(name, loader, first_samples):
    cfg = load(name)
    packed, metainfo, size = first_samples(cfg[loader].dataset)
    assert packed['inputs'].dtype == torch.uint8
    assert set(packed['data_samples'].gt.keys()) == set(tasks_of(cfg))
    outputs = {} if 'type' in cfg.model.heads else {task: head.output for task, head in cfg.model.heads.items()}
    for task, output in outputs.items():
        assert output.get('num_classes') in (None, packed['data_samples'].num_classes.get(task))
    if 'metrics' in cfg.val_evaluator:
        EVALUATOR.build(cfg.val_evaluator).dataset_meta = metainfo
    crops = [t.crop_size for t in cfg[loader].dataset.pipeline if 'crop_size' in t]
    assert packed['data_samples'].gt.shape == packed['inputs'].shape[1:] == (crops[0] if crops else size)


@pytest.mark.parametrize('name', [name for name in CONFIGS if 'pascal' in name])
def test_pascal_configs_name_a_published_encoder(name):
    init_cfg = load(name).model.backbone.init_cfg
    assert init_cfg.type == 'Pretrained'
    assert init_cfg.checkpoint.startswith('https://')
    assert init_cfg.checkpoint.endswith('.pth')


@pytest.mark.parametrize('size', ['nano', 'pico'])
def test_encoders_that_come_with_the_package_load_whole_from_any_folder(size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = load(f'vmt/swin_{size}_synthetic.py').model.backbone
    file = ROOT.parent / f'demo/weights/swin_{size}.safetensors'
    assert Path(backbone.init_cfg.checkpoint).samefile(file)
    encoder = MODELS.build(backbone)
    encoder.init_weights()
    loaded, weights = (
        {n: v for n, v in w.items() if ENCODERS.match(n)} for w in (encoder.state_dict(), load_file(file))
    )
    assert loaded.keys() == weights.keys()
    for name, value in weights.items():
        assert value.dtype == torch.float16
        assert torch.equal(loaded[name], value.float()), name


@pytest.mark.parametrize(
    'name, adapters, decoders',
    [
        ('vmt/swin_t_pascal.py', 1_119_120, 2_549_024),
        ('vmt/swin_t_lite_pascal.py', 399_904, 2_549_024),
        ('vmt/swin_t_deformable_pascal.py', 1_119_120, 3_534_436),
        ('baselines/swin_t_decoders_only_pascal.py', 0, 2_549_024),
        ('baselines/swin_t_full_multitask_pascal.py', 0, 2_549_024),
    ],
)
@pytest.mark.usefixtures('undrawn')
def test_counts_of_swin_t(name, adapters, decoders):
    groups = parameter_groups(MODELS.build(load(name).model))
    assert count(groups['adapters']) == adapters
    assert count(groups['decoders']) == decoders
