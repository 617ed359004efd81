"""A picture of one update of the state, computed from the specification: before, decay, erase, write."""

import numpy as np

from kda_spec import decay, erase, write

CELL = 44


def picture() -> str:
    """Inline SVG of the four stages on a 2 x 2 state; colours follow the page's theme."""
    S, k, v = np.array([[10.0, 10.0], [2.0, 2.0]]), np.array([0.0, 1.0]), np.array([5.0, 5.0])
    stages = [("before", S), ("decay", decay(S, np.array([1.0, 0.5])))]
    stages.append(("erase", erase(stages[-1][1], k, 1.0)))
    stages.append(("write", write(stages[-1][1], k, v, 1.0)))
    parts = []
    for n, (name, state) in enumerate(stages):
        left = n * 140
        parts.append(f'<text x="{left + CELL}" y="14" text-anchor="middle" fill="currentColor">{name}</text>')
        for (i, j), x in np.ndenumerate(state):
            at, top = left + j * CELL, 22 + i * CELL
            parts.append(
                f'<rect x="{at}" y="{top}" width="{CELL}" height="{CELL}" class="cell" fill-opacity="{x / 12:.2f}"/>'
                f'<text x="{at + CELL / 2}" y="{top + 28}" text-anchor="middle" fill="currentColor">{x:g}</text>'
            )
        if n:
            parts.append(f'<text x="{left - 26}" y="72" text-anchor="middle" fill="currentColor">→</text>')
    label = "The state before, after decay, after erase and after write"
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 510 114" class="state">{"".join(parts)}</svg>'
