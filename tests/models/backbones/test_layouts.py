"""The page about encoders: its example is a real one, and its table says what blocks offer."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from encoders import ENCODERS, adapted
from tiny import VMT, batch, losses_of, tiny_encoder, tiny_model

from mmvmt.models.backbones.layouts import LAYOUTS
from mmvmt.registry import MODELS

PAGE = (Path(__file__).parents[3] / 'docs/encoders.md').read_text(encoding='utf-8')
CFG = dict(type='mmvmt.AdaptedBackbone', encoder=dict(type='MyEncoder', width=16, depth=4, heads=2, out_indices=(1, 3)))
TASKS = ('semseg', 'normals')


@pytest.fixture
def example():
    """The module that the page shows, registered as its readers would have it."""
    code = re.search(r'```python\n(""".*?)```', PAGE, re.DOTALL)[1]
    module = sys.modules['my_encoders'] = ModuleType('my_encoders')
    exec(code, vars(module))
    yield module
    del sys.modules['my_encoders'], LAYOUTS['my_encoders.MyEncoder']
    MODELS.module_dict.pop('MyEncoder')


def test_the_example_computes_what_its_encoder_does(example):
    encoder = tiny_encoder(CFG, None, None)
    plain, images = encoder.layout.encoder, torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        x, expected = plain.stem(images).flatten(2).transpose(1, 2), []
        for index, block in enumerate(plain.trunk):
            x = block(x)
            if index in (1, 3):
                expected.append(x.transpose(1, 2).unflatten(2, (4, 6)))
        for a, b in zip(expected, encoder(images)):
            torch.testing.assert_close(b, a)
    assert list(encoder.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(
    'cfg',
    [VMT['cfg'], dict(type='mmvmt.VPTDeep', prompts=3), dict(type='mmvmt.BitFit'), dict(type='mmvmt.Adapter')],
    ids=lambda cfg: cfg['type'],
)
def test_methods_train_on_the_example(example, cfg):
    model = tiny_model(TASKS, [dict(cfg=cfg)], CFG).train()
    sum(losses_of(model, batch(TASKS)).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    with pytest.raises(
        ValueError, match=r"blocks of my_encoders\.MyEncoder have no 'qkv'; they offer attn, ffn, fc1, fc2"
    ):
        tiny_encoder(CFG, TASKS, [dict(cfg=dict(type='mmvmt.LoRA'))])


@pytest.mark.parametrize('family', sorted(ENCODERS))
def test_the_table_of_the_page_says_what_blocks_offer(family):
    (row,) = re.findall(rf'^\| `{re.escape(family)}` \|(.*)', PAGE, re.MULTILINE)
    named = re.findall(r'`(\w+)`', ' '.join(row.split('|')[1:4]))
    assert tuple(named) == MODELS.build(adapted(family)).slots
