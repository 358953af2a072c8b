"""Writes matplotlib figures as PNG files."""

import io
import typing
import warnings

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG file, as large as what is drawn.

    A letter that the font lacks shows as a box, without a warning for each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        FigureCanvasAgg(figure).print_figure(file, format="png", dpi=200, bbox_inches="tight", pad_inches=0.1)
    return file.getvalue()
