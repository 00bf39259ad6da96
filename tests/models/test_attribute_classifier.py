import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import ConstantLR
from mmengine.runner import Runner

from mmvmt.datasets import RenderedPictures
from mmvmt.engine import SideBySideOptimWrapperConstructor
from mmvmt.evaluation import MeanMetric
from mmvmt.models import AttributeClassifier
from mmvmt.synthetic import ATTRIBUTES

ENCODER = dict(
    type='mmvmt.AdaptedSwin',
    embed_dims=8,
    depths=(1, 1),
    num_heads=(1, 2),
    strides=(4, 2),
    window_size=4,
    drop_path_rate=0.0,
    out_indices=(1,),
)
OPTIMIZER = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05), clip_grad=dict(max_norm=1.0)
)


def batch(start: int, size: int = 3) -> dict:
    dataset = RenderedPictures(num_samples=100, size=32, seed=1)
    return torch.utils.data.default_collate([dataset[index] for index in range(start, start + size)])


def model_of(**encoders: dict) -> AttributeClassifier:
    """A classifier whose encoders start from weights by their names alone."""
    preprocessor = dict(type='ImgDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3)
    model = AttributeClassifier(encoders, ATTRIBUTES, preprocessor)
    for name, encoder in model.encoders.items():
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        for parameter in encoder.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def test_losses_are_those_of_the_formula():
    model, data = model_of(a=ENCODER), batch(0)
    data = model.data_preprocessor(data)
    logits = model(**data)['a']
    start, losses = 0, []
    for index, values in enumerate(v for n, v in ATTRIBUTES.items() if n != 'presence'):
        target = data['attributes'][:, index]
        known = target >= 0
        part = logits[known, start : start + values].log_softmax(1)
        if known.any():
            losses.append(-part.gather(1, target[known, None]).mean())
        start += values
    several = F.binary_cross_entropy_with_logits(logits[:, start:], data['presence'], reduction='none')
    expected = sum(losses) / (len(ATTRIBUTES) - 1) + 0.25 * several.sum(1).mean()
    torch.testing.assert_close(model(**data, mode='loss')['a/loss'], expected)
    # Nothing at all is known of the subject.
    data['attributes'] = torch.full_like(data['attributes'], -1)
    assert math.isfinite(model(**data, mode='loss')['a/loss'].detach())


def test_side_by_side_each_encoder_learns_as_if_it_were_alone():
    """Weights after three steps are the same to the bit, whoever else learns; one whose schedule is over stays."""
    together = model_of(a=ENCODER, b=dict(ENCODER, embed_dims=16))
    alone = {name: model_of(**{name: dict(ENCODER, embed_dims=width)}) for name, width in (('a', 8), ('b', 16))}
    build = SideBySideOptimWrapperConstructor(OPTIMIZER, dict(norm_decay_mult=0.0))
    wrappers = build(together), *(build(model) for model in alone.values())
    schedules = [
        ConstantLR(wrappers[0]['a'].optimizer, factor=0.0, begin=2, by_epoch=False),
        ConstantLR(wrappers[1]['a'].optimizer, factor=0.0, begin=2, by_epoch=False),
    ]
    for step in range(3):
        log = together.train_step(batch(3 * step), wrappers[0])
        for wrapper, model in zip(wrappers[1:], alone.values()):
            model.train_step(batch(3 * step), wrapper)
        for schedule in schedules:
            schedule.step()
        assert sorted(log) == (['a/loss', 'b/loss'] if step < 2 else ['b/loss'])
    for name, model in alone.items():
        own = model.encoders[name].state_dict()
        for key, value in together.encoders[name].state_dict().items():
            assert torch.equal(value, own[key]), key


def test_predictions_say_what_was_right_and_their_means_are_percentages():
    model, data = model_of(a=ENCODER), batch(0)
    results = model.val_step(data)
    logits = model(**model.data_preprocessor(data))['a']
    subject = logits[:, :20].argmax(1) == data['attributes'][:, 0]
    assert [result['a/subject'] for result in results] == subject.float().tolist()
    assert [('a/pose' in result) for result in results] == (data['attributes'][:, -1] >= 0).tolist()
    metric = MeanMetric()
    metric.process(data, results)
    figures = metric.evaluate(size=len(results))
    assert figures['a/subject'] == pytest.approx(100 * subject.float().mean().item())
    right = (logits[:, -20:] > 0) == (data['presence'] > 0)
    assert figures['a/presence'] == pytest.approx(100 * right.float().mean().item())


def test_several_processes_are_refused():
    wrapped = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    with pytest.raises(TypeError, match='one process'):
        SideBySideOptimWrapperConstructor(OPTIMIZER)(wrapped)


def test_the_shipped_config_asks_for_every_attribute_and_has_a_schedule_for_every_encoder():
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/pretrain/swin_nano_pico_attributes.py')
    assert cfg.model.attributes == ATTRIBUTES
    assert list(cfg.param_scheduler) == list(cfg.model.encoders)
    assert max(schedule[-1].begin for schedule in cfg.param_scheduler.values()) == cfg.train_cfg.max_iters


def test_the_shipped_config_trains(tmp_path):
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/pretrain/swin_nano_pico_attributes.py')
    cfg.work_dir = str(tmp_path)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(batch_size=2, size=[40, 40])
    cfg.val_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.val_dataloader.dataset.update(num_samples=2, size=40)
    model = Runner.from_cfg(cfg).train()
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert (tmp_path / 'iter_2.pth').is_file()
