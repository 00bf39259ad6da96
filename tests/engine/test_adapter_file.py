import json

import pytest
import safetensors.torch
import torch
from hostile import ODD_WEIGHTS
from models.test_wrappers import WRAPPERS
from safetensors import safe_open
from tiny import FOUR_TASKS, VMT, model_cfg, perturb, tiny_model, tiny_swin

import mmvmt
from mmvmt.engine.adapter_file import load_adapter, read_adapter, save_adapter, trained_names
from mmvmt.models.identity import encoder_fingerprint, encoder_fingerprints, fingerprint, method_record
from mmvmt.models.wrappers import plain_name, unwrapped
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
METHODS = (
    VMT,
    dict(cfg=dict(type='mmvmt.LoRA', rank=2, norms=True)),
    dict(cfg=dict(type='mmvmt.NormTuning', per_task=False)),
    dict(cfg=dict(type='mmvmt.Polyhistor', rank=3, embedding=5, hidden=16, code=6, unfreeze='norms')),
    dict(cfg=dict(type='mmvmt.MTLoRA', rank=2, task_rank=1)),
    dict(cfg=dict(type='mmvmt.DiTASK', cells=8)),
)


def set_encoder(model, seed=7):
    """Give a model the frozen weights of a seed, as if it had loaded them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.backbone.frozen_parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def model_of(seed=0, encoder=7, **kwargs):
    return set_encoder(tiny_model(seed=seed, **kwargs), encoder)


def batch_norm_model(seed):
    cfg = model_cfg()
    for head in cfg['heads'].values():
        head['norm_cfg'] = dict(type='BN')
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    perturb(model, seed)
    with torch.no_grad():
        for head in model.heads.values():
            head.fuse_norm.running_mean.normal_()
            head.fuse_norm.running_var.uniform_(0.5, 2)
    return set_encoder(model)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / 'adapter.safetensors'
    save_adapter(model_of(), path, metrics={'semseg/mIoU': 67.25, 'saliency/maxF': float('nan')}, iteration=40)
    return path


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def rewrite(path, tensors=None, manifest=None, **changes):
    """Write a file as someone else's program might have, with a manifest that fits its tensors."""
    known = read_adapter(path)
    tensors = known.tensors if tensors is None else tensors
    manifest = known.manifest | dict(sha256=fingerprint(tensors)) | changes if manifest is None else manifest
    safetensors.torch.save_file(tensors, path, metadata={'mmvmt_adapter': json.dumps(manifest)})


@pytest.mark.parametrize('plugin', METHODS, ids=lambda plugin: plugin['cfg']['type'])
def test_round_trip_restores_every_output(plugin, tmp_path):
    first, second = model_of(plugins=[plugin]), model_of(seed=5, plugins=[plugin])
    save_adapter(first, tmp_path / 'a.safetensors')
    expected = first(IMAGES)
    assert not all(torch.equal(logits, second(IMAGES)[task]) for task, logits in expected.items())
    mmvmt.load_adapter(second, tmp_path / 'a.safetensors')
    for task, logits in expected.items():
        assert torch.equal(logits, second(IMAGES)[task]), task


def compiled_encoder(model):
    model.backbone = torch.compile(model.backbone)
    return model


@pytest.mark.parametrize('wrap', [*WRAPPERS.values(), compiled_encoder], ids=[*WRAPPERS, 'compiled encoder'])
def test_a_wrapped_model_is_saved_and_loaded_as_the_bare_one(wrap, tmp_path):
    bare, path = model_of(tasks=('saliency',)), tmp_path / 'a.safetensors'
    expected = save_adapter(bare, path)
    tensors = read_adapter(path).tensors
    wrapped = wrap(model_of(tasks=('saliency',)))
    assert save_adapter(wrapped, path) == expected
    assert read_adapter(path).tensors.keys() == tensors.keys()
    other = wrap(model_of(tasks=('saliency',), seed=5))
    load_adapter(other, path)
    state = {plain_name(name): value for name, value in unwrapped(other).state_dict().items()}
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


class Shards(torch.nn.Module):
    """What FSDP makes of a model: the model under another name, its weights flat."""

    def __init__(self, model):
        super().__init__()
        self._fsdp_wrapped_module = model


