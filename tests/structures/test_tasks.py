import pytest

from mmvmt.structures import TASKS, check_tasks


def test_names_kinds_and_directions():
    assert {name: (task.kind, task.channels, task.ignore) for name, task in TASKS.items()} == {
        'semseg': ('classes', 1, 255),
        'human_parts': ('classes', 1, 255),
        'saliency': ('binary', 1, 255),
        'normals': ('vectors', 3, 0),
        'edge': ('binary', 1, 255),
        'depth': ('metric', 1, 0),
    }
    assert [name for name, task in TASKS.items() if not task.higher_is_better] == ['normals', 'depth']
    assert TASKS['semseg'].gt_key == 'gt_semseg'


def test_order_is_kept():
    assert check_tasks(['normals', 'semseg']) == ('normals', 'semseg')


@pytest.mark.parametrize(
    'tasks, error, message',
    [
        (['parts'], ValueError, "unknown task 'parts'; known tasks are semseg, human_parts"),
        (['edge', 'edge'], ValueError, r"task 'edge' is listed twice in \['edge', 'edge'\]"),
        ([], ValueError, 'tasks is empty'),
        ('edge', TypeError, r"write \['edge'\]"),
    ],
)
def test_wrong_lists(tasks, error, message):
    with pytest.raises(error, match=message):
        check_tasks(tasks)
