import pytest
import torch
from commands import run
from safetensors.torch import load_file


@pytest.fixture
def checkpoint(tmp_path):
    state = {
        'encoders.nano.backbone.norm.weight': torch.tensor([0.1, 3.0]),
        'encoders.nano.backbone.index': torch.arange(3),
        'encoders.nano.linear.weight': torch.zeros(2, 2),
        'encoders.pico.backbone.norm.weight': torch.tensor([1.0]),
    }
    torch.save(dict(state_dict=state, meta=dict(iter=3)), tmp_path / 'iter_3.pth')
    return tmp_path / 'iter_3.pth'


def test_encoders_are_written_in_half_precision_without_their_classifier(checkpoint, tmp_path):
    said = run('tools/model_converters/export_encoders.py', checkpoint, tmp_path / 'out').stdout
    nano = load_file(tmp_path / 'out/swin_nano.safetensors')
    assert nano.keys() == {'norm.weight', 'index'}
    assert torch.equal(nano['norm.weight'], torch.tensor([0.1, 3.0]).half())
    assert nano['index'].dtype == torch.int64
    assert load_file(tmp_path / 'out/swin_pico.safetensors').keys() == {'norm.weight'}
    assert 'sha256' in said


@pytest.mark.parametrize(
    'names, change, message',
    [
        (['tera'], {}, 'holds no encoder tera; it holds nano, pico'),
        ([], {'encoders.nano.backbone.norm.weight': torch.tensor([1e30])}, 'half precision does not have'),
        (['nano'], None, 'is of no AttributeClassifier'),
    ],
)
def test_refusals_write_nothing(checkpoint, tmp_path, names, change, message):
    content = torch.load(checkpoint)
    content['state_dict'] = {'backbone.x': torch.ones(1)} if change is None else content['state_dict'] | change
    torch.save(content, checkpoint)
    done = run('tools/model_converters/export_encoders.py', checkpoint, tmp_path / 'out', *names, check=False)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert not (tmp_path / 'out').exists()