def test_of_sharded_weights_only_gathered_ones_are_saved(tmp_path):
    model, path = model_of(tasks=('saliency',)), tmp_path / 'a.safetensors'
    expected = save_adapter(model, path)
    with pytest.raises(ValueError, match=r'holds but a shard of the weights: gather them'):
        save_adapter(Shards(model), path)
    gathered = {f'_fsdp_wrapped_module.{name}': value for name, value in model.state_dict().items()}
    assert save_adapter(Shards(model), path, weights=gathered) == expected


@pytest.mark.parametrize('name', ['NaN', 'integers'])
def test_odd_weights_are_refused(name, tmp_path):
    model, path = model_of(plugins=[METHODS[2]]), tmp_path / 'a.safetensors'
    save_adapter(model, path)
    spoil, message = ODD_WEIGHTS[name]
    rewrite(path, spoil(read_adapter(path).tensors))
    with pytest.raises(ValueError, match=f'adapter file .*a.safetensors.*({message}|is torch.int64 of shape)'):
        load_adapter(model, path)


def test_running_statistics_travel_too(tmp_path):
    first, second = batch_norm_model(0), batch_norm_model(5)
    save_adapter(first, tmp_path / 'a.safetensors')
    load_adapter(second, tmp_path / 'a.safetensors')
    for task, logits in first(IMAGES).items():
        assert torch.equal(logits, second(IMAGES)[task]), task


def test_holds_exactly_what_was_trained(saved):
    model = model_of()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(read_adapter(saved).tensors) == set(trained_names(model)) == trained
    shared = model_of(plugins=[dict(cfg=dict(type='mmvmt.NormTuning', per_task=False))])
    assert {name for name in trained_names(shared) if name.startswith('backbone.')} == {
        name for name, p in shared.named_parameters() if p.requires_grad and name.startswith('backbone.')
    }


def test_the_manifest_says_what_it_is_of(saved):
    manifest = read_adapter(saved).manifest
    assert manifest['method'] == method_record(model_of())
    # With the values of today of what it leaves out.
    defaults = dict(activation='gelu', scale=1.0, tap='all', unfreeze='none')
    defaults |= dict(input='normed', scale_start=1.0, shift=True, start='up')
    assert manifest['method'][0]['cfg'] == dict(VMT['cfg'], **defaults)
    assert manifest['tasks'] == list(FOUR_TASKS)
    assert manifest['heads']['semseg'] == dict(type='MLPHead', kind='classes', channels=5)
    assert manifest['encoder'] == encoder_fingerprints(model_of().backbone)
    assert manifest['metrics'] == {'semseg/mIoU': 67.25, 'saliency/maxF': None}
    assert manifest['iteration'] == 40
    assert manifest['versions']['mmvmt'] == mmvmt.__version__
    assert {'python', 'torch', 'mmengine', 'mmseg'} <= set(manifest['versions'])


def test_any_safetensors_reader_opens_it(saved):
    with safe_open(saved, framework='np') as file:
        assert file.get_tensor('heads.semseg.predictor.bias').shape == (5,)


@pytest.mark.parametrize('half', ['float16', 'bfloat16'])
def test_half_precision_stores_matrices_in_half_and_loads_float32(half, tmp_path):
    model, path = batch_norm_model(0), tmp_path / 'half.safetensors'
    save_adapter(model, path, half=half)
    tensors = read_adapter(path).tensors
    state = model.state_dict()
    for name, tensor in tensors.items():
        expected = getattr(torch, half) if tensor.ndim >= 2 else state[name].dtype
        assert tensor.dtype == expected, name
    assert tensors['heads.semseg.fuse_norm.running_var'].dtype == torch.float32
    second = batch_norm_model(5)
    load_adapter(second, path)
    for name, value in second.state_dict().items():
        if name in tensors:
            assert value.dtype == state[name].dtype
            assert torch.equal(value, tensors[name].to(value.dtype)), name


def test_a_value_beyond_half_precision_is_refused(tmp_path):
    model = model_of()
    with torch.no_grad():
        model.heads['semseg'].fuse.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r'heads\.semseg\.fuse\.weight holds 1e\+06, which float16 cannot'):
        save_adapter(model, tmp_path / 'a.safetensors', half='float16')
    assert not (tmp_path / 'a.safetensors').exists()


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.safetensors, got '.*a\.pth'"):
        save_adapter(model_of(), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match="half must be one of float16, bfloat16 or None, got 'int8'"):
        save_adapter(model_of(), tmp_path / 'a.safetensors', half='int8')
    with pytest.raises(TypeError, match='the backbone of Linear is NoneType'):
        save_adapter(torch.nn.Linear(2, 2), tmp_path / 'a.safetensors')


