"""mmsegmentation's Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) with named slots for adapters.

The parameters are mmseg's own modules under mmseg's names, so every checkpoint published for mmseg's Swin loads
unchanged. Only the way they are run is ours: scaled-dot-product attention, cached masks, and the slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import ModuleList
from mmseg.models.backbones.swin import SwinTransformer
from torch import Tensor, nn

from mmvmt.adapters.base import SLOTS, Site
from mmvmt.registry import MODELS
from mmvmt.structures import TaskDeclarations

from .adapted import AdaptedEncoder, Transition
from .slots import Fills, Prompts, Size, Tails, branch, fill
from .windows import ShiftedWindowAttention


class SwinBlock(nn.Module):
    """A Swin block with slots, over mmseg's parameters.

    Args:
        block: mmseg's ``SwinBlock``, whose parameters are taken over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = ShiftedWindowAttention(block.attn)
        self.norm2 = block.norm2
        self.ffn = block.ffn
        self.with_cp = block.with_cp
        self.drop_path = block.attn.drop

    @property
    def layers(self) -> dict[str, nn.Linear]:
        """The linear layers that are slots."""
        w_msa, ffn = self.attn.w_msa, self.ffn.layers
        return {'qkv': w_msa.qkv, 'proj': w_msa.proj, 'fc1': ffn[0][0], 'fc2': ffn[1]}

    def forward(
        self, x: Tensor, hw: Size, fills: Fills, prompts: Prompts | None = None, tails: Tails | None = None
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """``(B, H*W, C)`` to ``(B, H*W, C)``; the prompts that are carried on; what goes to the stage's tap."""
        tapped: list[Tensor] = []
        before, carried = x, None
        normed = self.norm1(x)
        if prompts is None:
            out, _ = self.attn(normed, hw, fills, None, tails)
        else:
            of_prompts = prompts._replace(tokens=self.norm1(prompts.tokens))
            out, out_prompts = self.attn(normed, hw, fills, of_prompts, tails)
            if prompts.carry:
                carried = self._carried(prompts, of_prompts, x.shape[0], out_prompts, fills)
        x = x + branch(fills, 'attn', x, out, tapped, self._drop_path, hw, normed)
        normed = self.norm2(x)
        x = x + branch(fills, 'ffn', x, self._mlp(normed, fills, hw, tails), tapped, self._drop_path, hw, normed)
        if tails is not None:
            tapped += tails.tapped([self._tail(before, hw, tails, tasks) for tasks in tails.groups])
        return x, carried, tapped

    def _carried(self, prompts: Prompts, normed: Prompts, images: int, out: Tensor, fills: Fills) -> Tensor:
        """What the block makes of its prompts, ``(B, P, C)``."""
        carried = prompts.of_images(images)
        if prompts.residual:
            of_images = normed.of_images(images)
            out = branch(fills, 'attn', carried, out, drop_path=self._drop_path, normed=of_images)
            carried = out = carried + out
        of_mlp = self.norm2(out)
        return carried + branch(fills, 'ffn', out, self._mlp(of_mlp, fills), drop_path=self._drop_path, normed=of_mlp)

    def _tail(self, before: Tensor, hw: Size, tails: Tails, tasks: tuple[str, ...]) -> Tensor:
        """The streams of some tasks behind the block, ``(T * B, N, C)``."""
        (_, act, drop1), _, drop2 = self.ffn.layers
        out = tails.layer('proj', tasks, to_tokens=lambda out: self.attn.to_tokens(out, hw))
        x = before.repeat(len(tasks), 1, 1) + self._drop_path(self.attn.drop(out))
        hidden = drop1(act(tails.layer('fc1', tasks, self.norm2(x))))
        return x + self._drop_path(drop2(tails.layer('fc2', tasks, hidden)))

    def _mlp(self, x: Tensor, fills: Fills, hw: Size | None = None, tails: Tails | None = None) -> Tensor:
        (fc1, act, drop1), fc2, drop2 = self.ffn.layers
        hidden = act(fill(fills, 'fc1', x, fc1(x), hw=hw, tails=tails))
        if drop1.p:
            hidden = drop1(hidden)
        out = fill(fills, 'fc2', hidden, fc2(hidden), hw=hw, tails=tails)
        return drop2(out) if drop2.p else out

    def _drop_path(self, x: Tensor) -> Tensor:
        return self.drop_path(x) if self.training and self.drop_path.drop_prob else x


class SwinMerging(nn.Module):
    """Patch merging with a slot, over mmseg's parameters.

    Args:
        merging: mmseg's ``PatchMerging``, whose parameters are taken over.
    """

    def __init__(self, merging: nn.Module) -> None:
        super().__init__()
        self.adap_padding = merging.adap_padding
        self.sampler = merging.sampler
        self.norm = merging.norm
        self.reduction = merging.reduction

    def forward(self, x: Tensor, hw: Size, fills: Fills | None = None) -> tuple[Tensor, Size]:
        """``(B, H*W, C)`` to the tokens of the next stage, and their height and width."""
        x = self.adap_padding(x.unflatten(1, hw).permute(0, 3, 1, 2))
        (kernel, _), (stride, _) = self.sampler.kernel_size, self.sampler.stride
        hw = (x.shape[2] - kernel) // stride + 1, (x.shape[3] - kernel) // stride + 1
        x = self.sampler(x).transpose(1, 2)
        x = x if self.norm is None else self.norm(x)
        return fill(fills or {}, 'downsample', x, self.reduction(x), hw=hw), hw


@MODELS.register_module()
class AdaptedSwin(AdaptedEncoder, SwinTransformer):
    """Swin Transformer whose blocks offer named slots to adapters.

    Without ``tasks`` it is a drop-in for mmseg's ``SwinTransformer``: same arguments, same state_dict keys, same
    tuple of maps. With ``tasks`` it returns the features of every task, and the four output norms are left to the
    heads.

    With ``plugins`` the encoder is frozen, but for what the plugins declare to train. Without plugins nothing is
    frozen, as in mmseg.

    Args:
        tasks: Names of the tasks, each once, or their declarations, see :func:`~mmvmt.structures.declare_tasks`;
            None: one unnamed task.
        plugins: Adapters to insert, in mmseg's convention: ``dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4),
            stages=(True, True, True, True), position='ffn')``. ``stages`` defaults to all, ``position`` (a slot or a
            list of slots) to the method's own.
        task_order: For methods that run the encoder once per task: ``'sequential'``, one task after another, needs
            little memory; ``'stacked'``, all tasks along the batch, is fast on GPUs. Equal results.
        frozen_dtype: ``'bfloat16'`` or ``'float16'``: the weights of frozen linear layers and convolutions are stored
            in this type and the encoder runs in mixed precision with it, exactly as autocast would run it on float32
            weights, in half the memory and without casting them in every step. Frozen biases, norms and position
            tables, and all that trains, stay float32. None: everything is float32.
        features_after_merging: Whether the features of every stage but the last are taken behind patch merging, as in
            the public code of MTLoRA and of the methods after it: of twice the width at half the size. Tails of tasks
            go through merging too, each by itself. Only with ``tasks``.
        *args: Arguments of mmseg's ``SwinTransformer`` by position.
        **kwargs: Arguments of mmseg's ``SwinTransformer``.

    Raises:
        ValueError: A plugin matches no slot or reads what blocks do not hand out, two plugins want to tap the same
            stage, ``frozen_stages`` is set too, ``task_order`` or ``frozen_dtype`` is unknown, or there are no plugins
            and so nothing is frozen; or ``features_after_merging`` without tasks.
    """

    slots = SLOTS
    normed_slots = ('attn', 'ffn')
    offers_branches = True
    offers_prompt_scores = True

    def __init__(
        self,
        *args: Any,
        tasks: TaskDeclarations | None = None,
        plugins: Sequence[dict] | None = None,
        task_order: str = 'sequential',
        frozen_dtype: str | None = None,
        features_after_merging: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if features_after_merging and tasks is None:
            raise ValueError(
                'features_after_merging needs tasks: without them features go through output norms, which have the '
                'widths before merging'
            )
        self.features_after_merging = features_after_merging
        for stage in self.stages:
            stage.blocks = ModuleList([SwinBlock(block) for block in stage.blocks])
            if stage.downsample is not None:
                stage.downsample = SwinMerging(stage.downsample)
        self.insert_adapters(tasks, plugins, task_order, frozen_dtype)

    @property
    def feature_widths(self) -> list[int]:
        further = int(self.features_after_merging)
        return [self.num_features[min(index + further, len(self.stages) - 1)] for index in self.out_indices]

    def stage_blocks(self) -> list[ModuleList]:
        return [stage.blocks for stage in self.stages]

    def slot_layers(self, stage: int, block: int) -> dict[str, nn.Linear]:
        blocks, downsample = self.stages[stage].blocks, self.stages[stage].downsample
        if downsample is None or block < len(blocks) - 1:
            return blocks[block].layers
        return blocks[block].layers | dict(downsample=downsample.reduction)

    def norm_of(self, site: Site) -> nn.LayerNorm:
        if site.slot == 'downsample':
            return self.stages[site.stage].downsample.norm
        block = self.stages[site.stage].blocks[site.block]
        return block.norm2 if site.slot in ('ffn', 'fc1', 'fc2') else block.norm1

    def slot_channels(self, stage: int, block: int, slot: str) -> tuple[int, int]:
        """Width of what enters a slot, and of what it puts out.

        Raises:
            ValueError: Prompts are asked for in windows of one token.
        """
        window_size = self.stages[stage].blocks[block].attn.window_size
        if slot == 'tokens' and window_size < 2:
            raise ValueError(
                f'prompts need windows of at least 2 x 2 tokens, but window_size is {window_size}: '
                f'a single token attends to nothing but itself'
            )
        return super().slot_channels(stage, block, slot)

    def embedding_part(self) -> nn.Module:
        return self.patch_embed

    def enter(self, tokens: Tensor) -> Tensor:
        """Add the position embedding, where there is one."""
        return self.drop_after_pos(tokens + self.absolute_pos_embed if self.use_abs_pos_embed else tokens)

    def transition_part(self, stage: int) -> nn.Module | None:
        return self.stages[stage].downsample

    def prompts_behind(self, stage: int, prompts: Tensor, transition: Transition) -> Tensor:
        """Merge prompts as patches are merged: a prompt is its own four neighbours."""
        fours = prompts.flatten(0, 1).unsqueeze(1).expand(-1, 4, -1)
        merged, _ = transition(fours, (2, 2))
        return merged.view(*prompts.shape[:2], -1)

    def train(self, mode: bool = True) -> AdaptedSwin:
        """Set training or evaluation mode; returns self, which mmseg's does not."""
        super().train(mode)
        return self

    def _freeze_stages(self) -> None:
        # mmseg's own asks for output norms, which the heads have when there are tasks.
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_pos, *self.stages[: self.frozen_stages]]
        norms = [getattr(self, f'norm{i}', None) for i in range(self.frozen_stages) if i in self.out_indices]
        for module in frozen + [norm for norm in norms if norm is not None]:
            module.eval()
            module.requires_grad_(False)
        if self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad = False
