import torch
from mmengine.optim import build_optim_wrapper
from tiny import batch, tiny_model

from mmvmt.engine import CPUAmpOptimWrapper

CFG = dict(
    type='mmvmt.CPUAmpOptimWrapper',
    constructor='mmvmt.PEFTOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.1),
)


def test_cpu_amp_computes_in_bfloat16_and_keeps_float32_weights():
    model = tiny_model().train()
    wrapper = build_optim_wrapper(model, CFG)
    assert isinstance(wrapper, CPUAmpOptimWrapper)
    seen = []
    model.heads['semseg'].predictor.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    before = model.heads['semseg'].predictor.weight.detach().clone()
    model.train_step(batch(), wrapper)
    assert seen == [torch.bfloat16]
    assert model.heads['semseg'].predictor.weight.dtype == torch.float32
    assert not torch.equal(before, model.heads['semseg'].predictor.weight)
