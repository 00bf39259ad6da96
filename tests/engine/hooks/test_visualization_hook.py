from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS
from mmengine.structures import PixelData
from mmengine.visualization import Visualizer
from pascal_mt_folder import save_photo

from mmvmt.engine.hooks.visualization_hook import MultiTaskVisualizationHook
from mmvmt.structures import MultiTaskDataSample
from mmvmt.visualization import MultiTaskVisualizer


@pytest.fixture
def samples(tmp_path):
    """Five samples whose images lie on disk."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(5):
        path = tmp_path / 'images' / f'{index}.png'
        mmcv.imwrite(rng.integers(0, 256, (130, 140, 3), np.uint8), str(path))
        sample = MultiTaskDataSample(metainfo={'img_id': f'id_{index}', 'img_path': str(path)})
        sample.pred = PixelData(semseg=torch.full((1, 130, 140), index, dtype=torch.uint8))
        samples.append(sample)
    return samples


@pytest.fixture
def runner(tmp_path):
    visualizer = MultiTaskVisualizer(
        'hook', vis_backends=[{'type': 'LocalVisBackend'}], save_dir=str(tmp_path / 'backend')
    )
    return SimpleNamespace(visualizer=visualizer, iter=200)


def run(hook, runner, samples, phase, batch_size=2):
    hook.before_run(runner)
    getattr(hook, f'before_{phase}_epoch')(runner)
    for batch_idx, start in enumerate(range(0, len(samples), batch_size)):
        batch = samples[start : start + batch_size]
        getattr(hook, f'after_{phase}_iter')(runner, batch_idx, {}, batch)


def pictures(folder):
    return sorted(path.name for path in folder.rglob('*.png'))


@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_validation_draws_every_interval(tmp_path, runner, samples, batch_size):
    hook = MultiTaskVisualizationHook(draw=True, interval=2)
    for _ in range(2):
        run(hook, runner, samples, 'val', batch_size)
    assert pictures(tmp_path / 'backend') == [f'val_id_{index}_200.png' for index in (0, 2, 4)]


def test_test_draws_every_sample_into_a_folder(tmp_path, runner, samples):
    hook = HOOKS.build(
        {'type': 'mmvmt.MultiTaskVisualizationHook', 'draw': True, 'interval': 2, 'out_dir': str(tmp_path / 'shown')}
    )
    run(hook, runner, samples, 'test')
    assert pictures(tmp_path / 'shown') == [f'id_{index}.png' for index in range(5)]
    assert not pictures(tmp_path / 'backend')
    image = mmcv.imread(samples[3].img_path, channel_order='rgb')
    expected = MultiTaskVisualizer.draw_datasample(image, samples[3], title='id_3')
    np.testing.assert_array_equal(mmcv.imread(tmp_path / 'shown' / 'id_3.png', channel_order='rgb'), expected)


def test_test_without_folder_feeds_the_backends(tmp_path, runner, samples):
    run(MultiTaskVisualizationHook(draw=True), runner, samples, 'test')
    assert pictures(tmp_path / 'backend') == [f'test_id_{index}_{index}.png' for index in range(5)]


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_max_images_counts_per_run(tmp_path, runner, samples, phase):
    hook = MultiTaskVisualizationHook(draw=True, interval=1, max_images=2)
    run(hook, runner, samples, phase)
    assert len(pictures(tmp_path / 'backend')) == 2
    run(hook, runner, samples[2:], phase)
    assert len(pictures(tmp_path / 'backend')) == 4


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_draws_nothing_unless_asked(tmp_path, runner, samples, phase):
    run(MultiTaskVisualizationHook(out_dir=str(tmp_path / 'shown')), runner, samples, phase)
    assert not pictures(tmp_path / 'backend')
    assert not (tmp_path / 'shown').exists()


def test_image_is_brought_to_the_size_of_the_prediction(tmp_path, runner, samples):
    samples[0].pred = PixelData(semseg=torch.zeros(1, 260, 300, dtype=torch.uint8))
    run(MultiTaskVisualizationHook(draw=True, out_dir=str(tmp_path / 'shown')), runner, samples[:1], 'test')
    picture = mmcv.imread(tmp_path / 'shown' / 'id_0.png')
    image = mmcv.imresize(mmcv.imread(samples[0].img_path, channel_order='rgb'), (300, 260))
    expected = MultiTaskVisualizer.draw_datasample(image, samples[0], title='id_0')
    np.testing.assert_array_equal(picture[..., ::-1], expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_photos_are_drawn_in_the_orientation_of_their_maps(tmp_path, runner, samples, orientation):
    sample = samples[0]
    shown = np.random.default_rng(0).integers(0, 256, (13, 14, 3), np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    save_photo(sample.img_path, shown, orientation)
    sample.set_metainfo(dict(upright=True))
    run(MultiTaskVisualizationHook(draw=True, out_dir=str(tmp_path / 'shown')), runner, [sample], 'test')
    picture = mmcv.imread(tmp_path / 'shown' / 'id_0.png')[..., ::-1]
    np.testing.assert_array_equal(picture, MultiTaskVisualizer.draw_datasample(shown, sample, title='id_0'))


def test_id_with_a_folder(tmp_path, runner, samples):
    samples[0].set_metainfo({'img_id': 'scene/7'})
    run(MultiTaskVisualizationHook(draw=True), runner, samples[:1], 'val')
    assert pictures(tmp_path / 'backend') == ['val_scene_7_200.png']
    run(MultiTaskVisualizationHook(draw=True, out_dir=str(tmp_path / 'shown')), runner, samples[:1], 'test')
    assert (tmp_path / 'shown' / 'scene' / '7.png').is_file()


def test_show_reaches_the_visualizer(monkeypatch, runner, samples):
    shown = []
    monkeypatch.setattr(MultiTaskVisualizer, 'show', lambda self, *args, **kwargs: shown.append(kwargs))
    run(MultiTaskVisualizationHook(draw=True, show=True, wait_time=0.1), runner, samples[:1], 'test')
    assert shown == [{'win_name': 'test_id_0', 'wait_time': 0.1}]


def test_refuses_a_visualizer_that_would_draw_nothing():
    runner = SimpleNamespace(visualizer=Visualizer('plain'))
    MultiTaskVisualizationHook(draw=False).before_run(runner)
    with pytest.raises(TypeError, match=r"cannot draw with Visualizer; set visualizer=dict\(type='mmvmt"):
        MultiTaskVisualizationHook(draw=True).before_run(runner)


def test_unreadable_image(tmp_path, runner, samples):
    broken = tmp_path / 'images' / '0.png'
    broken.write_bytes(broken.read_bytes()[:20])
    hook = MultiTaskVisualizationHook(draw=True)
    with pytest.raises(ValueError, match=r'cannot decode .*0\.png'):
        run(hook, runner, samples, 'test')
    broken.unlink()
    with pytest.raises(FileNotFoundError, match=r'0\.png'):
        run(hook, runner, samples, 'test')


@pytest.mark.parametrize('arguments', [{'interval': 0}, {'max_images': 0}, {'interval': -5}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=f'{next(iter(arguments))} must be 1 or more'):
        MultiTaskVisualizationHook(**arguments)
