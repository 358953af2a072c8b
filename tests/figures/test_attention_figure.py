"""Figures: where the panels are, and that any image and map can be drawn."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from vit_jax.figures import attention as figures
from vit_jax.figures.png import png


def draw(*, heads=4, size=(48, 64), channels=3, grid=(3, 4), maps=None, title=""):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    maps = rng.uniform(size=(heads + 1, *grid)) if maps is None else maps
    return figures.attention_figure(image, maps[1:], maps[0], title=title)


def opened(figure):
    return Image.open(io.BytesIO(png(figure)))


@pytest.mark.parametrize("heads", [1, 3, 7, 16])
@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 48)])
def test_panels_keep_the_images_proportions_and_do_not_overlap(heads, size):
    figure = draw(heads=heads, size=size)
    panels = {axes.get_title(): axes.get_position() for axes in figure.axes}
    assert list(panels) == ["input", *(f"head {i + 1}" for i in range(heads)), "rollout"]
    width, height = figure.get_size_inches()
    head = panels["head 1"].height * height
    assert height <= 6.4 and (width <= 12.001 or head == pytest.approx(0.5))
    for box in panels.values():
        assert box.width * width / (box.height * height) == pytest.approx(size[1] / size[0])
        assert min(box.x0, box.y0) > -1e-6 and max(box.x1, box.y1) < 1 + 1e-6
    for a, b in itertools.combinations(panels.values(), 2):
        assert a.x1 < b.x0 or b.x1 < a.x0 or a.y1 < b.y0 or b.y1 < a.y0


def test_the_png_is_as_large_as_the_figure_at_200_dots_an_inch():
    figure = draw()
    expected = 200 * (figure.get_size_inches() + 2 * 0.1)  # the margin; what is empty above the names is cut
    np.testing.assert_allclose(opened(figure).size, expected, atol=40)
    assert opened(draw(title="a cat")).height > opened(figure).height


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 1},
        {"grid": (1, 1)},
        {"maps": np.full((3, 2, 2), 0.25, np.float32)},
        {"size": (10, 400)},
        {"size": (400, 10), "heads": 16},
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_images_and_maps_are_drawn(options):
    assert min(opened(draw(**options)).size) > 50


def test_the_heads_show_their_maps():
    maps = np.zeros((3, 2, 2))
    maps[1, 0, 0] = maps[2, 1, 1] = maps[0, 0, 0] = 1
    figure = draw(heads=2, size=(64, 64), maps=maps)
    corners = np.ix_((0, -1), (0, -1))
    shown = [np.asarray(axes.images[-1].get_array()) for axes in figure.axes[1:]]
    for drawn, values in zip(shown, maps[[1, 2, 0]], strict=True):
        np.testing.assert_allclose(drawn[corners], values, atol=0.02)
        assert drawn.min() == 0 and drawn.max() == 1
    # Under the rollout's coldest patches the image is as it is.
    np.testing.assert_allclose(figure.axes[-1].images[1].get_alpha()[corners], [[0.85, 0], [0, 0]], atol=0.12)


def test_maps_lie_on_what_the_patches_cover():
    """Patches of 14 leave out the last 6 of 48 rows and 8 of 64 columns."""
    image, maps = np.zeros((48, 64, 3), np.uint8), np.random.default_rng(0).uniform(size=(2, 3, 4))
    figure = figures.attention_figure(image, maps[1:], maps[0], extent=(42, 56))
    for axes in figure.axes[1:]:
        assert list(axes.images[-1].get_extent()) == [0, 56, 42, 0]
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 64), (48, 0))


def test_a_white_image_stays_bright_where_the_rollout_is_small():
    """A cubic curve swings below the smallest value, which must not become opaque black."""
    rng = np.random.default_rng(0)
    rollout = rng.random((8, 8)) ** 8
    figure = figures.attention_figure(np.full((32, 32, 3), 255, np.uint8), rollout[None], rollout)
    picture = np.asarray(Image.open(io.BytesIO(png(figure))).convert("L"))
    # Text and the head's map, which is dark, lie to the left of the rollout.
    assert np.mean(picture[60:-40, -picture.shape[1] // 3 :] < 60) < 0.02