@pytest.mark.parametrize(
    'other, message',
    [
        (dict(encoder=8), 'was trained on another encoder: the frozen weights of this model have the fingerprint'),
        (dict(tasks=FOUR_TASKS[:3]), 'has the tasks semseg, human_parts, saliency, normals; this model has semseg, h'),
        (dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapterLite', reduction=2))]), 'trained with another method than'),
        (
            dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2, activation='relu'))]),
            'trained with another method than this model',
        ),
    ],
)
def test_a_model_of_another_kind_is_refused_and_keeps_its_weights(other, message, saved):
    model = model_of(**(dict(seed=5) | other))
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        load_adapter(model, saved)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_encoder_that_was_never_loaded_is_refused(saved):
    with pytest.raises(ValueError, match=r'another encoder.*model\.backbone\.init_cfg'):
        load_adapter(tiny_model(), saved)


def test_another_kind_of_head_is_refused(saved):
    cfg = model_cfg()
    cfg['heads']['semseg']['output'] = dict(type='mmvmt.ClassesOutput', num_classes=6)
    with pytest.raises(ValueError, match=r"has another head of task 'semseg', .*'channels': 5.*this model has .*6"):
        load_adapter(set_encoder(MODELS.build(cfg)), saved)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda t: t.pop('heads.semseg.fuse.weight'), r'it lacks heads\.semseg\.fuse\.weight'),
        (lambda t: t.update({'heads.more': torch.ones(1)}), r'it has besides heads\.more'),
        (lambda t: t.update({'heads.semseg.predictor.bias': torch.ones(4)}), r'of shape \(4,\), the model needs'),
        (
            lambda t: t.update({'heads.semseg.predictor.bias': torch.ones(5, dtype=torch.int32)}),
            r'is torch\.int32 of shape \(5,\), the model needs torch\.float32',
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_before_anything_changes(change, message, saved):
    tensors = read_adapter(saved).tensors
    change(tensors)
    rewrite(saved, tensors)
    model = model_of(seed=5)
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        load_adapter(model, saved)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


FORMER = [
    (dict(type='mmvmt.HyperFormer', embedding=5, hidden=16, code=6), 'embed_blocks', True),
    (dict(type='mmvmt.Polyhistor', rank=3, embedding=5, hidden=16, code=6), 'embed_blocks', True),
    (dict(type='mmvmt.PolyhistorLite', rank=2, embedding=5, hidden=16, code=6), 'shared_kernels', False),
]


@pytest.mark.parametrize('cfg, option, value', FORMER, ids=[cfg['type'] for cfg, _, _ in FORMER])
def test_a_file_from_before_a_default_changed_names_the_options_that_it_needs(cfg, option, value, tmp_path):
    former = {option: value, 'inside_drop_path': False}
    if 'Polyhistor' in cfg['type']:
        former['position'] = 'serial'
    model, path = model_of(plugins=[dict(cfg=cfg | former)]), tmp_path / 'adapter.safetensors'
    manifest = save_adapter(model, path)
    assert (cfg | former).items() <= manifest['method'][0]['cfg'].items()
    # As such a file was written: the record has the config alone.
    rewrite(path, method=[dict(cfg=cfg)])
    today = model_of(seed=5, plugins=[dict(cfg=cfg)])
    before = state_of(today)
    with pytest.raises(
        ValueError, match=rf'cfg\.{option} of \S+ is {value} there .*cfg\.inside_drop_path of \S+ is False there'
    ):
        load_adapter(today, path)
    # Without a record that tells, the tensors' names do.
    rewrite(path, method=save_adapter(today, tmp_path / 'other.safetensors')['method'])
    wanted = ', '.join(f'{key}={option!r}' for key, option in former.items())
    with pytest.raises(ValueError, match=rf'another structure .*, {wanted}\) in model'):
        load_adapter(today, path)
    assert all(torch.equal(before[name], entry) for name, entry in today.state_dict().items())
    rewrite(path, method=[dict(cfg=cfg)])
    again = model_of(seed=6, plugins=[dict(cfg=cfg | former)])
    load_adapter(again, path)
    expected = model(IMAGES)
    assert all(torch.equal(expected[task], logits) for task, logits in again(IMAGES).items())


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter file '.*no\.safetensors' does not exist"):
        load_adapter(model_of(), tmp_path / 'no.safetensors')


def test_a_file_that_was_cut_short_or_changed_is_refused(saved):
    content = saved.read_bytes()
    saved.write_bytes(content[:-100])
    with pytest.raises(ValueError, match='is damaged, or no safetensors file'):
        read_adapter(saved)
    saved.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match='is damaged: its tensors are not those that were written'):
        read_adapter(saved)
    saved.write_bytes(b'PK\x03\x04 a zip archive, as torch.save writes it')
    with pytest.raises(ValueError, match='is damaged, or no safetensors file'):
        read_adapter(saved)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    safetensors.torch.save_file({'weight': torch.ones(2)}, tmp_path / 'other.safetensors')
    with pytest.raises(ValueError, match=r"is a safetensors file, but no adapter file: .*'mmvmt_adapter'"):
        read_adapter(tmp_path / 'other.safetensors')


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(version=2), 'has version 2 of the format, and this mmvmt reads version 1'),
        (dict(tasks='semseg'), "its manifest has no list 'tasks'"),
        (dict(encoder=dict(float32=1)), 'tasks and fingerprints in its manifest must be text'),
        (dict(encoder={}), 'an encoder stored in an unknown type'),
        (dict(encoder=dict(float8='0')), 'stored in float8, and this encoder is stored in float32'),
    ],
)
def test_odd_manifests_are_refused(changes, message, saved):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load_adapter(model_of(), saved)


