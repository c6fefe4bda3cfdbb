"""Lines of text as pictures: measured first, so that nothing is cut at an edge."""

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
INK = (40, 40, 40)
GAP = 6  # pixels between the parts of a sheet
LINE = 22  # height of a line of title or legend
PLAIN, BOLD = 0.42, 0.5  # sizes of the font
_DOTS = "..."


def ascii_text(text: str) -> str:
    """OpenCV's fonts have no other letters."""
    return text.encode("ascii", "replace").decode()


def text_width(text: str, scale: float) -> int:
    """Pixels that a text takes."""
    return cv2.getTextSize(text, FONT, scale, 1)[0][0]


def shorten(text: str, room: int, scale: float, *, keep: str = "") -> str:
    """The text if it fits into a number of pixels, else with dots in its middle: names often differ at their end.

    Args:
        keep: an end that stays whole as long as it fits itself; it is written behind the text.
    """
    if text_width(text + keep, scale) <= room:
        return text + keep
    if keep and text_width(_DOTS + keep, scale) > room:
        text, keep = text + keep, ""
    # The widest text of the form head...tail, with a tail of a third: a search by bisection.
    least, most = 0, len(text)
    while least < most:
        middle = (least + most + 1) // 2
        if text_width(_cut(text, middle) + keep, scale) <= room:
            least = middle
        else:
            most = middle - 1
    return _cut(text, least) + keep


def _cut(text: str, letters: int) -> str:
    tail = letters // 3
    return text[: letters - tail].rstrip() + _DOTS + text[len(text) - tail :]


def wrap_words(text: str, room: int, scale: float) -> list[str]:
    """Lines of at most a number of pixels, broken between words; a word that is wider is shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, scale) <= room:
            lines[-1] = longer
        else:
            lines.append(shorten(word, room, scale))
    return [line for line in lines if line] or [""]


def text_line(text: str, width: int, *, keep: str = "") -> np.ndarray:
    """A strip (LINE, width, 3) with one line of text, shortened in its middle where it is too long."""
    return _strip(shorten(ascii_text(text), width - 2 * GAP, PLAIN, keep=ascii_text(keep)), width, PLAIN)


def text_block(text: str, width: int) -> np.ndarray:
    """Strips (n · LINE, width, 3) with a heading, as many lines as it needs."""
    return np.vstack([_strip(line, width, BOLD) for line in wrap_words(ascii_text(text), width - 2 * GAP, BOLD)])


def _strip(text: str, width: int, scale: float) -> np.ndarray:
    strip = np.full((LINE, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (GAP, LINE - 7), FONT, scale, INK, 1, cv2.LINE_AA)
    return strip
