"""What is asked of all figures."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg


def colliding_labels(figure) -> list[tuple[str, str]]:
    """Returns pairs of neighboring labels of an axis, or titles, that lie on each other."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    pairs = []
    for axes in figure.findobj(lambda x: hasattr(x, "get_xticklabels")):
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            pairs += itertools.pairwise([x for x in labels if x.get_text() and x.get_visible()])
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    pairs += itertools.pairwise(titles)
    boxes = [(a, a.get_window_extent(renderer), b, b.get_window_extent(renderer)) for a, b in pairs]
    # Less than a pixel is rounding.
    return [
        (a.get_text(), b.get_text())
        for a, one, b, two in boxes
        if min(one.x1, two.x1) - max(one.x0, two.x0) > 1
        and min(one.y1, two.y1) - max(one.y0, two.y0) > 1
    ]


def cut_texts(figure) -> list[str]:
    """Returns the texts that reach beyond the edge of the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = figure.findobj(lambda x: hasattr(x, "get_text") and hasattr(x, "get_rotation"))
    texts = [x for x in texts if x.get_text() and x.get_visible()]
    shown = [x for x in texts if x.axes is None or x.axes.axison or x is x.axes.title]
    boxes = {x.get_text(): x.get_window_extent(canvas.get_renderer()) for x in shown}
    return [
        text
        for text, box in boxes.items()
        if min(box.x0, box.y0) < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1
    ]
