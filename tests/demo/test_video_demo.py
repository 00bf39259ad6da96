import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import tiny_model

from mmvmt.apis import MultiTaskInferencer

DEMO = Path(__file__).parents[2] / 'demo'
FRAMES, SIZE = 7, (50, 38)  # width, height


@pytest.fixture(scope='module')
def demo():
    spec = importlib.util.spec_from_file_location('video_demo', DEMO / 'video_demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def inferencer(demo, monkeypatch):
    """Stands in for the one that the arguments name."""
    inferencer = MultiTaskInferencer(tiny_model(), tasks=['semseg', 'saliency'], show_progress=False)
    monkeypatch.setattr(demo, 'build_inferencer', lambda args, show_progress: inferencer)
    return inferencer


@pytest.fixture
def film(tmp_path):
    """Frames that become lighter."""
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12.5, SIZE)
    for index in range(FRAMES):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 30 * index, np.uint8))
    writer.release()
    return path


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return frames, rate


@pytest.mark.parametrize('suffix, batch_size', [('.mp4', 1), ('.avi', 3)])
def test_every_frame_with_its_maps(suffix, batch_size, demo, inferencer, film, tmp_path, capsys):
    out = tmp_path / 'folder' / f'maps{suffix}'
    arguments = [str(film), 'config.py', 'model.pth', '--out', str(out), '--columns', '3']
    assert demo.main([*arguments, '--batch-size', str(batch_size)]) == 0
    assert f'{FRAMES} frames at 12.5 per second' in capsys.readouterr().out
    frames, rate = frames_of(out)
    assert (len(frames), rate) == (FRAMES, 12.5)
    assert frames[0].shape[1] == 3 * SIZE[0]
    assert frames[0].shape[0] > SIZE[1]
    cells = [frame[-SIZE[1] + 5 : -5, 5 : SIZE[0] - 5] for frame in frames]
    assert [abs(cell.mean() - 30 * index) < 6 for index, cell in enumerate(cells)] == [True] * FRAMES


def test_frames_are_read_in_batches(demo, film):
    opened = demo.Film(str(film))
    assert (opened.declared_frames, opened.frame_rate) == (FRAMES, 12.5)
    assert [len(batch) for batch in opened.batches(3)] == [3, 3, 1]
    opened.close()


def test_frame_rate_and_colours_of_depth(demo, film, tmp_path, monkeypatch):
    model = tiny_model(('depth',))
    with torch.no_grad():
        model.heads['depth'].predictor.bias.fill_(5)
    inferencer = MultiTaskInferencer(model, show_progress=False)
    monkeypatch.setattr(demo, 'build_inferencer', lambda args, show_progress: inferencer)
    means = []
    for far in ('0.1', '1000'):
        out = tmp_path / f'{far}.avi'
        options = ['--frame-rate', '5', '--depth-range', '0', far]
        assert demo.main([str(film), 'config.py', 'model.pth', '--out', str(out), *options]) == 0
        frames, rate = frames_of(out)
        assert rate == 5
        means.append(frames[0][-30:, SIZE[0] + 5 :].mean())
    assert means[0] > means[1] + 20


def test_a_film_whose_frames_change_their_size_is_refused(demo, inferencer, tmp_path):
    class Changing(demo.Film):
        def batches(self, size):
            frames = list(super().batches(1))
            yield frames[0]
            yield [np.ascontiguousarray(frame[::2, ::2]) for frame in frames[1]]

    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, SIZE)
    for _ in range(2):
        writer.write(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    writer.release()
    with pytest.raises(ValueError, match=r'changes its size at frame 2, to 25 x 19 pixels'):
        demo.convert(Changing(str(path)), inferencer, tmp_path / 'out.avi', 5)


def test_films_that_cannot_be_read_or_written(demo, inferencer, film, tmp_path, capsys):
    def message_of(video, out):
        assert demo.main([str(video), 'config.py', 'model.pth', '--out', str(out)]) == 2
        return capsys.readouterr().err

    out = tmp_path / 'out.mp4'
    assert "no.mp4' does not exist" in message_of(tmp_path / 'no.mp4', out)
    (tmp_path / 'text.mp4').write_text('no film')
    assert "text.mp4' cannot be opened" in message_of(tmp_path / 'text.mp4', out)
    assert 'is the film itself' in message_of(film, film)
    (tmp_path / 'taken.mp4').mkdir()
    assert 'cannot be written' in message_of(film, tmp_path / 'taken.mp4')
    with pytest.raises(SystemExit, match='2'):
        demo.main([str(film), 'config.py', 'model.pth', '--out', 'maps.gif'])
    assert '--out must end in .mp4' in capsys.readouterr().err
