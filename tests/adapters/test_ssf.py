"""SSF against plain encoders whose modules' outputs are scaled and shifted by hooks; merging."""

import pytest
import torch
from tiny import FOUR_TASKS, tiny_swin
from torch import nn

from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def ssf_swin(tasks=FOUR_TASKS, position=None, **options):
    plugin = dict(cfg=dict(type='mmvmt.SSF', **options))
    return tiny_swin(tasks=tasks, plugins=[plugin if position is None else plugin | dict(position=position)])


def reference(swin, task):
    """Features of a plain encoder behind every operation of which stand a scale and a shift."""
    plain = tiny_swin(plugins=None)
    plain.load_state_dict(swin.state_dict(), strict=False)
    (method,) = swin.adapters
    sets = method.sets[task if method.per_task else 'shared']
    by_module = {plain.layer_of(site): sets[site.key] for site in method.sites}
    for path, module in plain.named_modules():
        if path.replace('.', '-') in sets:
            by_module[module] = sets[path.replace('.', '-')]
    assert len(by_module) == len(sets)

    def hook(module, _, out):
        s = by_module[module]
        if isinstance(module, nn.Conv2d):
            return out * s.scale.view(1, -1, 1, 1) + s.shift.view(1, -1, 1, 1)
        return out * s.scale + s.shift

    for module in by_module:
        module.register_forward_hook(hook)
    return plain(IMAGES)[task], {type(module).__name__ for module in by_module}


@pytest.mark.parametrize('options', [{}, dict(per_task=True), dict(norms=False, patch_embed=False)])
def test_equals_scales_and_shifts_behind_every_operation(options):
    swin = ssf_swin(**options)
    features = swin(IMAGES)
    for task in FOUR_TASKS[:2]:
        expected, kinds = reference(swin, task)
        assert ('LayerNorm' in kinds) == ('Conv2d' in kinds) == options.get('norms', True)
        for a, b in zip(features[task], expected):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures('undrawn')
def test_swin_t_has_the_published_count():
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[dict(cfg=dict(type='mmvmt.SSF'))]))
    assert sum(p.numel() for p in swin.adapter_parameters()) == 105_600
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == 105_600


def test_initial_values_are_spread_around_one_and_zero():
    swin = ssf_swin()
    swin.adapters[0].reset_parameters()
    scales = torch.cat([p for name, p in swin.adapters.named_parameters() if name.endswith('scale')])
    shifts = torch.cat([p for name, p in swin.adapters.named_parameters() if name.endswith('shift')])
    assert scales.mean().item() == pytest.approx(1, abs=0.005)
    assert shifts.mean().item() == pytest.approx(0, abs=0.005)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
    assert shifts.std().item() == pytest.approx(0.02, rel=0.1)


def test_merging_is_exact_and_is_undone():
    swin = ssf_swin().double()
    before = {name: p.clone() for name, p in swin.own_parameters().items()}
    images = IMAGES.double()
    expected = swin(images)
    (method,) = swin.adapters
    method.merge(swin)
    assert any(not torch.equal(p, before[name]) for name, p in swin.own_parameters().items())
    merged = swin(images)
    method.unmerge(swin)
    for task in FOUR_TASKS:
        for a, b, c in zip(expected[task], merged[task], swin(images)[task]):
            torch.testing.assert_close(b, a, atol=1e-12, rtol=1e-12)
            torch.testing.assert_close(c, a, atol=1e-12, rtol=1e-12)
    for name, p in swin.own_parameters().items():
        torch.testing.assert_close(p, before[name], atol=1e-13, rtol=1e-13, msg=name)


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(ValueError, match='SSF has updates of its own for each of 4 tasks'):
        ssf_swin(per_task=True).adapters[0].merge(None)
    swin = ssf_swin(std=0)
    (method,) = swin.adapters
    method.merge(swin)
    with pytest.raises(RuntimeError, match='SSF is merged into the encoder and cannot train'):
        swin.train()(IMAGES)
    method.unmerge(swin)
    next(p for name, p in method.named_parameters() if name.endswith('scale')).data.zero_()
    with pytest.raises(ValueError, match='a scale of zero'):
        method.merge(swin)


def test_a_spread_out_of_range_is_refused():
    with pytest.raises(ValueError, match='std must be at least 0 and below 1, got 1'):
        ssf_swin(std=1)
