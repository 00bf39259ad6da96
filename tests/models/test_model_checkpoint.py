import logging

import pytest
import torch
from hostile import ODD_WEIGHTS
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint
from tiny import OUTPUTS, model_cfg, perturb

from mmvmt.registry import MODELS


def model_of(tasks=('semseg', 'saliency'), seed=0, classes=5, strict_heads=False, **kwargs):
    cfg = model_cfg(tasks=tasks, strict_heads=strict_heads, **kwargs)
    for task, head in cfg['heads'].items():
        head['output'] = dict(OUTPUTS[task]) | (dict(num_classes=classes) if task == 'semseg' else {})
    torch.manual_seed(seed)
    model = MODELS.build(cfg)
    perturb(model, seed)
    return model.eval()


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def parts(model, *beginnings):
    return {name for name in model.state_dict() if name.startswith(beginnings)}


WAYS = {
    'torch': lambda model, weights, path: model.load_state_dict(weights),
    'mmengine': lambda model, weights, path: (torch.save(weights, path), load_checkpoint(model, str(path))),
}


@pytest.mark.parametrize('load', WAYS.values(), ids=WAYS)
def test_another_number_of_classes_is_loaded_on_request(load, log, tmp_path):
    source, model = model_of(seed=1), model_of(classes=7)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with log.at_level(logging.WARNING):
        load(model, source.state_dict(), tmp_path / 'a.pth')
    differ = {'heads.semseg.predictor.weight', 'heads.semseg.predictor.bias'}
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name] if name in differ else source.state_dict()[name]), name
    (message,) = (r.getMessage() for r in log.records if 'strict_heads' in r.getMessage())
    assert 'strict_heads=False: 2 weights of the checkpoint are left out' in message
    assert 'heads.semseg.predictor.weight (5, 8, 1, 1)' in message
    assert 'and 2 of this model start anew (heads.semseg.predictor.bias (7,), ' in message


@pytest.mark.parametrize('load', WAYS.values(), ids=WAYS)
def test_other_tasks_are_loaded_on_request(load, log, tmp_path):
    source, model = model_of(seed=1), model_of(tasks=('saliency', 'depth'))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with log.at_level(logging.WARNING):
        load(model, source.state_dict(), tmp_path / 'a.pth')
    anew = {name for name in model.state_dict() if 'depth' in name.split('.')}
    # A head, and what the adapters have for a task.
    assert len(anew) > len(parts(model, 'heads.depth.')) > 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name] if name in anew else source.state_dict()[name]), name
    left = {name for name in source.state_dict() if 'semseg' in name.split('.')}
    (message,) = (r.getMessage() for r in log.records if 'strict_heads' in r.getMessage())
    assert f'{len(left)} weights of the checkpoint are left out' in message
    assert all(name in message for name in left | anew)


def test_nothing_is_said_where_everything_fits(log):
    with log.at_level(logging.WARNING):
        model_of().load_state_dict(model_of(seed=1).state_dict())
    assert not [record for record in log.records if 'strict_heads' in record.getMessage()]


def test_without_request_it_is_refused_and_the_request_is_named():
    weights = model_of(seed=1).state_dict()
    with pytest.raises(ValueError, match=r'heads for tasks: saliency, semseg; this model .*model\.strict_heads=False'):
        model_of(tasks=('saliency', 'depth'), strict_heads=True).load_state_dict(weights)
    with pytest.raises(ValueError, match=r'the model needs \(7,.*, or set model\.strict_heads=False'):
        model_of(classes=7, strict_heads=True).load_state_dict(weights)


def test_another_method_or_encoder_is_refused_all_the_same():
    weights = model_of(seed=1).state_dict()
    with pytest.raises(ValueError, match='was trained with another method than this model'):
        model_of(plugins=[dict(cfg=dict(type='mmvmt.DecodersOnly'))]).load_state_dict(weights)
    weights.pop('backbone.patch_embed.norm.bias')
    with pytest.raises(ValueError, match='is of another encoder than this model: it lacks backbone'):
        model_of().load_state_dict(weights)


@pytest.mark.parametrize('name', ODD_WEIGHTS)
def test_odd_weights_are_refused_however_they_are_loaded(name):
    spoil, message = ODD_WEIGHTS[name]
    model = model_of(strict_heads=True)
    with pytest.raises(ValueError, match=f'the checkpoint .*{message}'):
        model.load_state_dict(spoil(model.state_dict()))
