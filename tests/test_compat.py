"""What differs between the distributions and between releases of PyTorch: each way is tested wherever the tests run."""

import sys
from itertools import islice
from types import SimpleNamespace

import commands
import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config, get_model
from mmengine.utils import get_installed_path, is_installed
from torch.utils.data import DataLoader

import mmvmt
from mmvmt import compat
from mmvmt.datasets.samplers import SeededInfiniteSampler
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


class Allowed:
    """Something that a file may hold inside the block alone."""


@pytest.mark.parametrize('release', ['installed', '2.4'])
def test_globals_are_safe_inside_the_block_alone(release, tmp_path, monkeypatch):
    if release == '2.4':
        monkeypatch.delattr(torch.serialization, 'safe_globals', raising=False)
    before = set(torch.serialization.get_safe_globals())
    torch.save(Allowed(), tmp_path / 'object.pth')
    with compat.safe_globals([Allowed]):
        assert isinstance(torch.load(tmp_path / 'object.pth', weights_only=True), Allowed)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match='Allowed'):
        torch.load(tmp_path / 'object.pth', weights_only=True)


class Numbers:
    """A data set that remembers what was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 7

    def __getitem__(self, index):
        self.read.append(int(index))
        return int(index)


class DrawsAtOnce:
    """Batches as upstream's loop has them: drawn from the moment it is built."""

    def __init__(self, dataloader):
        self.batches = iter(dataloader)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.batches)


def loop_of(seed, workers):
    numbers = Numbers()
    sampler = SeededInfiniteSampler(numbers, seed=seed)
    dataloader = DataLoader(numbers, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=list)
    return SimpleNamespace(dataloader=dataloader, dataloader_iterator=DrawsAtOnce(dataloader), iter=0), sampler


@pytest.mark.parametrize('workers', [0, 1])
def test_a_resumed_loop_draws_by_the_seed_of_its_run(workers):
    whole = list(islice(loop_of(5, workers)[0].dataloader_iterator, 9))
    loop, sampler = loop_of(6, workers)
    loop.iter, sampler.seed = 4, 5
    compat.resume_batches(loop, sampler)
    assert list(islice(loop.dataloader_iterator, 9)) == [None] * 4 + whole[4:]
    if not workers:
        assert loop.dataloader.dataset.read == [number for batch in whole[4:] for number in batch]


@pytest.mark.parametrize('workers', [0, 1])
def test_a_loop_that_starts_with_the_seed_of_its_rank_draws_by_that_of_all(workers):
    whole = list(islice(loop_of(5, workers)[0].dataloader_iterator, 6))
    loop, sampler = loop_of(6, workers)
    sampler.seed = 5
    compat.resume_batches(loop, sampler, reseeded=True)
    assert list(islice(loop.dataloader_iterator, 6)) == whole


def test_a_loop_that_starts_or_skips_by_itself_is_left_alone():
    loop, sampler = loop_of(5, 0)
    drawing = loop.dataloader_iterator
    compat.resume_batches(loop, sampler)
    assert loop.dataloader_iterator is drawing
    loop.iter, drawing.skip_iter = 4, sampler.skip
    compat.resume_batches(loop, sampler)
    assert loop.dataloader_iterator is drawing
    assert sampler.start == 0
