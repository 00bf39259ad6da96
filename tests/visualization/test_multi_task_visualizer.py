import mmcv
import numpy as np
import pytest
import torch
from distributed import run_ranks
from evaluation_samples import make_sample, random_maps
from mmengine.registry import VISUALIZERS
from mmengine.structures import PixelData

from mmvmt.structures import MultiTaskDataSample
from mmvmt.visualization import MultiTaskVisualizer, draw_multi_task

TASKS = ('saliency', 'normals', 'semseg', 'depth', 'human_parts', 'edge')


def scene(sides=('gt', 'pred')):
    """An image and its sample."""
    rng = np.random.default_rng(0)
    maps = make_sample('a', {task: random_maps(rng, task, 128, 140) for task in TASKS})
    sample = MultiTaskDataSample(metainfo={'img_id': 'a'})
    for side in sides:
        setattr(sample, side, PixelData(**maps[side]))
    return rng.integers(0, 256, (128, 140, 3), np.uint8), sample


def write_on_rank(rank, world_size, folder):
    image, sample = scene()
    backends = [{'type': 'LocalVisBackend'}]
    visualizer = MultiTaskVisualizer(f'rank{rank}', vis_backends=backends, save_dir=folder)
    visualizer.add_datasample(f'file_{rank}', image, sample, out_file=f'{folder}/file_{rank}.png')
    visualizer.add_datasample(f'backend_{rank}', image, sample)


def in_table_order(maps):
    order = ('semseg', 'human_parts', 'saliency', 'normals', 'edge', 'depth')
    return {task: maps.get(task) for task in order}


def test_is_built_by_name():
    visualizer = VISUALIZERS.build({'type': 'mmvmt.MultiTaskVisualizer', 'name': 'by_name'})
    assert isinstance(visualizer, MultiTaskVisualizer)


def test_draws_truth_and_prediction_in_a_fixed_order_of_tasks():
    image, sample = scene()
    rows = {'truth': in_table_order(sample.gt), 'prediction': in_table_order(sample.pred)}
    visualizer = MultiTaskVisualizer('drawing')
    visualizer.add_datasample('a', image, sample)
    np.testing.assert_array_equal(visualizer.get_image(), draw_multi_task(image, rows, 'a'))


@pytest.mark.parametrize(
    'sides,options,rows',
    [
        (('pred',), {}, ['prediction']),
        (('gt',), {}, ['truth']),
        ((), {}, []),
        (('gt', 'pred'), {'draw_gt': False}, ['prediction']),
        (('gt', 'pred'), {'draw_pred': False}, ['truth']),
    ],
)
def test_draws_what_is_there_and_wanted(sides, options, rows):
    image, sample = scene(sides)
    maps = {'truth': 'gt', 'prediction': 'pred'}
    expected = draw_multi_task(image, {row: in_table_order(sample.get(maps[row])) for row in rows}, None)
    np.testing.assert_array_equal(MultiTaskVisualizer.draw_datasample(image, sample, **options), expected)


def test_classes_are_drawn_in_the_colours_of_the_data_set():
    image, sample = scene(('gt',))
    visualizer = MultiTaskVisualizer('palettes')
    visualizer.dataset_meta = dict(palette=[(9 * index, 0, 0) for index in range(21)])
    visualizer.add_datasample('a', image, sample)
    rows = {'truth': in_table_order(sample.gt)}
    expected = draw_multi_task(image, rows, 'a', meta=visualizer.dataset_meta)
    np.testing.assert_array_equal(visualizer.get_image(), expected)
    assert not np.array_equal(expected, draw_multi_task(image, rows, 'a'))


def test_normals_are_drawn_by_the_axes_of_the_sample():
    image, sample = scene(('gt',))
    sample.set_metainfo(dict(normals_x='right', normals_y='up'))
    drawn = MultiTaskVisualizer.draw_datasample(image, sample)
    normals = sample.gt.normals.clone()
    normals[0] *= -1
    sample.gt.normals = normals
    sample.set_metainfo(dict(normals_x='left'))
    np.testing.assert_array_equal(drawn, MultiTaskVisualizer.draw_datasample(image, sample))


def test_image_alone():
    image, _ = scene(())
    np.testing.assert_array_equal(MultiTaskVisualizer.draw_datasample(image), draw_multi_task(image, {}))


@pytest.mark.parametrize('suffix,tolerance', [('png', 0), ('jpg', 2)])
def test_out_file(tmp_path, suffix, tolerance):
    image = np.full((128, 140, 3), (200, 90, 20), np.uint8)
    visualizer = MultiTaskVisualizer('files', vis_backends=[{'type': 'LocalVisBackend'}], save_dir=str(tmp_path))
    path = tmp_path / 'new' / f'a.{suffix}'
    visualizer.add_datasample('a', image, out_file=path)
    written = mmcv.imread(path, channel_order='rgb').astype(int)
    expected = MultiTaskVisualizer.draw_datasample(image, title='a').astype(int)
    assert np.abs(written - expected).mean() <= tolerance
    assert not list(tmp_path.rglob('vis_image'))


def test_backends_get_the_picture(tmp_path):
    image, sample = scene()
    backends = [{'type': 'LocalVisBackend'}, {'type': 'TensorboardVisBackend'}]
    visualizer = MultiTaskVisualizer('backends', vis_backends=backends, save_dir=str(tmp_path))
    visualizer.add_datasample('val_a', image, sample, step=7)
    visualizer.close()

    expected = MultiTaskVisualizer.draw_datasample(image, sample, title='val_a')
    local = mmcv.imread(tmp_path / 'vis_data' / 'vis_image' / 'val_a_7.png', channel_order='rgb')
    np.testing.assert_array_equal(local, expected)

    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    (events,) = (tmp_path / 'vis_data').glob('events*')
    reader = accumulator.EventAccumulator(str(events)).Reload()
    (event,) = reader.Images('val_a')
    assert event.step == 7
    picture = mmcv.imfrombytes(event.encoded_image_string, channel_order='rgb')
    np.testing.assert_array_equal(picture, expected)


def test_show_opens_a_window_with_the_picture(monkeypatch):
    image, sample = scene()
    shown = []
    monkeypatch.setattr(MultiTaskVisualizer, 'show', lambda self, *args, **kwargs: shown.append((args, kwargs)))
    MultiTaskVisualizer('window').add_datasample('a', image, sample, show=True, wait_time=0.5)
    ((picture,), options) = shown[0]
    assert options == {'win_name': 'a', 'wait_time': 0.5}
    np.testing.assert_array_equal(picture, MultiTaskVisualizer.draw_datasample(image, sample, title='a'))


def test_every_rank_writes_files_and_rank_0_feeds_the_backends(tmp_path):
    run_ranks(write_on_rank, 2, str(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob('*.png')) == ['backend_0_0.png', 'file_0.png', 'file_1.png']


def test_predictions_on_another_size_than_the_image():
    _, sample = scene()
    large = np.zeros((256, 280, 3), np.uint8)
    picture = MultiTaskVisualizer.draw_datasample(large, sample)
    assert picture.shape[0] > 2 * 256
    assert isinstance(sample.pred.normals, torch.Tensor)
