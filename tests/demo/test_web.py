"""The web page: its parts, and the page in a headless browser where gradio, selenium and Chromium are installed."""

import importlib.util
import json
import re
import shutil
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

import commands
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from tiny import FOUR_TASKS, tiny_model

from mmvmt.apis import MultiTaskInferencer
from mmvmt.apis.weights import build_model
from mmvmt.structures import declare_tasks
from mmvmt.visualization import colorize

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 40, 56


def load(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def web():
    return load('demo/web.py')


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos') / 'a photo.png'
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope='module')
def no_picture(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos') / 'no picture.png'
    path.write_text('a text')
    return path


def write_demo(folder):
    """What a demo leaves, as far as the page reads it."""
    work_dir = folder / 'swin_nano_synthetic_seed0_lr0.008'
    (folder / 'scenes' / 'ImageSets' / 'Context').mkdir(parents=True)
    (folder / 'scenes' / 'ImageSets' / 'Context' / 'val.txt').write_text('scene_7\nscene_8\n')
    work_dir.mkdir()
    (work_dir / 'last_checkpoint').write_text('/somewhere/iter_1000.pth')
    runs = {'decoders only': [], 'VMT-Adapter': [dict(predictions=f'{work_dir.name}/results')]}
    (folder / 'results.json').write_text(json.dumps(dict(runs=runs)))


def test_arguments(web, capsys):
    args = web.parse_args(['config.py', 'model.pth', '--tasks', 'semseg', '--port', '8000'])
    assert (args.config, args.checkpoint, args.tasks, args.port) == ('config.py', 'model.pth', 'semseg', 8000)
    args = web.parse_args([])
    assert (args.config, args.checkpoint, args.host) == (None, None, '127.0.0.1')
    for arguments, message in (
        (['config.py'], 'name a config and a checkpoint, or neither'),
        (['--port', '0'], '--port must be between 1 and 65535, got 0'),
    ):
        with pytest.raises(SystemExit, match='2'):
            web.parse_args(arguments)
        assert message in capsys.readouterr().err


def test_without_gradio(web, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert web.main([]) == 2
    assert 'needs the package gradio: pip install -r requirements/optional.txt' in capsys.readouterr().err


def test_a_broken_gradio_is_not_called_missing(web, monkeypatch, tmp_path):
    (tmp_path / 'gradio.py').write_text('import a_package_that_is_missing')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'gradio', raising=False)
    with pytest.raises(ModuleNotFoundError, match='a_package_that_is_missing'):
        web.import_gradio()


def test_without_a_demo(web, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(web, 'import_gradio', lambda: None)
    monkeypatch.setattr(web, 'ROOT', tmp_path)
    assert web.main([]) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'results.json does not exist: run `make demo` first, or name a model' in error


def test_starts_with_what_the_demo_left(web, monkeypatch, tmp_path):
    demo = load('tools/demo.py')
    assert demo.METHODS['VMT-Adapter'] == web.DEMO_CONFIG
    assert demo.parse_args([]).out == web.DEMO_FOLDER
    folder = tmp_path / web.DEMO_FOLDER
    write_demo(folder)
    trained = web.find_demo(folder)
    assert (Path(trained.config), trained.checkpoint) == (ROOT / web.DEMO_CONFIG, '/somewhere/iter_1000.pth')
    assert [Path(path).name for path in trained.examples] == ['scene_7.jpg', 'scene_8.jpg']


def test_examples(web, photo, tmp_path, capsys, monkeypatch):
    arguments = ['config.py', 'model.pth', '--examples', str(photo)]
    assert web.find_trained(web.parse_args(arguments)) == web.Trained('config.py', 'model.pth', (str(photo),))
    assert web.find_trained(web.parse_args(arguments[:2])).examples == ()
    monkeypatch.setattr(web, 'import_gradio', lambda: None)
    assert web.main([*arguments, str(tmp_path / 'no.jpg')]) == 2
    assert "no.jpg' does not exist" in capsys.readouterr().err


def test_address_in_use(web, monkeypatch, capsys):
    monkeypatch.setattr(web, 'import_gradio', lambda: None)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        assert web.main(['config.py', 'model.pth', '--port', str(port)]) == 2
    error = capsys.readouterr().err
    assert f'cannot listen on 127.0.0.1, port {port} (' in error
    assert 'choose another --host or --port' in error
    web.check_address('127.0.0.1', port)


def colors_of(legend):
    return [tuple(map(int, found)) for found in re.findall(r'rgb\((\d+), (\d+), (\d+)\)', legend)]


def test_legend_of_classes(web):
    label_map = np.array([[0, 0, 0, 15], [0, 15, 3, 0]], np.uint8)
    text = web.legend('semseg', label_map, 21)
    assert re.findall(r'</i>([^<]+)<', text) == ['background 62.5 %', 'person 25.0 %', 'bird 12.5 %']
    assert colors_of(text) == [(0, 0, 0), (192, 128, 128), (128, 128, 0)]
    assert 'class 15 25.0 %' in web.legend('semseg', label_map, 150)
    assert 'torso 100.0 %' in web.legend('human_parts', np.full((2, 2), 2, np.uint8), 7)


def test_legends_of_ranges(web):
    saliency = colors_of(web.legend('saliency', np.zeros((2, 2), np.float32), 1))
    assert (saliency[0], saliency[-1]) == ((0, 0, 0), (255, 255, 255))
    normals = dict(zip(web.DIRECTIONS, colors_of(web.legend('normals', np.zeros((3, 2, 2), np.float32), 3))))
    assert normals['left'] == (255, 128, 128)
    assert normals['right'] == (0, 128, 128)
    assert normals['up'] == (128, 255, 128)
    assert normals['to the viewer'] == (128, 128, 255)
    depth = np.linspace(1, 5, 101, dtype=np.float32)[None]
    text = web.legend('depth', depth, 1)
    assert '1.08 m' in text
    assert '4.92 m' in text
    drawn = colorize('depth', depth)[0]
    assert (colors_of(text)[0], colors_of(text)[-1]) == (tuple(drawn[0]), tuple(drawn[-1]))


def test_legends_of_declared_tasks(web):
    declare_tasks(
        dict(
            crops=dict(kind='classes', classes=['soil', 'wheat'], palette=[(1, 2, 3), (4, 5, 6)]),
            flow=dict(kind='values', channels=2, unit='px'),
            height=dict(kind='values', unit='cm'),
            albedo=dict(kind='values', channels=3),
        )
    )
    crops = web.legend('crops', np.array([[1, 1, 1, 0]], np.uint8), 2)
    assert re.findall(r'</i>([^<]+)<', crops) == ['wheat 75.0 %', 'soil 25.0 %']
    assert colors_of(crops) == [(4, 5, 6), (1, 2, 3)]
    meta = dict(crops_classes=['Boden', 'Weizen'], crops_palette=[(7, 7, 7), (8, 8, 8)])
    assert 'Weizen 75.0 %' in web.legend('crops', np.array([[1, 1, 1, 0]], np.uint8), 2, meta)
    assert colors_of(web.legend('crops', np.array([[1]], np.uint8), 2, meta)) == [(8, 8, 8)]
    flow = web.legend('flow', np.float32([[[3, 3]], [[0, 0]]]), 2)
    assert dict(zip(('right', 'left'), colors_of(flow))) == dict(right=(255, 0, 0), left=(0, 255, 255))
    assert 'full colour: 3.00 px' in flow
    assert '4.00 cm' in web.legend('height', np.full((2, 2), 4, np.float32), 1)
    assert 'red, green and blue, 0.00 to 1.00' in web.legend('albedo', np.full((3, 2, 2), 0.5, np.float32), 3)


def test_table_of_parameters(web, tiny_config):
    cfg = Config.fromfile(tiny_config)
    counts = load('tools/analysis/count_params.py').count_parameters(cfg)
    table = web.parameter_table(build_model(cfg))
    rows = dict(re.findall(r'^\| (.+?) \| ([\d,]+) \|', table, re.MULTILINE))
    numbers = {name: int(number.replace(',', '')) for name, number in rows.items()}
    assert numbers == {
        'adapters': counts['adapters'],
        'heads': counts['decoders'],
        'frozen': counts['frozen'],
        '**trained together**': counts['trainable'],
        '**the whole model**': counts['total'],
    }
    assert f'{counts["percent_of_one_encoder"]:.2f} % of its size' in table


def test_what_is_shown_is_what_the_project_draws(web, photo):
    inferencer = MultiTaskInferencer(tiny_model((*FOUR_TASKS, 'edge', 'depth')))
    result = web.compute(inferencer, str(photo))
    assert np.array_equal(result.image, cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB))
    maps = inferencer(str(photo))
    assert list(result.drawn) == list(result.legends) == list(maps)
    for task, label_map in maps.items():
        assert np.array_equal(result.drawn[task], colorize(task, label_map)), task
    assert result.seconds > 0


def test_messages_name_the_file_and_not_its_folder(web, no_picture, photo, tmp_path, monkeypatch):
    inferencer = MultiTaskInferencer(tiny_model())
    with pytest.raises(ValueError, match=re.escape(no_picture.name)) as caught:
        web.compute(inferencer, str(no_picture))
    assert str(no_picture.parent) not in str(caught.value)

    def out_of_memory(path):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(inferencer, 'predict', out_of_memory)
    with pytest.raises(ValueError, match=r'a photo\.png. is too large for the memory of the GPU'):
        web.compute(inferencer, str(photo))


# What follows drives the page in a browser.

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
NEEDED = {
    'gradio': find_spec('gradio'),
    'selenium': find_spec('selenium'),
    'chromium': CHROMIUM,
    'chromedriver': shutil.which('chromedriver'),
}
MISSING = [name for name, found in NEEDED.items() if not found]
in_browser = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')
PATIENCE = 120
"""Seconds for a page or a map, on a machine that does something else besides."""

PIXELS = """
const [selector, done] = arguments;
Promise.all([...document.querySelectorAll(selector)].map(async shown => {
    const image = new Image();
    image.src = shown.src;
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    return [canvas.width, canvas.height, [...context.getImageData(0, 0, canvas.width, canvas.height).data]];
})).then(done, error => done(String(error)));
"""


@pytest.fixture(scope='module')
def trained(tiny_config, tiny_checkpoint):
    """The tiny config and a checkpoint of it with random weights."""
    return str(tiny_config), str(tiny_checkpoint)


@pytest.fixture(scope='module')
def server(trained, scenes, tmp_path_factory):
    """Address of the page of a running server, its examples, and its process."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    examples = sorted((scenes / 'JPEGImages').glob('*.jpg'))[:2]
    arguments = ['demo/web.py', *trained, '--device', 'cpu', '--port', port, '--examples', *examples]
    process = commands.start(*arguments, GRADIO_TEMP_DIR=str(tmp_path_factory.mktemp('gradio')))
    output = ''
    for line in process.stdout:
        output += line
        if 'in a browser' in line:
            break
    else:
        pytest.fail(f'the server ended with {process.wait()}:\n{output}')
    url = f'http://127.0.0.1:{port}/'
    assert f'open {url} in a browser' in output
    yield url, examples, process
    process.terminate()
    process.communicate(timeout=PATIENCE)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        'headless',
        'no-sandbox',
        'disable-gpu',
        'disable-dev-shm-usage',
        'disable-quic',
        'no-first-run',
        'disable-background-networking',
        'disable-component-update',
        'disable-sync',
        'window-size=1280,1000',
        f'user-data-dir={tmp_path_factory.mktemp("profile")}',
        # The page has to work without a network: no other name than that of the server is found.
        'host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
    ):
        options.add_argument(f'--{flag}')
    driver = webdriver.Chrome(options, webdriver.ChromeService(NEEDED['chromedriver']))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


def wait_for(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE).until(condition)


def text_of(browser, selector):
    return ' '.join(
        browser.execute_script(f'return [...document.querySelectorAll("{selector}")].map(e => e.innerText)')
    )


def upload(browser, path):
    """Give a file to the drop zone, once that is ready for one."""
    from selenium.webdriver.common.by import By

    (zone,) = wait_for(browser, lambda driver: driver.find_elements(By.CSS_SELECTOR, '#picture input[type=file]'))
    zone.send_keys(str(path))


def shown(browser, task):
    """The pictures under the slider of a task, as the browser decodes them: a list of ``(H, W, 3)`` RGB."""
    found = browser.execute_async_script(PIXELS, f'#map-{task} img')
    assert isinstance(found, list), found
    return [np.array(data, np.uint8).reshape(height, width, 4)[..., :3] for width, height, data in found]


def check_maps(browser, trained, path):
    """Compare what the page shows of a picture with what the inferencer computes of it."""
    inferencer = MultiTaskInferencer(*trained, device='cpu')
    maps = inferencer(str(path))
    assert list(maps) == list(FOUR_TASKS)
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    for task, label_map in maps.items():
        left, right = shown(browser, task)
        assert np.array_equal(left, image), task
        assert np.array_equal(right, colorize(task, label_map)), task
        assert text_of(browser, f'#legend-{task}').strip(), task


@in_browser
def test_page_in_a_browser(server, browser, trained, photo, no_picture, tmp_path):
    url, examples, process = server
    browser.get(url)
    wait_for(browser, lambda driver: 'Drop a picture' in text_of(driver, '#status'))
    table = text_of(browser, '#parameters')
    assert all(word in table for word in ('adapters', 'heads', 'frozen', 'Trained in the encoder'))
    assert not browser.execute_script('return document.querySelectorAll("[id^=map-] img").length')

    upload(browser, photo)
    wait_for(browser, lambda driver: f'{WIDTH} x {HEIGHT} pixels' in text_of(driver, '#status'))
    assert photo.name in text_of(browser, '#status')
    check_maps(browser, trained, photo)

    # A text that calls itself a picture gives a message, and the maps of the last picture go.
    upload(browser, no_picture)
    wait_for(browser, lambda driver: 'No maps' in text_of(driver, '#status'))
    assert no_picture.name in text_of(browser, '#status')
    assert process.poll() is None
    assert not browser.execute_script('return document.querySelectorAll("[id^=map-] img").length')

    # The server goes on with the next picture.
    other = tmp_path / 'other.png'
    assert cv2.imwrite(str(other), np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    upload(browser, other)
    wait_for(browser, lambda driver: '48 x 64 pixels' in text_of(driver, '#status'))
    check_maps(browser, trained, other)

    browser.execute_script('document.querySelectorAll("#examples button")[1].click()')
    wait_for(browser, lambda driver: examples[1].name in text_of(driver, '#status'))
    check_maps(browser, trained, examples[1])

    loaded = browser.execute_script('return performance.getEntriesByType("resource").map(entry => entry.name)')
    assert loaded
    assert not [name for name in loaded if not name.startswith((url, 'data:', 'blob:'))]
