"""What holds for every encoder, shown on the Swin Transformer."""

import pytest
import torch
from mmengine.model import PretrainedInit
from tiny import FOUR_TASKS, SWIN, VMT, perturb, tiny_swin
from torch import nn

from mmvmt.models import AdaptedSwin
from mmvmt.models.identity import load_pretrained


@pytest.mark.parametrize(
    'tasks, error, message',
    [
        (('semseg', 'semantics'), ValueError, "unknown task 'semantics'; known tasks are semseg"),
        (('semseg', 'semseg'), ValueError, "task 'semseg' is listed twice"),
        ((), ValueError, 'tasks is empty'),
        ('semseg', TypeError, "got the string 'semseg'"),
    ],
)
def test_wrong_tasks_are_refused(tasks, error, message):
    with pytest.raises(error, match=message):
        tiny_swin(tasks=tasks)


def constant(layer, value):
    return dict(type='Constant', layer=layer, val=value, bias=0.25)


@pytest.mark.parametrize('as_list', [False, True])
def test_init_cfg_takes_initialisers_of_mmengine(as_list):
    cfg = constant('Conv2d', 0.5)
    torch.manual_seed(0)
    plain = AdaptedSwin(**SWIN)
    torch.manual_seed(0)
    swin = AdaptedSwin(init_cfg=[cfg, constant('LayerNorm', 2.0)] if as_list else cfg, **SWIN)
    swin.init_weights()
    chosen = {id(p) for m in swin.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()}
    if as_list:
        chosen |= {id(p) for m in swin.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    for (name, p), before in zip(swin.named_parameters(), plain.parameters()):
        if id(p) not in chosen:
            assert torch.equal(p, before), name
        else:
            assert set(p.unique().tolist()) == {0.25 if name.endswith('bias') else 2.0 if p.ndim == 1 else 0.5}, name


@pytest.mark.parametrize('pretrained', ['Pretrained', PretrainedInit])
def test_initialisers_come_before_pretrained_weights_and_leave_adapters_alone(pretrained, tmp_path):
    source = tiny_swin(tasks=None, plugins=None)
    torch.save(source.state_dict(), tmp_path / 'swin.pth')
    loads = dict(type=pretrained, checkpoint=str(tmp_path / 'swin.pth'))
    lora = dict(cfg=dict(type='mmvmt.LoRA', rank=2))
    swin = AdaptedSwin(tasks=FOUR_TASKS, plugins=[lora], init_cfg=[loads, constant(['Linear', 'Conv2d'], 0.5)], **SWIN)
    perturb(swin)
    swin.init_weights()
    for name, p in swin.own_parameters().items():
        assert torch.equal(p, source.state_dict()[name]), name
    ups = [p for name, p in swin.adapters.named_parameters() if name.endswith('up_weight')]
    assert ups
    assert not any(p.any() for p in ups)


def test_initialisers_draw_in_float32_whatever_is_stored():
    weights = []
    for dtype in (None, 'bfloat16'):
        swin = AdaptedSwin(plugins=[VMT], frozen_dtype=dtype, init_cfg=[dict(type='Kaiming', layer='Conv2d')], **SWIN)
        torch.manual_seed(0)
        swin.init_weights()
        weights.append(swin.patch_embed.projection.weight)
    assert weights[1].dtype == torch.bfloat16
    assert torch.equal(weights[0].bfloat16(), weights[1])


def test_initialisers_alone_are_no_pretrained_encoder():
    model = nn.Module()
    model.backbone = AdaptedSwin(plugins=[VMT], init_cfg=[dict(type='Kaiming', layer='Conv2d')], **SWIN)
    with pytest.raises(ValueError, match=r"the file holds no frozen weights, and .*init_cfg is \[{'type': 'Kaiming'"):
        load_pretrained(model, 'the file')


@pytest.mark.parametrize('cfg', ['swin.pth', ['swin.pth'], 3])
def test_another_init_cfg_is_refused(cfg):
    with pytest.raises(
        ValueError, match=r'init_cfg must be dict\(type=.Pretrained., checkpoint=PATH_OR_URL\), another'
    ):
        AdaptedSwin(init_cfg=cfg, **SWIN).init_weights()
