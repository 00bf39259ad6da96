import pytest
from pascal_mt_folder import build_folder


@pytest.fixture
def pascal_mt(tmp_path):
    return build_folder(tmp_path / 'PASCAL_MT')
