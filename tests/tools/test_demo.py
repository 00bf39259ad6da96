import json
import shlex

import commands
import cv2


def test_the_demo_goes_from_nothing_to_a_table_and_a_picture(tmp_path):
    arguments = ['tools/demo.py', '--out', tmp_path, '--train', 12, '--val', 6, '--objects', 2]
    arguments += ['--pretrain-iters', 2, '--iters', 2]
    first = commands.run(*arguments)
    assert 'VMT-Adapter' in first.stdout
    assert 'decoders only' in first.stdout
    record = json.loads((tmp_path / 'results.json').read_text())
    assert [row['method'] for row in record['rows']] == ['constant predictor', 'decoders only', 'VMT-Adapter']
    assert record['rows'][1]['delta_m'] == [0.0]
    assert record['parameters']['VMT-Adapter']['adapters'] > 0
    assert record['parameters']['decoders only']['adapters'] == 0
    assert cv2.imread(str(tmp_path / 'predictions.png')) is not None
    assert len((tmp_path / 'results.md').read_text().splitlines()) == 5

    lines = first.stdout.partition('What to do with the trained model:')[2].splitlines()
    printed = [line.strip() for line in lines if line.startswith('    ')]
    assert [shlex.split(command)[1] for command in printed] == ['demo/image_demo.py']
    for command in printed:
        commands.run_command(shlex.split(command))
    (drawn,) = (tmp_path / 'image_demo' / 'pictures').iterdir()
    assert cv2.imread(str(drawn)) is not None

    again = commands.run(*arguments)
    assert again.stdout.count('done before') == 7


def test_a_failing_stage_shows_its_log(tmp_path):
    result = commands.run('tools/demo.py', '--out', tmp_path, '--train', 0, check=False)
    assert result.returncode != 0
    assert 'Rendering scenes failed with exit code' in result.stderr
