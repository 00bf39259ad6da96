"""Configs that mmsegmentation ships become parameter-efficient by three lines, with every method and segmentor."""

import copy
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from segmentors import HEADS, MIM, UPERNET, small, write_ade_folder, write_encoder

import mmvmt.adapters  # noqa: F401
from mmvmt.models import AdaptedBackbone, AdaptedSwin, parameter_groups
from mmvmt.models.parameter_groups import count
from mmvmt.registry import ADAPTERS, DATASETS, EVALUATOR, HOOKS, MODELS

ROOT = Path(__file__).parents[2] / 'configs' / 'interop'
METAFILE = yaml.safe_load((ROOT / 'metafile.yml').read_text(encoding='utf-8'))
CONFIGS = sorted(path.name for path in ROOT.glob('*.py'))
PAGE = re.findall(
    r'```python\n(.*?)```', (ROOT.parents[1] / 'docs' / 'mmseg.md').read_text(encoding='utf-8'), re.DOTALL
)
# Every method as one unnamed task uses it; those that would have copies per task can train the encoder's own instead.
METHODS = {
    'VMTAdapter': [dict(reduction=2)],
    'VMTAdapterLite': [dict(reduction=2)],
    'SharedAdapter': [{}],
    'DecodersOnly': [{}],
    'FullFineTuning': [{}],
    'LoRA': [dict(rank=2, per_task=False, norms=True), dict(rank=2)],
    'DoRA': [dict(rank=2), dict(rank=2, per_task=True)],
    'MTLoRA': [dict(rank=2, task_rank=1)],
    'MTLoRAPlus': [dict(rank=2, task_rank=1)],
    'DiTASK': [dict(cells=8)],
    'Mona': [dict(bottleneck=4)],
    'TADFormer': [dict(rank=2)],
    'SSF': [{}, dict(per_task=True)],
    'PartTuning': [dict(merging=True), dict(merging=True, per_task=True)],
    'BitFit': [dict(per_task=False), {}],
    'NormTuning': [dict(per_task=False), {}],
    'RelativePositionBias': [dict(per_task=False), {}],
    'Adapter': [{}],
    'LowRankAdapter': [dict(rank=3)],
    'PHMAdapter': [dict(n=4)],
    'Compacter': [{}],
    'CompacterPlusPlus': [{}],
    'VPTShallow': [dict(prompts=3)],
    'VPTDeep': [dict(prompts=3)],
    'HyperFormer': [dict(reduction=2, embedding=5, hidden=16, code=6)],
    'Polyhistor': [dict(rank=3, embedding=5, hidden=16, code=6)],
    'PolyhistorLite': [dict(rank=2, embedding=5, hidden=16, code=6)],
}
read = cache(Config.fromfile)
CASES = [(name, options) for name, variants in METHODS.items() for options in variants]


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    """Path of an encoder file, and its weights."""
    path = tmp_path_factory.mktemp('encoder') / 'swin.pth'
    return path, write_encoder(path)


@pytest.fixture(scope='module')
def configs(tmp_path_factory, encoder):
    """A small config of every segmentor, with an encoder to load and a folder to train on."""
    root = tmp_path_factory.mktemp('interop')
    data_root = write_ade_folder(root / 'ade')
    found = {}
    for kind in HEADS:
        base = ROOT / f'{kind}_swin_t_vmt_ade20k.py'
        found[kind] = Config.fromfile(small(root / f'{kind}.py', base, kind, data_root, encoder[0]))
    return found


def train(cfg, steps):
    """Train as a runner does, without its logs; returns the model, and its encoder's weights before the first step."""
    init_default_scope(cfg.default_scope)
    set_random_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for hook in cfg.get('custom_hooks', ()):
        HOOKS.build(hook).before_run(SimpleNamespace(model=model, optim_wrapper=wrapper))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for step in range(steps):
        model.train()
        model.train_step(pseudo_collate([dataset[step], dataset[step + 1]]), wrapper)
    return model, before


def assert_only_declared_parameters_moved(encoder, before, weights):
    for name, value in weights.items():
        assert torch.equal(before[name], value), f'{name} was not loaded'
    declared = {id(p) for p in encoder.declared_parameters()}
    # What no feature depends on has a gradient of zero, and moves by its decay at most.
    unread = {id(p) for a in encoder.adapters for p in getattr(a, 'unread_parameters', tuple)()}
    unread = {name for name, p in encoder.named_parameters() if id(p) in unread}
    moved = {name for name, p in encoder.named_parameters() if not torch.equal(p, before[name])}
    assert moved | unread == {name for name, p in encoder.named_parameters() if id(p) in declared}


