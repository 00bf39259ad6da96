import shutil

import pytest

from mmvmt.datasets import PASCALContextMT
from mmvmt.datasets.integrity import FileReport, check_sample, describe_layout


def info(folder, index=0, tasks=PASCALContextMT.TASKS):
    return PASCALContextMT(str(folder.root), tasks=tasks, test_mode=True).get_data_info(index)


def test_reports_add_up():
    total = FileReport()
    for low, high, seen in ((3, 7, {0: 5}), (1, 4, {0: 2, 8: 1})):
        report = FileReport(files=1, read=1, missing=['m'], unreadable=['u'])
        report.add_range('width', low, high)
        report.classes.update(seen)
        report.totals.update(pixels=10)
        total.add(report)
    assert (total.files, total.read, total.missing, total.unreadable) == (2, 2, ['m', 'm'], ['u', 'u'])
    assert total.ranges == {'width': (1, 7)}
    assert dict(total.classes) == {0: 7, 8: 1}
    assert total.totals['pixels'] == 20


def test_a_sample_is_measured(pascal_mt):
    reports = check_sample(info(pascal_mt), deep=True)
    assert set(reports) == {'image', *PASCALContextMT.TASKS}
    assert all((report.files, report.read) == (1, 1) for report in reports.values())
    semseg = pascal_mt.semseg[pascal_mt.train[0]]
    assert reports['semseg'].classes == {int(c): int((semseg == c).sum()) for c in set(semseg.ravel().tolist())}
    assert reports['normals'].totals['known'] == 25 * 60
    assert reports['image'].ranges == {'height': (40, 40), 'width': (60, 60)}


def test_a_shallow_look_decodes_nothing(pascal_mt):
    pascal_mt.path('semseg', pascal_mt.train[0]).write_bytes(b'')
    pascal_mt.path('normals', pascal_mt.train[0]).unlink()
    reports = check_sample(info(pascal_mt), deep=False)
    assert not any(report.read or report.unreadable for report in reports.values())
    assert {name for name, report in reports.items() if report.missing} == {'normals'}


def test_labels_are_not_judged_without_their_image(pascal_mt):
    pascal_mt.path('image', pascal_mt.train[0]).write_bytes(b'')
    reports = check_sample(info(pascal_mt, tasks=['semseg']), deep=True)
    assert len(reports['image'].unreadable) == 1
    assert (reports['semseg'].read, reports['semseg'].unreadable) == (0, [])


def test_images_without_parts_are_readable(pascal_mt):
    report = check_sample(info(pascal_mt, index=1, tasks=['human_parts']), deep=True)['human_parts']
    assert (report.read, report.totals['labelled_images']) == (1, 0)


@pytest.mark.parametrize('absent, rest', [('VOC12', 'pascal-context'), ('pascal-context', 'VOC12'), (None, None)])
def test_layout_names_the_editions_of_semseg(pascal_mt, absent, rest):
    if absent:
        shutil.rmtree(pascal_mt.root / 'semseg' / absent)
    origin = f'semseg/{rest}' if absent else 'semseg/VOC12, else semseg/pascal-context'
    assert describe_layout(pascal_mt.root) == (
        PASCALContextMT,
        f'PASCAL_MT: PASCAL-Context for several tasks, in the layout of ASTMT (semseg from {origin})',
    )


def test_layout_of_a_missing_folder(tmp_path):
    assert describe_layout(tmp_path / 'nowhere') == (None, f'{tmp_path / "nowhere"} is no folder')
