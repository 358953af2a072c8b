"""Names in pictures: any text can be drawn, as it is, on one line, in the room that there is."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.figures import overlay
from vit_jax.figures.attention import attention_figure
from vit_jax.figures.confusion import confusion_figure
from vit_jax.figures.contact_sheet import contact_sheet
from vit_jax.figures.lettering import fitted, font, shortened
from vit_jax.figures.png import png

NAMES = {
    "mathtext": r"$x_1^2$ and $",
    "no mathtext": r"$\frac$ \$ %(a)s {b}",
    "empty": "",
    "space": " ",
    "line break": "a\nb\r\nc",
    "no letters": "\t\x00\x1b[2J\u2028",
    "lone surrogate": "a\udcff",
    "no glyph": "猫 \U0001f431 \U0010fffd",
    "right to left": "\u202ecat",
    "long": "x" * 100_000,
    "long and wide": "猫" * 100_000,
}


def attention(name):
    figure = attention_figure(np.zeros((8, 8, 1), np.uint8), np.zeros((1, 2, 2)), np.zeros((2, 2)), title=name)
    return png(figure)


def sheet(name):
    return contact_sheet([np.zeros((8, 8, 1), np.uint8)] * 2, [name, "cat"])


def mask(name):
    return overlay.mask_overlay(Image.new("RGB", (400, 300)), np.zeros((300, 400), int), [name])


def boxes(name):
    return overlay.draw_boxes(Image.new("RGB", (400, 300)), np.array([[10, 20, 50, 60]]), [name], [0.5])


def captions(name):
    return overlay.panels([Image.new("RGB", (400, 300))], [name])


def confusion(name):
    return png(confusion_figure(np.eye(2, dtype=int), [name, "cat"]))


@pytest.mark.parametrize("draw", [attention, sheet, mask, boxes, captions, confusion])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.filterwarnings("error")
def test_any_name_is_drawn_in_every_picture(name, draw):
    draw(name)


def test_matplotlib_shows_a_name_letter_by_letter():
    name = NAMES["mathtext"]
    shown = attention_figure(np.zeros((8, 8, 1), np.uint8), np.zeros((1, 2, 2)), np.zeros((2, 2)), title=name)
    ticks = confusion_figure(np.eye(2, dtype=int), [name, "cat"]).axes[0].get_xticklabels()
    for text in (shown.texts[0], ticks[0]):
        assert text.get_text() == name and not text.get_parse_math()


def test_long_names_end_in_dots():
    assert shortened("abc", 3) == "abc" and shortened("abcd", 3) == "ab…" and shortened("a\nb", 3) == "a\\…"
    letters = font(14)
    for text in ("i" * 500, "W" * 500, "猫" * 500, "a\n" * 500):
        short = fitted(text, letters, 100)
        assert 80 < letters.getlength(short) <= 100 and short.endswith("…")
    assert fitted("cat", letters, 100) == "cat" and fitted("cat", letters, 3) == "" and fitted("", letters, 0) == ""
