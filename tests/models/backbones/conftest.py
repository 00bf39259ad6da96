import pytest

from mmvmt.registry import ADAPTERS


@pytest.fixture
def registered():
    """Register toy methods for one test."""
    names = []

    def register(method):
        ADAPTERS.register_module(module=method)
        names.append(method.__name__)
        return method

    yield register
    for name in names:
        del ADAPTERS.module_dict[name]
