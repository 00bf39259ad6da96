import importlib.util
import io
import json
import shutil
from contextlib import redirect_stdout

import commands
import pytest
from tiny import undrawn


@pytest.mark.parametrize(
    'config, adapters, percent',
    [('vmt/swin_t_pascal.py', 1_119_120, 1.017), ('vmt/swin_t_lite_pascal.py', 399_904, 0.363)],
)
def test_counts_of_swin_t(config, adapters, percent):
    output = commands.run('tools/analysis/count_params.py', f'configs/{config}', '--json').stdout
    counts = json.loads(output.splitlines()[-1])
    assert counts['adapters'] == adapters
    assert counts['norms_biases'] == 0
    assert counts['decoders'] == 2_549_024
    assert counts['total'] == counts['adapters'] + counts['decoders'] + counts['frozen']
    assert counts['percent_of_T_encoders'] == pytest.approx(percent, abs=5e-4)
    assert f'{adapters:,}' in output


# Explained in docs/parameters.md: what is reported counts something else there, or has one digit only.
EXPLAINED = {'BitFit', 'Compacter'}
ONE_DIGIT = {'relative position bias', 'VPT-shallow'}
WITHIN_5_PERCENT = {
    'HyperFormer',
    'Polyhistor',
    'Polyhistor-Lite',
    'PHM layer',
    'Compacter++',
    'Low-rank adapter',
}


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    """The rows of the table, what was printed, the page that it was written into, and the rows of the second table."""
    page = tmp_path_factory.mktemp('docs') / 'parameters.md'
    shutil.copy(commands.ROOT / 'docs' / 'parameters.md', page)
    spec = importlib.util.spec_from_file_location('count_params', commands.ROOT / 'tools/analysis/count_params.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with undrawn(), redirect_stdout(io.StringIO()) as printed:
        assert tool.main(['--table', '--docs', str(page), '--json']) == 0
    output = printed.getvalue()
    tables = json.loads(output.splitlines()[-1])
    return tables['methods'], output, page, tables['encoders']


def test_the_table_is_within_the_tolerances_or_explained(table):
    rows, output, *_ = table
    assert len({row['method'] for row in rows}) == len(rows) == 40
    for row in rows:
        assert set(row) == {'method', 'encoder_ours', 'encoder_published', 'diff_percent', 'passes', 'note'}
        assert row['method'] in output
        ours, published = row['encoder_ours'], row['encoder_published']
        if published is None or row['method'] in EXPLAINED:
            assert published is None or row['note']
        elif row['method'] in ONE_DIGIT:
            assert round(ours / 1e6, 2) == published / 1e6
        elif published == 0:
            assert ours == 0
        else:
            limit = 5 if row['method'] in WITHIN_5_PERCENT else 2
            assert abs(100 * (ours / published - 1)) <= limit, row
            assert row['diff_percent'] == pytest.approx(100 * (ours / published - 1), abs=0.006)


def test_the_table_of_encoders_counts_as_the_first_and_by_formula(table):
    first, rows = ({row['method']: row for row in part} for part in (table[0], table[3]))
    assert all(row['Swin-T']['ours'] == first[name]['encoder_ours'] for name, row in rows.items())
    # Width 384, 12 blocks, 4 tasks: two projections with biases, and scales and shifts.
    small = rows['VMT-Adapter']['DINOv2 ViT-S']
    assert small['ours'] == 12 * (2 * 384 * 96 + 96 + 384 + 4 * 2 * 384)
    assert small['percent'] == round(100 * small['ours'] / rows['BitFit']['DINOv2 ViT-S']['encoder'], 3)
    assert "have no 'qkv'" in rows['LoRA']['MiT-B2']['refused']


def test_the_claims_of_polyhistor_and_the_passes(table):
    rows = {row['method']: row for row in table[0]}
    assert 0.08 < rows['Polyhistor']['encoder_ours'] / rows['HyperFormer']['encoder_ours'] < 0.1
    assert round(rows['Polyhistor-Lite']['encoder_ours'] / 1e6, 2) == 0.41
    passes = {name: row['passes'] for name, row in rows.items()}
    assert passes['single-task full fine-tuning'] == 'T models'
    one = {name for name, value in passes.items() if value == '1'}
    shared = {'decoders only', 'multi-task full fine-tuning', 'Shared adapter', 'VMT-Adapter', 'VMT-Adapter-Lite'}
    shared |= {'patch embedding, norms, position tables', 'patch embedding, norms, position tables, merging'}
    shared |= {'SSF', 'DoRA', 'Mona', 'AdaptFormer', 'DiTASK', 'DiTASK, layers between stages frozen'}
    shared |= {f'MTLoRA, rank {rank}' for rank in (16, 32, 64)} | {
        f'MTLoRA+, rank {rank}' for rank in ('4', '8', '16', '64, 4 per task')
    }
    shared |= {'MTLoRA, rank 64, with its decoders'}
    shared |= {f'TADFormer, rank {rank}' for rank in ('16', '32', '64', '64, fixed filters')}
    assert one == shared


def test_a_row_of_mtlora_is_rebuilt_whole(table):
    rows = {row['method']: row['encoder_ours'] for row in table[0]}
    assert rows['MTLoRA, rank 64, with its decoders'] == rows['MTLoRA, rank 64'] + 1_946_624 == 8_344_634


def test_the_sums_that_fit_what_is_reported_of_polyhistor(table):
    rows = {row['method']: row for row in table[0]}
    counts = {name: rows[name]['encoder_ours'] for name in ('HyperFormer', 'Polyhistor', 'Polyhistor-Lite')}
    assert counts == {'HyperFormer': 71_219_728, 'Polyhistor': 6_370_528, 'Polyhistor-Lite': 411_888}
    assert '6,370,528 + 23,232 in the encoder + 11,520 output norms' in rows['Polyhistor']['note']
    assert rows['Polyhistor']['note'].endswith('= 6,405,280')
    assert '388,656 + 23,232 in the LayerNorms' in rows['Polyhistor-Lite']['note']


def test_the_page_is_what_the_command_writes(table):
    committed = (commands.ROOT / 'docs' / 'parameters.md').read_text(encoding='utf-8')
    assert table[2].read_text(encoding='utf-8') == committed
    assert all(f'{row["encoder_ours"]:,}' in committed for row in table[0])


def test_a_page_without_a_place_for_the_table_is_left_alone(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('no marks')
    failed = commands.run('tools/analysis/count_params.py', '--docs', str(page), '--table', check=False)
    assert failed.returncode != 0
    assert 'has no place for the table' in failed.stderr
    assert page.read_text() == 'no marks'


def test_a_segmentor_of_mmseg_is_counted_too():
    output = commands.run('tools/analysis/count_params.py', 'configs/interop/upernet_swin_t_vmt_ade20k.py', '--json')
    counts = json.loads(output.stdout.splitlines()[-1])
    # Swin-T: two projections with their biases per block, and one scale and shift for the one unnamed task.
    assert counts['adapters'] == 1_078_272 + 5_520 + 2 * 4_416
    assert counts['norms_biases'] == 2 * (96 + 192 + 384 + 768)
    assert counts['trainable'] == counts['adapters'] + counts['norms_biases'] + counts['decoders']
    assert counts['percent_of_one_encoder'] == counts['percent_of_T_encoders']


def test_a_model_with_another_encoder_is_refused(tmp_path):
    config = tmp_path / 'plain.py'
    config.write_text("_base_ = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'\n")
    failed = commands.run('tools/analysis/count_params.py', config, check=False)
    assert failed.returncode != 0
    assert 'the backbone of EncoderDecoder is SwinTransformer; counts by group need an AdaptedEncoder' in failed.stderr


def test_it_needs_a_config_or_the_table():
    failed = commands.run('tools/analysis/count_params.py', check=False)
    assert failed.returncode == 2
    assert 'name a config, or ask for --table' in failed.stderr
