"""Which plugins an encoder takes, and what is said of others."""

import pytest
import torch
from tiny import SWIN, VMT, perturb, tiny_swin

from mmvmt.models import AdaptedSwin

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    'plugin, message',
    [
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), position='attn'), "matches no slot: it cannot fill position 'attn'"),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), position='mlp'), "cannot fill position 'mlp'"),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), stages=(False,) * 4), 'matches no slot: stages='),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), stages=(True,) * 3), 'names 3 stages .* the encoder has 4'),
        (dict(cfg=dict(type='mmvmt.DecodersOnly'), position='ffn'), "cannot fill position 'ffn'; it fills none"),
        (dict(cfg=dict(type='mmvmt.NoSuch')), "unknown adapter 'mmvmt.NoSuch'; known: .*VMTAdapter"),
        (dict(type='mmvmt.VMTAdapter'), r'a plugin needs cfg=dict\(type=...\)'),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), where='ffn'), r"unknown keys \['where'\]"),
    ],
)
def test_wrong_plugins_are_refused(plugin, message):
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[plugin])


@pytest.mark.parametrize('method, slot', [('VPTDeep', 'tokens'), ('LoRA', 'qkv')])
def test_a_slot_that_an_encoder_lacks_is_refused_by_name(method, slot):
    class Bare(AdaptedSwin):
        slots = ('attn', 'ffn')

    Bare(plugins=[VMT], **SWIN)
    with pytest.raises(
        ValueError, match=f"mmvmt.{method}' matches no slot: blocks of Bare have no '{slot}'; they offer attn, ffn"
    ):
        Bare(plugins=[dict(cfg=dict(type=f'mmvmt.{method}'))], **SWIN)


def test_a_position_named_twice_is_refused():
    with pytest.raises(ValueError, match='names a position twice'):
        tiny_swin(plugins=[VMT | dict(position=['ffn', 'ffn'])])


def test_two_tapping_plugins_are_refused():
    lite = dict(cfg=dict(type='mmvmt.VMTAdapterLite', reduction=2))
    with pytest.raises(ValueError, match='only one plugin can make the features of the tasks'):
        tiny_swin(plugins=[VMT, lite])


def test_two_plugins_may_share_the_stages_between_them():
    early = VMT | dict(stages=(True, True, False, False))
    late = dict(cfg=dict(type='mmvmt.VMTAdapterLite', reduction=2), stages=(False, False, True, True))
    swin = tiny_swin(plugins=[early, late])
    perturb(swin, seed=4)
    features = swin(IMAGES)
    for level in range(4):
        assert not torch.allclose(features['semseg'][level], features['normals'][level])
