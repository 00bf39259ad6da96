# DiTASK, maps of 64 cells shared and 4 per task, the demo's encoder, rendered scenes.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.DiTASK', cells=64, task_cells=4))]))
