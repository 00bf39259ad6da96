import pytest

from mmvmt.apis.pictures import list_pictures


def test_names_keep_folders_and_tell_suffixes_apart(tmp_path):
    for name in ('x/one.png', 'y/one.png', 'y/two.png', 'y/two.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [picture.name for picture in list_pictures(str(tmp_path / '**/*.*'))]
    assert names == ['x/one', 'y/one', 'y/two.jpg', 'y/two.png']
    with pytest.raises(ValueError, match=r"picture 'one\.png' is named twice"):
        list_pictures([tmp_path / 'x/one.png', tmp_path / 'x' / '..' / 'x/one.png'])