def test_every_registered_method_has_a_row():
    assert set(ADAPTERS.module_dict) == set(METHODS)


@pytest.mark.parametrize('name, options', CASES)
def test_every_method_trains_in_upernet(name, options, configs, encoder):
    cfg = copy.deepcopy(configs['upernet'])
    cfg.model.backbone.plugins = [dict(cfg=dict(type=f'mmvmt.{name}', **options))]
    cfg.optim_wrapper.optimizer.lr = 0.01  # so that three steps move every weight by more than its rounding
    model, before = train(cfg, 3)
    assert_only_declared_parameters_moved(model.backbone, before, encoder[1])


@pytest.mark.parametrize('block', PAGE, ids=['vmt', 'lora', 'bitfit'])
def test_the_configs_of_the_documentation_train(block, configs, encoder, tmp_path):
    (tmp_path / 'user.py').write_text(block)
    cfg = configs['upernet']
    data_root = cfg.train_dataloader.dataset.data_root
    path = small(tmp_path / 'small.py', tmp_path / 'user.py', 'upernet', data_root, encoder[0])
    model, before = train(Config.fromfile(path), 2)
    moved = {name for name, p in model.backbone.named_parameters() if not torch.equal(p, before[name])}
    declared = {id(p) for p in model.backbone.declared_parameters()}
    assert moved
    assert moved <= {name for name, p in model.backbone.named_parameters() if id(p) in declared}


@pytest.mark.parametrize('kind', sorted(HEADS))
def test_every_segmentor_trains_and_is_scored(kind, configs, encoder):
    cfg = configs[kind]
    model, before = train(cfg, 2)
    for name, value in encoder[1].items():
        assert torch.equal(model.backbone.state_dict()[name], value), name
    assert any(not torch.equal(p, before[name]) for name, p in model.backbone.adapters.named_parameters('adapters'))
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    evaluator = EVALUATOR.build(dict(type='Evaluator', metrics=cfg.val_evaluator))
    evaluator.dataset_meta = dataset.metainfo
    model.eval()
    for sample in dataset:
        data = pseudo_collate([sample])
        evaluator.process(data_samples=model.test_step(data), data_batch=data)
    assert {'aAcc', 'mIoU', 'mAcc'} <= set(evaluator.evaluate(len(dataset)))


def test_a_neck_and_both_kinds_of_segmentor_are_among_the_examples():
    models = [read(ROOT / name).model for name in CONFIGS]
    assert {model.type for model in models} == {'EncoderDecoder', 'CascadeEncoderDecoder'}
    assert any('neck' in model for model in models)
    methods = {plugin.cfg.type for model in models for plugin in model.backbone.plugins}
    assert {'mmvmt.VMTAdapter', 'mmvmt.LoRA', 'mmvmt.BitFit'} <= methods


@pytest.mark.parametrize('name', CONFIGS)
@pytest.mark.usefixtures('undrawn')
def test_the_shipped_examples_build(name):
    cfg = copy.deepcopy(read(ROOT / name))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert isinstance(model.backbone, AdaptedBackbone if 'encoder' in cfg.model.backbone else AdaptedSwin)
    # A link, or the file that mmsegmentation's config asks for.
    assert model.backbone.init_cfg['checkpoint'].startswith(('https://', 'pretrain/'))
    groups = parameter_groups(model)
    (metadata,) = (entry['Metadata'] for entry in METAFILE['Models'] if entry['Config'] == f'configs/interop/{name}')
    assert metadata['Parameters'] == sum(map(count, groups.values()))
    assert metadata['Trainable Parameters'] == metadata['Parameters'] - count(groups['frozen'])
    frozen, decoders = count(groups['frozen']), count(groups['decoders'])
    assert frozen > 21e6
    assert 0 < sum(map(count, groups.values())) - frozen - decoders < 0.05 * frozen
    # mmsegmentation's own constructor: what trains is in the optimizer.
    held = {
        id(p) for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups for p in group['params']
    }
    assert {id(p) for p in model.parameters() if p.requires_grad} <= held


