import re

import numpy as np
import pytest
import torch
from hostile import ODD_WEIGHTS, write_hostile
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import PretrainedInit
from mmseg.models.backbones.swin import SwinTransformer
from safetensors.torch import save_file
from tiny import FOUR_TASKS, SWIN, perturb, tiny_swin

from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.registry import MODELS

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def published(**changes):
    """Weights as mmseg publishes them: an encoder without output norms."""
    torch.manual_seed(3)
    swin = SwinTransformer(**(SWIN | changes))
    perturb(swin, seed=3)
    return swin, {k: v for k, v in swin.state_dict().items() if not k.startswith('norm')}


def build(path, trusted=False, **changes):
    swin = MODELS.build(
        dict(
            type='mmvmt.AdaptedSwin',
            tasks=FOUR_TASKS,
            plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2))],
            init_cfg=dict(type='Pretrained', checkpoint=str(path), trusted=trusted),
            **(SWIN | changes),
        )
    )
    swin.init_weights()
    return swin.eval()


# What writes such names: torch.compile, DDP, FSDP, averages, Lightning, distillation, detectors of mmdet.
PREFIXES = (
    '_orig_mod.',
    'module.',
    'module._orig_mod.',
    '_orig_mod.module.',
    'module.module.',
    '_fsdp_wrapped_module.',
    'encoder.',
    'model.',
    'model.encoder.',
    'model.backbone.',
    'module._orig_mod.backbone.',
    'backbone._orig_mod.',
    '_orig_mod.backbone._fsdp_wrapped_module.',
    'model.module.backbone.encoder.',
    'student.',
)


@pytest.mark.parametrize('prefix', PREFIXES)
def test_an_encoder_is_found_under_any_name(prefix, tmp_path):
    _, weights = published()
    beside = {'n_averaged': torch.tensor(3), 'decode_head.conv_seg.weight': torch.ones(2)}
    torch.save({f'{prefix}{name}': value for name, value in weights.items()} | beside, tmp_path / 'swin.pth')
    swin = build(tmp_path / 'swin.pth')
    for name, value in weights.items():
        assert torch.equal(swin.state_dict()[name], value), name


def test_of_several_encoders_the_one_with_a_usual_name_is_taken(tmp_path):
    first, second = published()[1], {name: value + 1 for name, value in published()[1].items()}
    both = {f'encoder_k.{k}': v for k, v in second.items()} | {f'encoder.{k}': v for k, v in first.items()}
    torch.save(dict(model=both), tmp_path / 'swin.pth')
    assert all(torch.equal(build(tmp_path / 'swin.pth').state_dict()[k], v) for k, v in first.items())
    both = {f'teacher.{k}': v for k, v in second.items()} | {f'student.{k}': v for k, v in first.items()}
    torch.save(both, tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match=r"swin\.pth' cannot be loaded: there are several .*'student\.', 'teacher\.'"):
        build(tmp_path / 'swin.pth')


@pytest.mark.parametrize('layout', ['bare', 'state_dict', 'model', 'backbone', 'module'])
def test_every_published_layout_loads_completely(layout, tmp_path):
    _, weights = published()
    content = {
        'bare': weights,
        'state_dict': dict(state_dict=weights, meta=dict(epoch=3)),
        'model': dict(model=weights),
        'backbone': dict(
            state_dict={f'backbone.{k}': v for k, v in weights.items()} | {'head.fc.weight': torch.ones(2)}
        ),
        'module': dict(state_dict={f'module.{k}': v for k, v in weights.items()}),
    }[layout]
    torch.save(content, tmp_path / 'swin.pth')
    swin = build(tmp_path / 'swin.pth')
    for name, value in weights.items():
        assert torch.equal(swin.state_dict()[name], value), name


def test_loading_keeps_the_adapters_at_their_start(tmp_path):
    _, weights = published()
    torch.save(weights, tmp_path / 'swin.pth')
    swin = build(tmp_path / 'swin.pth')
    bottleneck = next(iter(swin.adapters[0].bottlenecks.values()))
    assert not bottleneck.up_weight.any()
    assert bottleneck.down_weight.any()


@pytest.mark.parametrize('kind', [torch.float32, torch.float16])
def test_bias_tables_of_another_window_are_interpolated(kind, tmp_path):
    weights = {name: value.to(kind) for name, value in published(window_size=7)[1].items()}
    save_file(weights, tmp_path / 'swin.safetensors')
    swin = build(tmp_path / 'swin.safetensors')
    key = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    assert weights[key].shape == (169, 1)
    assert swin.state_dict()[key].shape == (49, 1)
    grid = weights[key].float().view(1, 1, 13, 13)
    expected = torch.nn.functional.interpolate(grid, size=(7, 7), mode='bicubic', align_corners=False).flatten()
    torch.testing.assert_close(swin.state_dict()[key][:, 0], expected)