def test_a_manifest_that_is_no_json_is_refused(saved):
    for manifest in ('{', '[' * 100_000):
        safetensors.torch.save_file({'a': torch.ones(1)}, saved, metadata={'mmvmt_adapter': manifest})
        with pytest.raises(ValueError, match='its manifest is no JSON'):
            read_adapter(saved)


def test_a_merged_model_is_neither_saved_nor_loaded_over(tmp_path):
    model = model_of(plugins=[dict(cfg=dict(type='mmvmt.LoRA', rank=2, per_task=False))])
    save_adapter(model, tmp_path / 'a.safetensors')
    (lora,) = model.backbone.adapters
    lora.merge(model.backbone)
    for use in (save_adapter, load_adapter):
        with pytest.raises(
            ValueError, match=r'LoRA is merged into the encoder.*Call adapter\.unmerge\(encoder\) first'
        ):
            use(model, tmp_path / 'a.safetensors')


def half_encoder(model, dtype):
    """A model with the same weights whose frozen ones are stored in half precision."""
    cfg = model_cfg()
    cfg['backbone']['frozen_dtype'] = dtype
    half = MODELS.build(cfg)
    half.load_state_dict(model.state_dict())
    return half.eval()


def test_frozen_dtype_is_the_same_encoder_in_both_directions(tmp_path):
    full = model_of()
    half, other = half_encoder(full, 'bfloat16'), half_encoder(full, 'float16')
    for source, target in ((full, half), (half, full), (half, half)):
        save_adapter(source, tmp_path / 'a.safetensors')
        load_adapter(target, tmp_path / 'a.safetensors')
    save_adapter(half, tmp_path / 'a.safetensors')
    with pytest.raises(ValueError, match='stored in bfloat16, and this encoder is stored in float16'):
        load_adapter(other, tmp_path / 'a.safetensors')
    with pytest.raises(ValueError, match='another encoder'):
        load_adapter(model_of(encoder=8), tmp_path / 'a.safetensors')


def test_the_fingerprint_depends_on_content_alone():
    a, b = torch.arange(6.0).view(2, 3), torch.tensor(True)
    assert fingerprint(dict(a=a, b=b)) == fingerprint(dict(b=b, a=a.t().contiguous().t()))
    others = (dict(a=a), dict(a=a + 1, b=b), dict(a=a.view(3, 2), b=b), dict(a=a.double(), b=b), dict(c=a, b=b))
    assert len({fingerprint(tensors) for tensors in (dict(a=a, b=b), *others)}) == 6
    assert encoder_fingerprint(tiny_swin()) != encoder_fingerprint(tiny_swin(plugins=[METHODS[2]]))
