from .drawing import colorize, draw_multi_task, palette_of
from .grid import draw_grid
from .multi_task_visualizer import MultiTaskVisualizer

__all__ = ['MultiTaskVisualizer', 'colorize', 'draw_grid', 'draw_multi_task', 'palette_of']