def plain(value):
    """A config as dictionaries and lists, without the scopes that inheritance adds."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items() if key != '_scope_'}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.startswith('upernet_swin')])
def test_nothing_but_the_encoder_changes(name):
    ours = plain(read(ROOT / name).to_dict())
    theirs = plain(read(MIM / 'configs' / UPERNET).to_dict())
    assert ours.pop('custom_imports')['imports'] == ['mmvmt']
    assert ours.pop('custom_hooks') == [dict(type='mmvmt.PEFTHook')]
    assert ours['model']['backbone'].pop('plugins')
    assert ours['model']['backbone'].pop('type') == 'mmvmt.AdaptedSwin'
    assert theirs['model']['backbone'].pop('type') == 'SwinTransformer'
    assert ours == theirs


OWN_ENCODERS = {
    'segformer_mit-b2_vmt_ade20k.py': (
        dict(embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], mlp_ratio=2, init_cfg=None),
        dict(in_channels=[8, 16, 32, 64], channels=8, norm_cfg=dict(type='BN')),
    ),
    'upernet_vit-b16_vmt_ade20k.py': (
        dict(img_size=(64, 64), embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3)),
        dict(in_channels=[16, 16, 16, 16], channels=8, norm_cfg=dict(type='BN')),
    ),
    'upernet_beit-b_lora_ade20k.py': (
        dict(img_size=(64, 64), embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3)),
        dict(in_channels=[16, 16, 16, 16], channels=8, norm_cfg=dict(type='BN')),
    ),
    'setr_vit-l_vpt_ade20k.py': (
        dict(img_size=(64, 64), embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3), init_cfg=None),
        dict(in_channels=16, channels=8, norm_cfg=dict(type='BN')),
    ),
    'dpt_vit-b16_vmt_ade20k.py': (
        dict(img_size=32, embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3)),
        dict(
            in_channels=(16, 16, 16, 16),
            embed_dims=16,
            channels=8,
            post_process_channels=[4, 4, 8, 8],
            norm_cfg=dict(type='BN'),
        ),
    ),
    'upernet_twins-svt-s_vmt_ade20k.py': (
        dict(embed_dims=[8, 16, 32, 64], depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], init_cfg=None),
        dict(in_channels=[8, 16, 32, 64], channels=8, norm_cfg=dict(type='BN')),
    ),
    'segmenter_vit-s_lora_ade20k.py': (
        dict(img_size=(64, 64), embed_dims=16, num_layers=2, num_heads=2),
        dict(in_channels=16, channels=16, embed_dims=16, num_heads=2, num_layers=1),
    ),
}


@pytest.mark.parametrize('name', sorted(OWN_ENCODERS))
def test_configs_whose_own_encoder_is_adapted_train_and_predict(name):
    encoder, head = OWN_ENCODERS[name]
    cfg = copy.deepcopy(read(ROOT / name))
    init_default_scope(cfg.default_scope)
    cfg.model.pretrained = None
    cfg.model.backbone.encoder.update(encoder)
    cfg.model.decode_head.update(head)
    if cfg.model.get('neck'):
        sizes = dict(
            MultiLevelNeck=dict(in_channels=head['in_channels'], out_channels=16), Feature2Pyramid=dict(embed_dim=16)
        )
        cfg.model.neck.update(sizes[cfg.model.neck.type])
        cfg.model.neck.pop('norm_cfg', None)
    auxiliary = cfg.model.get('auxiliary_head') or []
    for other in auxiliary if isinstance(auxiliary, list) else [auxiliary]:
        widths = head['in_channels']
        width = widths[other.in_index] if isinstance(widths, list) else widths
        other.update(in_channels=width, channels=8, norm_cfg=dict(type='BN'))
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.test_cfg = dict(mode='whole')
    set_random_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    before = {key: value.clone() for key, value in model.backbone.named_parameters()}
    wrapper = build_optim_wrapper(model, dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01)))
    data = dict(inputs=[], data_samples=[])
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(ori_shape=(64, 64), img_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 64, 64)))
        data['inputs'].append(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))
        data['data_samples'].append(sample)
    for _ in range(3):
        losses = model.train().train_step(copy.deepcopy(data), wrapper)
    assert all(torch.isfinite(value).all() for value in losses.values())
    declared = {id(p) for p in model.backbone.declared_parameters()}
    moved = {key for key, p in model.backbone.named_parameters() if not torch.equal(before[key], p)}
    assert moved == {key for key, p in model.backbone.named_parameters() if id(p) in declared}
    model.eval()
    for predicted in model.test_step(data):
        assert predicted.pred_sem_seg.data.shape == (1, 64, 64)
