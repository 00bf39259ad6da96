from .drawing import colorize, draw_multi_task
from .multi_task_visualizer import MultiTaskVisualizer

__all__ = ['MultiTaskVisualizer', 'colorize', 'draw_multi_task']