def test_without_init_cfg_adapters_start_from_the_frozen_network():
    swin = tiny_swin()
    swin.init_weights()
    assert not next(iter(swin.adapters[0].bottlenecks.values())).up_weight.any()


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda w: {k: v for k, v in w.items() if 'stages.2' not in k}, r"weights are missing, e.g. 'stages.2"),
        (
            lambda w: {k.replace('.', '_'): v for k, v in w.items()},
            r'is not of this encoder: all of its \d+ weights are',
        ),
        (
            lambda w: w | {'patch_embed.projection.weight': torch.ones(4, 3, 4, 4)},
            'of another encoder size: .patch_embed',
        ),
    ],
)
def test_weights_of_another_encoder_are_refused(spoil, message, tmp_path):
    _, weights = published()
    torch.save(spoil(weights), tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match=message):
        build(tmp_path / 'swin.pth')


# What an encoder has that another one lacks: loaded into that one, it would be left over.
LARGER = {
    'stages.2.blocks.1': dict(depths=(1, 2, 2, 1)),
    'stages.3.blocks.0': dict(depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4)),
    'absolute_pos_embed': dict(use_abs_pos_embed=True, pretrain_img_size=64),
    'patch_embed.norm': dict(patch_norm=True),
    'stages.0.blocks.0.attn.w_msa.qkv.bias': dict(qkv_bias=True),
}
SMALLER = {
    'stages.3.blocks.0': dict(depths=(1, 2, 1), num_heads=(1, 2, 2), out_indices=(0, 1, 2), strides=(4, 2, 2)),
    'patch_embed.norm': dict(patch_norm=False),
    'stages.0.blocks.0.attn.w_msa.qkv.bias': dict(qkv_bias=False),
}


@pytest.mark.parametrize('leftover', LARGER)
def test_what_is_left_over_in_a_file_is_refused_by_name(leftover, tmp_path):
    _, weights = published(**LARGER[leftover])
    assert any(name.startswith(leftover) for name in weights)
    torch.save(weights, tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match=r'is of another encoder: \d+ weights in it have no place in this one') as info:
        build(tmp_path / 'swin.pth', **SMALLER.get(leftover, {}))
    named = re.search(r"e\.g\. '([^']+)'", str(info.value))[1]
    assert named not in published(**SMALLER.get(leftover, {}))[1]
    assert named in weights
    assert build(tmp_path / 'swin.pth', **LARGER[leftover]) is not None


def test_the_likely_architecture_is_named(tmp_path):
    torch.save(published(**LARGER['absolute_pos_embed'])[1], tmp_path / 'swin.pth')
    with pytest.raises(
        ValueError, match=r'is of a Swin with .*use_abs_pos_embed=True; this encoder is a Swin with'
    ) as i:
        build(tmp_path / 'swin.pth')
    assert str(i.value).count('depths=(1, 2, 1, 1)') == 2


@pytest.mark.parametrize(
    'beside',
    [
        'head.weight',
        'head.fc.weight',
        'norm.weight',
        'norm3.weight',
        'mask_token',
        'decode_head.conv_seg.weight',
        'adapters.0.scale',
        'stages.0.blocks.0.attn.w_msa.relative_position_index',
        'stages.1.blocks.1.attn_mask',
    ],
)
def test_what_stands_beside_an_encoder_is_left_out(beside, tmp_path):
    _, weights = published()
    # What is never loaded may be broken.
    value = float('nan') if beside.partition('.')[0] in ('head', 'mask_token', 'decode_head', 'adapters') else 2.0
    torch.save(weights | {beside: torch.full((32,), value)}, tmp_path / 'swin.pth')
    swin = build(tmp_path / 'swin.pth')
    assert all(torch.equal(swin.state_dict()[name], value) for name, value in weights.items())


@pytest.mark.parametrize('name', ODD_WEIGHTS)
def test_odd_weights_are_refused_with_file_and_key(name, tmp_path):
    spoil, message = ODD_WEIGHTS[name]
    torch.save(dict(state_dict=spoil(published()[1])), tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match=rf"checkpoint '.*swin\.pth'.*{message}"):
        build(tmp_path / 'swin.pth')


def test_half_precision_and_integer_buffers_are_no_odd_weights(tmp_path):
    source, weights = published()
    kinds = (torch.float16, torch.bfloat16, torch.float64)
    weights = {name: value.to(kinds[index % 3]) for index, (name, value) in enumerate(weights.items())}
    index = {name: value for name, value in source.state_dict().items() if name.endswith('relative_position_index')}
    torch.save(weights | index | {'head.bn.num_batches_tracked': torch.tensor(3)}, tmp_path / 'swin.pth')
    swin = build(tmp_path / 'swin.pth')
    assert all(torch.equal(swin.state_dict()[name], value.float()) for name, value in weights.items())


def test_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nothing.pth.* does not exist; .*init_cfg.checkpoint=PATH'):
        build(tmp_path / 'nothing.pth')


def test_unreachable_url_names_the_remedy():
    with pytest.raises(FileNotFoundError, match=r'could not be downloaded .*init_cfg.checkpoint=PATH'):
        build('http://127.0.0.1:9/swin.pth')


def test_truncated_file(tmp_path):
    _, weights = published()
    torch.save(weights, tmp_path / 'swin.pth')
    content = (tmp_path / 'swin.pth').read_bytes()
    (tmp_path / 'swin.pth').write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r'swin.pth.* is not a readable file of weights'):
        build(tmp_path / 'swin.pth')


