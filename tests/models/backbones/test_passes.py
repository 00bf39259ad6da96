"""How often the encoder runs, and how far back gradients go."""

import pytest
import torch
from tiny import FOUR_TASKS, OUTPUTS, VMT, tiny_swin

from mmvmt.adapters import Method
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_encoder_runs_once_for_all_tasks():
    counts = []
    for tasks in (('semseg',), (*FOUR_TASKS, 'depth', 'edge')):
        swin = tiny_swin(tasks=tasks)
        calls = []
        for stage in swin.stages:
            for block in stage.blocks:
                block.attn.w_msa.qkv.register_forward_hook(lambda *_, calls=calls: calls.append('qkv'))
        swin(IMAGES)
        counts.append(len(calls))
    assert counts == [5, 5]


def test_a_per_task_method_runs_the_encoder_per_task_from_its_first_slot_on(registered):
    @registered
    class Shift(Method):
        positions = ('ffn',)
        per_task = True

        def adapt(self, site, inputs, outputs, task, generated):
            return outputs + 1 + self.tasks.index(task), None

    swin = tiny_swin(
        tasks=('semseg', 'normals'), plugins=[dict(cfg=dict(type='Shift'), stages=(False, False, True, True))]
    )
    calls = []
    for index, stage in enumerate(swin.stages):
        for block in stage.blocks:
            block.norm1.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = swin(IMAGES)
    assert calls == [0, 1, 1, 2, 3, 2, 3]
    assert torch.equal(features['semseg'][1], features['normals'][1])
    assert not torch.allclose(features['semseg'][2], features['normals'][2])


def test_no_gradient_below_the_first_trainable_parameter():
    swin = tiny_swin(plugins=[VMT | dict(stages=(False, False, True, True))]).train()
    inputs = []
    swin.stages[1].blocks[0].norm1.register_forward_hook(lambda m, i, o: inputs.append(o.requires_grad))
    swin.stages[3].blocks[0].norm1.register_forward_hook(lambda m, i, o: inputs.append(o.requires_grad))
    swin(IMAGES)
    assert inputs == [False, True]


@pytest.mark.parametrize('method', ['VMTAdapter', 'LoRA', 'MTLoRA', 'DiTASK', 'TADFormer'])
@pytest.mark.parametrize('order', ['sequential', 'stacked'])
def test_features_after_merging_are_the_features_merged(method, order):
    plugins = [dict(cfg=dict(type=f'mmvmt.{method}'))]
    before = tiny_swin(plugins=plugins, task_order=order)
    swin = tiny_swin(plugins=plugins, task_order=order, features_after_merging=True)
    assert swin.feature_widths == [16, 32, 64, 64]
    features = swin(IMAGES[:1, :, :56, :60], tasks=('normals', 'semseg'))
    for task, expected in before(IMAGES[:1, :, :56, :60], tasks=('normals', 'semseg')).items():
        for stage, a, b in zip(before.stages, expected, features[task]):
            if stage.downsample is not None:
                tokens, size = stage.downsample(a.flatten(2).transpose(1, 2), tuple(a.shape[2:]))
                a = tokens.transpose(1, 2).unflatten(2, size)
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)


def test_mergings_of_a_task_are_its_own_in_features_after_merging():
    features = []
    for order in ('sequential', 'stacked'):
        plugin = dict(cfg=dict(type='mmvmt.NormTuning'))
        features.append(tiny_swin(plugins=[plugin], task_order=order, features_after_merging=True)(IMAGES))
    for task in FOUR_TASKS:
        for a, b in zip(*(of_order[task] for of_order in features)):
            torch.testing.assert_close(b, a)
    norm = swin_with_norms_of('normals')
    for a, b in zip(norm(IMAGES)['normals'], features[0]['normals']):
        torch.testing.assert_close(b, a)


def swin_with_norms_of(task):
    """The tiny encoder with one task, whose copies of the norms are those of a task among four."""
    four = tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.NormTuning'))])
    swin = tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.DecodersOnly'))], features_after_merging=True)
    own = swin.own_parameters()
    with torch.no_grad():
        for name, value in four.own_parameters().items():
            own[name].copy_(value)
        for name, offset in four.adapters[0].offsets[task].items():
            own[name.replace('-', '.')].add_(offset)
    return swin


def test_features_after_merging_need_tasks():
    with pytest.raises(ValueError, match='features_after_merging needs tasks'):
        tiny_swin(tasks=None, features_after_merging=True)


def test_rows_of_mtlora_are_rebuilt_whole():
    head = dict(type='mmvmt.HighResolutionHead')
    heads = {task: dict(head, output=OUTPUTS[task]) for task in FOUR_TASKS}
    heads['semseg']['output'] = dict(type='mmvmt.ClassesOutput', num_classes=21)
    backbone = dict(
        type='mmvmt.AdaptedSwin', features_after_merging=True, plugins=[dict(cfg=dict(type='mmvmt.MTLoRA'))]
    )
    model = MODELS.build(
        dict(
            type='mmvmt.MultiTaskEncoderDecoder',
            data_preprocessor=dict(type='mmvmt.MultiTaskDataPreProcessor'),
            backbone=backbone,
            heads=heads,
        )
    )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 6_398_010 + 1_946_624 == 8_344_634
