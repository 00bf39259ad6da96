import numpy as np
import pytest
from nyud_folder import EDITIONS, SPLITS, build_folder
from scipy.io import savemat

from mmvmt.datasets import NYUDv2MT

PIPELINE = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]


@pytest.fixture(params=EDITIONS)
def nyud(request, tmp_path):
    return build_folder(tmp_path / 'NYUD_MT', request.param)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_each_archive_gives_the_same_maps(nyud, split):
    dataset = NYUDv2MT(str(nyud.root), split=split, pipeline=PIPELINE)
    assert [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))] == list(SPLITS[split])
    for index, img_id in enumerate(SPLITS[split]):
        sample, expected = dataset[index]['data_samples'], nyud.maps[img_id]
        np.testing.assert_array_equal(sample.gt.semseg[0], expected['semseg'])
        np.testing.assert_array_equal(sample.gt.edge[0], expected['edge'])
        np.testing.assert_allclose(sample.gt.depth[0], expected['depth'], rtol=1e-6)
        known = expected['normals'].any(axis=2)
        assert not known[:8].any()
        normals = sample.gt.normals.numpy().transpose(1, 2, 0)
        if nyud.edition == 'astmt':  # JPEG blurs the border of what is unknown
            assert not normals[:7].any()
            known[:9] = False
        else:
            assert not normals[:8].any()
        cosine = (normals * expected['normals']).sum(axis=2)[known]
        assert np.degrees(np.arccos(cosine.clip(max=1))).max() < (0.1 if nyud.edition == 'mtinet' else 1)
    assert (sample.normals_x, sample.normals_y) == ('left', 'up')
    assert sample.num_classes['semseg'] == 40


def test_a_folder_with_files_of_several_archives(tmp_path):
    folder = build_folder(tmp_path / 'a', 'mtinet')
    other = build_folder(tmp_path / 'b', 'astmt')
    for task in ('segmentation', 'depth', 'edge'):
        folder.path(task, '0003').unlink()
        path = other.path(task, '0003')
        path.rename(folder.root / task / path.name)
    sample = NYUDv2MT(str(folder.root), pipeline=PIPELINE)[0]['data_samples']
    for task in ('semseg', 'depth', 'edge'):
        np.testing.assert_allclose(sample.gt.get(task)[0], other.maps['0003'][task], rtol=1e-6)


def test_the_classes_of_astmt(tmp_path):
    folder = build_folder(tmp_path / 'NYUD_MT', 'astmt')
    labels = dict(semseg=dict(path='segmentation/{id}.mat', key='segmentation'))
    names = [f'class {index}' for index in range(41)]
    arguments = dict(tasks=['semseg'], labels=labels, metainfo=dict(classes=names), pipeline=PIPELINE)
    sample = NYUDv2MT(str(folder.root), **arguments)[0]['data_samples']
    shifted = folder.maps['0003']['semseg'].astype(np.uint8) + np.uint8(1)  # 255 becomes 0
    np.testing.assert_array_equal(sample.gt.semseg[0], shifted)
    assert sample.num_classes['semseg'] == 41


def test_names_of_classes():
    classes = NYUDv2MT.METAINFO['classes']
    assert len(classes) == len(set(classes)) == len(NYUDv2MT.METAINFO['palette']) == 40
    assert (classes[0], classes[17], classes[39]) == ('wall', 'pillow', 'other prop')


def test_missing_and_damaged_files(tmp_path):
    folder = build_folder(tmp_path / 'NYUD_MT', 'astmt')
    folder.path('depth', '0003').unlink()
    dataset = NYUDv2MT(str(folder.root), pipeline=PIPELINE)
    with pytest.raises(FileNotFoundError, match=r'depth/0003\.npy or .*depth/0003\.mat'):
        dataset[0]
    savemat(folder.path('depth', '0003'), {'depths': np.ones((40, 60))})
    with pytest.raises(ValueError, match=r"depth/0003\.mat has no variable 'depth'"):
        dataset[0]
    savemat(folder.path('segmentation', '0004'), {'segmentation': np.full((40, 60), 41.0)})
    with pytest.raises(ValueError, match=r'segmentation/0004\.mat holds the class 40 at pixel .* classes are 0 to 39'):
        dataset[1]
    with pytest.raises(ValueError, match="NYUD-v2 has no labels for task 'saliency'; it has semseg, depth, normals"):
        NYUDv2MT(str(folder.root), tasks=['saliency'])
    with pytest.raises(ValueError, match="split must be 'train' or 'val', got 'test'"):
        NYUDv2MT(str(folder.root), split='test')
