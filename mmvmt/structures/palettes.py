"""Colours of classes, for data sets and pictures."""

from __future__ import annotations

HUMAN_PARTS_PALETTE = (
    (30, 30, 38),
    (244, 162, 97),
    (231, 85, 80),
    (69, 153, 214),
    (126, 203, 224),
    (94, 160, 88),
    (182, 212, 106),
)
"""Background, head, torso, upper arms, lower arms, upper legs, lower legs; RGB. Warm colours for head and torso, blue
for the arms, green for the legs; the lower limbs are the lighter ones."""


def voc_palette(num_classes: int = 256) -> list[tuple[int, int, int]]:
    """PASCAL VOC's colours: the bits of a class index, three at a time, fill R, G and B from the highest bit down.

    Args:
        num_classes: Number of colours.

    Returns:
        RGB, 0 to 255.
    """
    colors = []
    for index in range(num_classes):
        color = [0, 0, 0]
        for bit in range(index.bit_length()):
            color[bit % 3] |= (index >> bit & 1) << 7 - bit // 3
        colors.append(tuple(color))
    return colors
