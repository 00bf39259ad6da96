import json

import pytest

from mmvmt.structures import read_json, read_text

ENCODINGS = ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32']


@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('line_end', ['\n', '\r\n', '\r'])
def test_text_of_any_system(tmp_path, encoding, line_end):
    path = tmp_path / 'list.txt'
    path.write_bytes(line_end.join(['Bäume', '人', '']).encode(encoding))
    assert read_text(path) == 'Bäume\n人\n'


@pytest.mark.parametrize(
    'mark, encoding',
    [(b'\xff\xfe', 'utf-16-le'), (b'\xfe\xff', 'utf-16-be'), (b'\xff\xfe\0\0', 'utf-32-le')],
)
def test_either_order_of_bytes(tmp_path, mark, encoding):
    (tmp_path / 'list.txt').write_bytes(mark + 'a\nb'.encode(encoding))
    assert read_text(tmp_path / 'list.txt') == 'a\nb'


@pytest.mark.parametrize('data', ['ä'.encode('latin-1'), 'a\n'.encode('utf-16-le'), b'\xff\xfe\x00', b'\x89PNG'])
def test_other_encodings_are_refused_with_the_name_and_the_remedy(tmp_path, data):
    path = tmp_path / 'list.txt'
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf'{path} .*save it as UTF-8'):
        read_text(path)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_json_of_any_system(tmp_path, encoding):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps({'ä': [1, 2]}, indent=1, ensure_ascii=False), encoding, newline='\r\n')
    assert read_json(path) == {'ä': [1, 2]}


def test_broken_json_is_named(tmp_path):
    path = tmp_path / 'file.json'
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=rf'{path} is not valid JSON: .*line 1'):
        read_json(path)
