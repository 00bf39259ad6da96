"""Configs of installed packages resolve once mmvmt is imported; missing operators are explained."""

import sys

import commands
import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config, get_model
from mmengine.utils import get_installed_path, is_installed

import mmvmt
from mmvmt import compat
from mmvmt.models import MultiTaskEncoderDecoder

UPERNET = 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'


@pytest.mark.parametrize(
    'base, scope, backbone',
    [
        (f'mmseg::{UPERNET}', 'mmseg', 'SwinTransformer'),
        ('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', 'mmpretrain', 'SwinTransformer'),
        ('mmvmt::vmt/swin_t_pascal.py', 'mmvmt', 'mmvmt.AdaptedSwin'),
    ],
)
def test_bases_of_packages_resolve(base, scope, backbone, tmp_path):
    (tmp_path / 'child.py').write_text(f'_base_ = {base!r}\n')
    cfg = Config.fromfile(tmp_path / 'child.py')
    assert cfg.default_scope == scope
    assert cfg.model.backbone.type == backbone
    assert get_config(base).model.backbone.type == backbone


def test_importing_mmvmt_is_what_makes_them_resolve(tmp_path):
    (tmp_path / 'child.py').write_text("_base_ = 'mmvmt::vmt/swin_t_pascal.py'\n")
    read = f'from mmengine.config import Config; print(Config.fromfile({str(tmp_path / "child.py")!r}).model.type)'
    assert commands.run('-c', read, check=False).returncode != 0
    assert commands.run('-c', f'import mmvmt; {read}').stdout.split() == ['mmvmt.MultiTaskEncoderDecoder']


def test_mmengines_hub_builds_a_model():
    assert isinstance(get_model('mmvmt::vmt/swin_nano_synthetic.py'), MultiTaskEncoderDecoder)


def test_only_distributions_that_are_not_installed_are_renamed(monkeypatch):
    table = {'json': 'a-distribution-that-nobody-has', 'pytest': 'pytest', 'not_a_module': 'nor-a-distribution'}
    monkeypatch.setattr(compat, 'MODULE2PACKAGE', table)
    compat.register_config_packages()
    assert table == {
        'json': 'json',
        'pytest': 'pytest',
        'not_a_module': 'nor-a-distribution',
        'mmvmt': 'mmvmt.version',
    }
    compat.register_config_packages()
    assert table['json'] == 'json'


def test_the_folder_of_mmvmt_is_that_of_the_imported_package():
    assert is_installed(MODULE2PACKAGE['mmvmt'])
    assert get_installed_path(MODULE2PACKAGE['mmvmt']) == mmvmt.__path__[0]


def test_missing_operators_are_explained_where_mmseg_would_fail():
    """Importing mmvmt alone stays possible: rendering scenes and checking a data set need no operators."""
    script = "import sys; sys.modules['mmcv.ops'] = None; import mmvmt; print('imported'); import mmvmt.models"
    failed = commands.run('-c', script, check=False)
    assert failed.stdout.split() == ['imported']
    message = failed.stderr.strip().splitlines()[-1]
    assert message.startswith('ImportError: mmseg.models needs the compiled operators of mmcv')
    assert '--no-build-isolation' in message
    assert 'tools/dev/check_operators.py' in message


def test_operators_name_who_needs_them(monkeypatch):
    assert compat.operators('a head').__name__ == 'mmcv.ops'
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(ImportError, match='a head needs the compiled operators of mmcv'):
        compat.operators('a head')
