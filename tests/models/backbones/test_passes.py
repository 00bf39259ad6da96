"""How often the encoder runs, and how far back gradients go."""

import torch
from tiny import FOUR_TASKS, VMT, tiny_swin

from mmvmt.adapters import Method

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
