import json

import commands
import pytest

TASKS = ('semseg', 'human_parts', 'saliency')


def test_a_perfect_prediction_is_perfect_on_the_aligned_truth_alone(scenes):
    run = commands.run('tools/analysis/perfect_prediction.py', scenes, '--size', '110', '150', '--json')
    figures = json.loads(run.stdout.splitlines()[-1])
    aligned, published = figures['aligned'], figures['published']
    assert [aligned[f'{task}/mIoU'] for task in TASKS] == [100, 100, 100]
    # Vectors between two surfaces, one of which does not count, are the only ones that differ.
    assert aligned['normals/mean'] < 0.5
    # A grid that is up to half a pixel off, and directions interpolated towards zeros and beyond.
    assert all(published[f'{task}/mIoU'] < 99.9 for task in TASKS)
    assert published['normals/mean'] > aligned['normals/mean'] + 1
    assert published['known'] > 1.02 * aligned['known']
    row = [f'{published[f"{task}/mIoU"]:.2f}' for task in TASKS]
    assert all(figure in run.stdout for figure in row)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (('nowhere',), 'folder nowhere does not exist'),
        (('.', '--size', '0'), '--size takes one or two positive numbers of pixels'),
        (('.', '--size', '4', '4', '4'), '--size takes one or two positive numbers of pixels'),
    ],
)
def test_wrong_arguments(arguments, message):
    failed = commands.run('tools/analysis/perfect_prediction.py', *arguments, check=False)
    assert failed.returncode != 0
    assert message in failed.stderr
