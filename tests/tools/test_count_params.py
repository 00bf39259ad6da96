import json

import commands
import pytest


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