def test_nothing_in_a_checkpoint_is_executed_unless_it_is_trusted(tmp_path):
    trace = write_hostile(tmp_path / 'swin.pth', dict(state_dict={}))
    with pytest.raises(ValueError, match=r'holding code that would be executed.*is read with --trust-checkpoint'):
        read_checkpoint(str(tmp_path / 'swin.pth'))
    assert not trace.exists()
    assert read_checkpoint(str(tmp_path / 'swin.pth'), trusted=True)['state_dict'] == {}
    assert trace.exists()


def test_init_cfg_executes_nothing_unless_it_is_trusted(tmp_path):
    _, weights = published()
    trace = write_hostile(tmp_path / 'swin.pth', dict(state_dict=weights))
    with pytest.raises(ValueError, match=r'init_cfg\.trusted=True'):
        build(tmp_path / 'swin.pth')
    assert not trace.exists()
    swin = build(tmp_path / 'swin.pth', trusted=True)
    assert trace.exists()
    assert all(torch.equal(swin.state_dict()[name], value) for name, value in weights.items())


def test_a_refusal_is_one_plain_line_that_names_what_would_run(tmp_path):
    write_hostile(tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match='Unsupported global: GLOBAL') as info:
        read_checkpoint(str(tmp_path / 'swin.pth'))
    message = str(info.value)
    assert message.isprintable()
    assert not re.search(r'two options|weights_only|safe_globals', message)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('legacy', [False, True])
def test_damaged_files_are_named_whatever_reading_them_fails_with(legacy, tmp_path):
    path = tmp_path / 'run.pth'
    weights = {f'heads.{index}.weight': torch.ones(4, 3) for index in range(3)}
    torch.save(dict(meta=dict(iter=3), state_dict=weights), path, _use_new_zipfile_serialization=not legacy)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(100):
        damaged = bytearray(content)
        for position in rng.integers(0, min(len(content), 700), 5):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(str(path))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize('content', [torch.ones(2), [1, 2], 'text'])
def test_what_is_no_dictionary_is_refused(content, tmp_path):
    torch.save(content, tmp_path / 'run.pth')
    with pytest.raises(ValueError, match=f'holds no dictionary of weights, but {type(content).__name__}; name a file'):
        read_checkpoint(str(tmp_path / 'run.pth'))


class Reach:
    def __reduce__(self):
        return getattr, (np.ndarray, 'tofile')


def test_getattr_reaches_nothing_but_history_buffers(tmp_path):
    torch.save(dict(state_dict={}, extra=Reach()), tmp_path / 'swin.pth')
    with pytest.raises(ValueError, match='holding code that would be executed'):
        read_checkpoint(str(tmp_path / 'swin.pth'))


def test_checkpoints_with_mmengines_records_are_read(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(
        dict(state_dict=dict(w=torch.ones(1)), message_hub=dict(log_scalars=dict(loss=buffer))), tmp_path / 'run.pth'
    )
    record = read_checkpoint(str(tmp_path / 'run.pth'))['message_hub']['log_scalars']['loss']
    assert record.mean() == pytest.approx(1.5)


@pytest.mark.parametrize('core', ['core', '_core'])
def test_records_of_either_numpy_are_read(core, tmp_path):
    """Files name numpy's module by where it was when they were written: numpy 2 moved it."""
    path = tmp_path / 'run.pth'
    records = dict(array=np.arange(3.0), number=np.int64(7), buffer=HistoryBuffer([1.0, 2.0], [1, 1]))
    torch.save(records, path, _use_new_zipfile_serialization=False)
    content, renamed = re.subn(rb'numpy\._?core\.', f'numpy.{core}.'.encode(), path.read_bytes())
    assert renamed
    path.write_bytes(content)
    found = read_checkpoint(str(path))
    assert found['array'].tolist() == [0, 1, 2]
    assert found['number'] == 7
    assert found['buffer'].mean() == pytest.approx(1.5)


@pytest.mark.parametrize('kind', [PretrainedInit, 'PretrainedInit', 'mmengine.Pretrained'])
def test_init_cfg_has_a_class_or_any_of_its_names(kind, tmp_path):
    theirs = tiny_swin(None, None)
    torch.save(theirs.state_dict(), tmp_path / 'swin.pth')
    swin = tiny_swin(None, None, init_cfg=dict(type=kind, checkpoint=str(tmp_path / 'swin.pth')))
    perturb(swin, seed=1)
    swin.init_weights()
    assert all(torch.equal(value, swin.state_dict()[name]) for name, value in theirs.state_dict().items())


def test_output_norms_of_a_whole_segmentor_are_loaded_where_the_encoder_has_them(tmp_path):
    source, _ = published()
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in source.state_dict().items()}), tmp_path / 'run.pth')
    swin = MODELS.build(
        dict(type='mmvmt.AdaptedSwin', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'run.pth')), **SWIN)
    )
    swin.init_weights()
    source.eval(), swin.eval()
    for a, b in zip(source(IMAGES), swin(IMAGES)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
