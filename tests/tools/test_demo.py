import importlib.util
import json
import shlex
import sys
from pathlib import Path

import commands
import cv2
import pytest

from mmvmt.engine.adapter_file import read_adapter


def run_printed(command, *more):
    """Run a command that the demo has printed, and give its output."""
    interpreter, *arguments = shlex.split(command)
    assert (commands.ROOT / interpreter).samefile(sys.executable)
    return commands.run(*arguments, *more).stdout


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('demo', commands.ROOT / 'tools' / 'demo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_ends_with_a_table_and_a_picture(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'start', commands.Forked)
    arguments = ['--out', tmp_path, '--train', 12, '--val', 6, '--iters', 2]
    arguments = [str(argument) for argument in arguments]
    assert tool.main(arguments) == 0
    first = capsys.readouterr().out
    assert 'VMT-Adapter' in first
    assert 'decoders only' in first
    record = json.loads((tmp_path / 'results.json').read_text())
    assert [row['method'] for row in record['rows']] == ['constant predictor', 'decoders only', 'VMT-Adapter']
    assert record['rows'][1]['delta_m'] == [0.0]
    assert record['parameters']['VMT-Adapter']['adapters'] > 0
    assert record['parameters']['decoders only']['adapters'] == 0
    assert cv2.imread(str(tmp_path / 'predictions.png')) is not None
    assert len((tmp_path / 'results.md').read_text().splitlines()) == 5

    lines = first.partition('What to do with the trained model:')[2].splitlines()
    printed = [line.strip() for line in lines if line.startswith('    ')]
    maps, export, test, add, page = printed
    run_printed(maps)
    (drawn,) = (tmp_path / 'image_demo' / 'pictures').iterdir()
    assert cv2.imread(str(drawn)) is not None

    run_printed(export)
    adapter = shlex.split(export)[4]
    figures = record['runs']['VMT-Adapter'][0]['metrics']
    assert read_adapter(adapter).manifest['metrics'] == pytest.approx(figures)
    assert shlex.split(test)[3] == adapter
    run_printed(test)
    again = json.loads((Path(adapter).parent / 'adapter_results' / 'metrics.json').read_text())
    assert (again['checkpoint'], again['metrics']) == (adapter, pytest.approx(figures))
    assert run_printed(add).count('outputs on 6 images identical before and after, bit for bit') == 4
    assert (tmp_path / 'depth' / 'model.pth').is_file()
    assert shlex.split(page)[1] == 'demo/web.py'
    assert 'usage:' in run_printed(page, '--help')

    assert tool.main(arguments) == 0
    assert capsys.readouterr().out.count('done before') == 8


def test_a_failing_stage_shows_its_log(tmp_path):
    result = commands.run('tools/demo.py', '--out', tmp_path, '--train', 0, check=False)
    assert result.returncode != 0
    assert 'Rendering scenes failed with exit code' in result.stderr
