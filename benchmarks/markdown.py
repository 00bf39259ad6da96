"""Tables that are written into Markdown pages, between two lines that mark their place."""

from pathlib import Path

from mmvmt.engine.hooks.atomic_checkpoint_hook import write_atomically


def has_place(path: str | Path, begin: str, end: str) -> bool:
    """Whether a page has both marks.

    Raises:
        ValueError: It has one of them only, or they are in the wrong order.
    """
    text = Path(path).read_text(encoding='utf-8')
    if (begin in text) != (end in text) or text.find(begin) > text.find(end):
        raise ValueError(
            f'{path} needs the lines {begin} and {end}, in this order: it has only one, or the other order'
        )
    return begin in text


def insert(path: str | Path, begin: str, end: str, content: str) -> None:
    """Put content between the marks of a page.

    Raises:
        ValueError: It has not both of them, in their order.
    """
    if not has_place(path, begin, end):
        raise ValueError(f'{path} needs the lines {begin} and {end}, in this order, where the table is to stand')
    before, rest = Path(path).read_text(encoding='utf-8').split(begin, 1)
    after = rest.split(end, 1)[1]
    write_atomically(str(path), f'{before}{begin}\n{content.strip()}\n{end}{after}'.encode())
