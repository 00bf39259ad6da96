"""What is handed to torch.compile; that a compiled training equals one that is not is in test_training_options.py."""

from types import SimpleNamespace

import pytest
import torch
from tiny import VMT, tiny_model, tiny_swin
from torch import nn

from mmvmt import compat
from mmvmt.engine import CompileHook

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Segmentor(nn.Module):
    """A model that reaches its encoder as mmsegmentation's do."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def loss(self, images):
        return sum(feature.sum() for feature in self.backbone(images))


@pytest.fixture
def compiled(monkeypatch):
    """Calls of what was handed to torch.compile, with the options it was given."""
    calls = []

    def record(function, **options):
        def run(*args, **kwargs):
            calls.append((function.__name__, options))
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(torch, 'compile', record)
    monkeypatch.setattr(compat, 'RECORDS_GRAPHS', True)
    return calls


def test_encoder_and_heads_of_several_tasks(compiled):
    model = tiny_model()
    CompileHook(dynamic=True).before_run(SimpleNamespace(model=model))
    model.encode_decode(IMAGES)
    assert compiled == [('encode_decode', dict(dynamic=True))]


def test_the_encoder_of_another_model_also_in_training(compiled):
    model = Segmentor(tiny_swin(tasks=None, plugins=[VMT]))
    expected = model.loss(IMAGES)
    CompileHook().before_run(SimpleNamespace(model=model))
    assert torch.equal(model.loss(IMAGES), expected)
    assert compiled == [('forward', {})]


def test_older_releases_of_torch_are_refused(monkeypatch):
    monkeypatch.setattr(compat, 'RECORDS_GRAPHS', False)
    with pytest.raises(ImportError, match=r'torch\.compile of an AdaptedEncoder needs torch 2\.7 or later, this is'):
        CompileHook().before_run(SimpleNamespace(model=tiny_model()))


def test_other_models_are_refused(compiled):
    with pytest.raises(TypeError, match='or the AdaptedEncoder of another model, got Linear'):
        CompileHook().before_run(SimpleNamespace(model=nn.Linear(1, 1)))
