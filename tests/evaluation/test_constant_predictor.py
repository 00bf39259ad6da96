import json
import math

import commands
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData

from mmvmt.engine.run_config import set_data_root
from mmvmt.evaluation import main_figures
from mmvmt.evaluation.constant_predictor import ValidationSamples, best_constant, constant_predictions
from mmvmt.structures import MultiTaskDataSample, declare_tasks


def test_most_frequent_class_without_ignored_pixels():
    labels = [torch.tensor([[[255, 255, 255, 3]]]), torch.tensor([[[255, 3, 2, 2], [2, 255, 255, 255]]])]
    assert best_constant('semseg', [label.to(torch.uint8) for label in labels]).item() == 2


def test_mean_vector_of_known_pixels():
    labels = torch.zeros(3, 1, 3)
    labels[:, 0, 0] = torch.tensor([1.0, 0, 0])
    labels[:, 0, 1] = torch.tensor([0, 1.0, 0])
    assert best_constant('normals', [labels]).flatten().tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0])


def test_mean_depth_of_known_pixels_and_saliency():
    assert best_constant('depth', [torch.tensor([[[0.0, 2.0, 4.0]]])]).item() == 3
    assert best_constant('saliency', []).item() == 1


def test_declared_tasks():
    declare_tasks(dict(albedo=dict(kind='values', channels=2), species=dict(kind='classes', classes=300)))
    labels = torch.tensor([[[1.0, 3.0, math.nan]], [[0.0, 1.0, 5.0]]])
    assert best_constant('albedo', [labels, labels]).flatten().tolist() == [2, 0.5]
    species = best_constant('species', [torch.tensor([[[65535, 65535, 299, 3, 299]]], dtype=torch.int32)])
    assert (species.item(), species.dtype) == (299, torch.int32)


@pytest.mark.parametrize('task, value, dtype', [('semseg', 255, torch.uint8), ('normals', 0, torch.float32)])
def test_no_labelled_pixel(task, value, dtype):
    with pytest.raises(ValueError, match=f"no pixel is labelled for task '{task}'"):
        best_constant(task, [torch.full((3, 2, 2), value, dtype=dtype)])


def test_predictions_are_constant_and_leave_the_samples_alone():
    samples = [MultiTaskDataSample() for _ in range(2)]
    for index, sample in enumerate(samples):
        sample.gt = PixelData(semseg=torch.full((1, 2, 3), index, dtype=torch.uint8))
    samples[1].gt.semseg[:] = 0
    for sample, twin in zip(samples, constant_predictions(samples)):
        assert torch.equal(twin.pred.semseg, torch.zeros(1, 2, 3, dtype=torch.uint8))
        assert 'pred' not in sample


def test_the_tool_scores_a_validation_set(scenes, tmp_path):
    config, out = 'configs/vmt/swin_nano_synthetic.py', tmp_path / 'floor.json'
    commands.run('tools/analysis/constant_predictor.py', config, '--data-root', scenes, '--out', out)
    record = json.loads(out.read_text())
    figures = main_figures(record['metrics'])
    assert set(figures) == {'semseg', 'human_parts', 'saliency', 'normals'}
    cfg = Config.fromfile(commands.ROOT / config)
    set_data_root(cfg, str(scenes))
    samples = ValidationSamples(cfg)
    assert len(samples) == len(list(samples)) == 5
    # Saliency is 1 everywhere: the score is the mean share of salient pixels, in percent.
    known = [sample.gt.saliency[sample.gt.saliency != 255] for sample in samples]
    assert figures['saliency'] == pytest.approx(100 * sum(float((k == 1).float().mean()) for k in known) / 5, abs=1e-3)
    failed = commands.run('tools/analysis/constant_predictor.py', config, '--data-root', tmp_path / 'no', check=False)
    assert failed.returncode == 2
    assert 'Cannot score yet' in failed.stderr
