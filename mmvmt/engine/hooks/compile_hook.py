"""Compile the network, and nothing around it."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmvmt.compat import check_records_graphs
from mmvmt.models import AdaptedEncoder, MultiTaskEncoderDecoder
from mmvmt.models.wrappers import unwrapped
from mmvmt.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Runs the model's ``encode_decode``, encoder and heads, through ``torch.compile``.

    Of a segmentor of mmsegmentation, which trains through other functions, it compiles the encoder.

    mmengine's own ``compile`` entry takes the whole training step, where data samples, the check for finite losses and
    the optimizer break the graph. Weights, checkpoints and parameter names stay as they are.

    Args:
        **options: Arguments of ``torch.compile``, such as ``backend``, ``mode``, ``dynamic``.
    """

    # After hooks that copy the model, such as EMAHook, since a compiled function cannot be copied.
    priority = 'LOWEST'

    def __init__(self, **options: Any) -> None:
        self.options = options

    def before_run(self, runner: Any) -> None:
        """Compile at first use.

        Raises:
            ImportError: PyTorch is older than 2.7.
            TypeError: The model is no ``MultiTaskEncoderDecoder`` and has no ``AdaptedEncoder``.
        """
        check_records_graphs('torch.compile of an AdaptedEncoder')
        model = unwrapped(runner.model)
        if isinstance(model, MultiTaskEncoderDecoder):
            model.encode_decode = torch.compile(model.encode_decode, **self.options)
            # One graph from the image to the logits of all tasks leaves no place between two heads.
            model.gradients_at_once = False
            what = 'encoder and heads are'
        elif isinstance(getattr(model, 'backbone', None), AdaptedEncoder):
            model.backbone.forward = torch.compile(model.backbone.forward, **self.options)
            what = 'the encoder is'
        else:
            raise TypeError(
                f'CompileHook compiles a MultiTaskEncoderDecoder or the AdaptedEncoder of another model, got '
                f'{type(model).__name__}'
            )
        print_log(f'{what} compiled in the first iteration, which takes a while', logger='current')
