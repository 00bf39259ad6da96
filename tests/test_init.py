"""What ``import mmvmt`` gives, and what it leaves for later."""

import commands
import pytest

import mmvmt
from mmvmt.apis.tasks import add_task, remove_task
from mmvmt.engine.adapter_file import load_adapter, save_adapter


def test_functions_of_the_top_level():
    assert (mmvmt.load_adapter, mmvmt.save_adapter) == (load_adapter, save_adapter)
    assert (mmvmt.add_task, mmvmt.remove_task) == (add_task, remove_task)
    assert all(hasattr(mmvmt, name) for name in mmvmt.__all__)
    with pytest.raises(AttributeError, match="module 'mmvmt' has no attribute 'load_adaptor'"):
        mmvmt.load_adaptor  # noqa: B018


def test_importing_the_package_imports_no_model():
    code = "import mmvmt, sys; print(sorted({'mmseg', 'mmcv', 'safetensors', 'mmvmt.models'} & set(sys.modules)))"
    assert commands.run('-c', code).stdout.strip() == '[]'
