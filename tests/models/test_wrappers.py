import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmseg.models.segmentors import SegTTAModel
from tiny import tiny_model

from mmvmt.models.identity import encoder_of, method_record
from mmvmt.models.parameter_groups import parameter_groups
from mmvmt.models.wrappers import unwrapped


class Ranks(torch.nn.parallel.DataParallel):
    """A wrapper for several ranks as mmengine recognises it, without ranks."""

    def __init__(self, module):
        torch.nn.Module.__init__(self)
        self.module = module


WRAPPERS = {
    'ranks': Ranks,
    'augmentation': SegTTAModel,
    'averages': ExponentialMovingAverage,
    'swa': torch.optim.swa_utils.AveragedModel,
    'compiled': torch.compile,
    'ranks of a compiled one': lambda model: Ranks(torch.compile(model)),
    'ranks of an augmented one': lambda model: Ranks(SegTTAModel(model)),
    'compiled ranks': lambda model: torch.compile(Ranks(model)),
}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_seen_through(wrap):
    model = tiny_model(tasks=('saliency',))
    wrapped = wrap(model)
    assert type(unwrapped(wrapped)) is type(model)
    assert encoder_of(wrapped) is unwrapped(wrapped).backbone
    assert method_record(wrapped) == method_record(model)
    # Averages train nothing, so groups may differ.
    total = sum(map(len, parameter_groups(model).values()))
    assert sum(map(len, parameter_groups(wrapped).values())) == total > 0


def test_a_bare_model_stays_what_it_is():
    model = tiny_model(tasks=('saliency',))
    assert unwrapped(model) is model
