"""model-index.yml and the metafiles: complete, as modelindex wants them, and found by mmengine under their names.

Whether the parameters in them are those of the models is tested where the models are built.
"""

import re
from pathlib import Path

import modelindex
import pytest
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.infer import BaseInferencer

import mmvmt  # noqa: F401

ROOT = Path(__file__).parents[2]
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
METAFILES = [yaml.safe_load((ROOT / path).read_text(encoding='utf-8')) for path in INDEX['Import']]
MODELS = [model for metafile in METAFILES for model in metafile['Models']]
COLLECTIONS = [collection for metafile in METAFILES for collection in metafile.get('Collections', ())]


def test_every_config_has_one_entry():
    configs = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts}
    named = [model['Config'] for model in MODELS]
    assert sorted(named) == sorted(configs)
    assert len(named) > 50
    names = [model['Name'] for model in MODELS]
    assert len(set(names)) == len(names)


def test_every_folder_of_configs_has_a_metafile():
    folders = {p.name for p in (ROOT / 'configs').iterdir() if p.is_dir()} - {'_base_'}
    assert [Path(path).parent.name for path in INDEX['Import']] == sorted(folders)


def test_every_model_is_in_a_collection_and_every_collection_has_a_paper_and_a_page():
    names = [collection['Name'] for collection in COLLECTIONS]
    assert len(set(names)) == len(names)
    assert {model['In Collection'] for model in MODELS} == set(names)
    for collection in COLLECTIONS:
        number = re.fullmatch(r'https://arxiv\.org/abs/(\d{4}\.\d{5})', collection['Paper']['URL'])[1]
        # Relative to the metafile, all of which stand in folders of one depth.
        page = (ROOT / 'configs' / 'vmt' / collection['README']).read_text(encoding='utf-8')
        if collection['Name'] != 'Swin Transformer':
            assert number in page
            assert collection['Paper']['Title'].partition(':')[0].lower() in re.sub(r'\s+', ' ', page).lower()


def test_modelindex_has_no_complaint():
    loaded = modelindex.load(str(ROOT / 'model-index.yml'))
    loaded.build_models_with_collections()
    assert [str(error) for error in loaded.check(silent=True)] == []
    assert len(loaded.models) == len(MODELS)


@pytest.mark.parametrize('name', ['vmt/swin_t_pascal.py', 'interop/upernet_swin_t_vmt_ade20k.py'])
def test_mmengines_hub_finds_a_config(name):
    assert get_config(f'mmvmt::{name}').model == Config.fromfile(ROOT / 'configs' / name).model


def test_mmengines_inferencers_find_the_names():
    found = list(BaseInferencer._get_models_from_metafile(BaseInferencer._get_repo_or_mim_dir('mmvmt')))
    assert {model['Name'] for model in found} == {model['Name'] for model in MODELS}
