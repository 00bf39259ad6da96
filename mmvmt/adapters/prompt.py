"""Visual Prompt Tuning (Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119), shallow and deep, inside the
windows of a Swin Transformer: learned tokens that the attention of every window sees besides those of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Method, Site

PATCH_SIZE = 4
"""Edge of an image patch, pixels, where no encoder says otherwise: that of Swin."""


class Prompts(nn.Module):
    """A set of learned tokens.

    Args:
        count: Number of tokens P.
        width: Block width C.
        dropout: Probability with which an entry is dropped in training.
    """

    def __init__(self, count: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.patch_size = PATCH_SIZE
        self.embedding = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier's uniform range for a layer from a patch of 3 colours to ``C`` channels, as the paper has it."""
        bound = math.sqrt(6 / (3 * self.patch_size**2 + self.embedding.shape[1]))
        nn.init.uniform_(self.embedding, -bound, bound)

    def forward(self) -> Tensor:
        """The tokens, ``(P, C)``."""
        return F.dropout(self.embedding, self.dropout, self.training) if self.dropout else self.embedding


class VisualPromptTuning(Method):
    """Base class of both forms.

    Prompts change the attention as soon as they are there: the start is not the frozen network.

    Args:
        sites: Blocks whose windows see prompts, in the encoder's order.
        tasks: Task names.
        prompts: Number of prompts P.
        dropout: Probability with which an entry of a prompt is dropped in training.

    Raises:
        ValueError: An argument is out of its range.
    """

    positions = ('tokens',)
    per_task = True

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, prompts: int = 50, dropout: float = 0.0) -> None:
        super().__init__(sites, tasks)
        if isinstance(prompts, bool) or not isinstance(prompts, int) or prompts < 1:
            raise ValueError(f'prompts must be an integer of at least 1, got {prompts!r}')
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f'dropout must be at least 0 and below 1, got {dropout!r}')
        self.prompts = nn.ModuleDict(
            {
                task: nn.ModuleDict(
                    {site.key: Prompts(prompts, site.in_channels, dropout) for site in self.prompted_sites()}
                )
                for task in self.tasks
            }
        )

    def attach(self, encoder: nn.Module) -> None:
        super().attach(encoder)
        for module in self.modules():
            if isinstance(module, Prompts) and module.patch_size != encoder.patch_size:
                module.patch_size = encoder.patch_size
                module.reset_parameters()

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return (self.prompts,)

    def prompted_sites(self) -> Sequence[Site]:
        """The sites that have prompts of their own."""
        raise NotImplementedError(f'{type(self).__name__} does not define prompted_sites()')

    def reset_parameters(self) -> None:
        """Draw the prompts anew."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, Prompts):
                module.reset_parameters()

    def no_decay_parameters(self) -> Iterable[nn.Parameter]:
        yield from super().no_decay_parameters()
        yield from self.prompts.parameters()


@ADAPTERS.register_module()
class VPTShallow(VisualPromptTuning):
    """One set of prompts per task, which enters the first filled block and is carried through all later ones.

    Args: as :class:`VisualPromptTuning`.

    Raises:
        ValueError: An argument is out of its range, or the filled blocks are not all blocks from the first filled one
            to the encoder's last.
    """

    def prompted_sites(self) -> Sequence[Site]:
        return self.sites[:1]

    def attach(self, encoder: nn.Module) -> None:
        super().attach(encoder)
        filled = [(site.stage, site.block) for site in self.sites]
        gaps = [at for at in encoder.block_indices() if at > filled[0] and at not in filled]
        if gaps:
            raise ValueError(
                f'VPTShallow carries its prompts through every block behind the first filled one, but block '
                f'{gaps[0][1]} of stage {gaps[0][0]} is not filled; fill all stages from stage {filled[0][0]} on'
            )

    def tokens(self, site: Site, carried: Tensor | None, task: str | None) -> tuple[Tensor, bool]:
        # Nothing reads what the last block makes of its prompts.
        carry = site != self.sites[-1]
        return (self.prompts[task][site.key]() if carried is None else carried), carry


@ADAPTERS.register_module()
class VPTDeep(VisualPromptTuning):
    """One set of prompts per task and block; what a block makes of its prompts is dropped.

    Args: as :class:`VisualPromptTuning`.
    """

    def prompted_sites(self) -> Sequence[Site]:
        return self.sites

    def tokens(self, site: Site, carried: Tensor | None, task: str | None) -> tuple[Tensor, bool]:
        return self.prompts[task][site.key](), False
