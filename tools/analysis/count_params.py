"""Count the parameters of a config by group: what adapters add, trained norms and biases, decoders, and the frozen
rest."""

import argparse
import json
import sys

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.models import MultiTaskEncoderDecoder, parameter_groups
from mmvmt.models.parameter_groups import count
from mmvmt.registry import MODELS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--json', action='store_true', help='print one JSON object as the last line')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    return parser.parse_args(argv)


def count_parameters(cfg: Config) -> dict[str, float]:
    """Counts of a config's model.

    Args:
        cfg: Config with ``model``.

    Returns:
        Entries of each group, ``total`` of the model, ``trainable``, ``encoder`` (the frozen or trained encoder without
        adapters), and what trains in the encoder as percent of one encoder and of one encoder per task.
    """
    init_default_scope(cfg.get('default_scope', 'mmvmt'))
    # Building allocates and initialises nothing but the model itself; no weights are read.
    model = MODELS.build(cfg.model)
    if not isinstance(model, MultiTaskEncoderDecoder):
        raise SystemExit(f'{type(model).__name__} is no MultiTaskEncoderDecoder; counts by group need one')
    groups = {name: count(parameters) for name, parameters in parameter_groups(model).items()}
    total = sum(groups.values())
    encoder = count(model.backbone.parameters()) - count(model.backbone.adapter_parameters())
    trained = groups['adapters'] + groups['norms_biases'] + groups['encoder_weights']
    return groups | dict(
        total=total,
        trainable=total - groups['frozen'],
        encoder=encoder,
        percent_of_one_encoder=round(100 * trained / encoder, 4),
        percent_of_T_encoders=round(100 * trained / (encoder * len(model.tasks)), 4),
    )


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    counts = count_parameters(cfg)
    table = Table(title=args.config)
    table.add_column('group')
    table.add_column('parameters', justify='right')
    for name, value in counts.items():
        table.add_row(name, f'{value:.3f} %' if name.startswith('percent') else f'{value:,}')
    Console().print(table)
    if args.json:
        print(json.dumps(counts))
    return 0


if __name__ == '__main__':
    sys.exit(main())
