"""Draw the stages of the walkthrough in docs/equation.md as SVG: python docs/pictures/make_pictures.py."""

from pathlib import Path

import numpy as np

from kda_spec import decay, erase, write

CELL = 56


def picture(S: np.ndarray) -> str:
    """The matrix as shaded cells with their numbers, in SVG; a deeper blue is a larger number."""
    rows, columns = S.shape
    size = f'width="{columns * CELL + 2}" height="{rows * CELL + 2}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *cells(S, 0, 0), "</svg>\n"])


def cells(S: np.ndarray, left: int, top: int) -> list[str]:
    """The cells of a matrix whose upper left corner is at (left, top)."""
    parts = []
    for (i, j), x in np.ndenumerate(S):
        shade = float(x) / 10
        colour = "#ffffff" if shade > 0.6 else "#102030"
        parts.append(
            f'<rect x="{left + j * CELL + 1}" y="{top + i * CELL + 1}" width="{CELL}" height="{CELL}" stroke="#5a7fa5" '
            f'fill="rgb({245 - 200 * shade:.0f},{248 - 145 * shade:.0f},{252 - 70 * shade:.0f})"/>'
            f'<text x="{left + (j + 0.5) * CELL + 1}" y="{top + (i + 0.5) * CELL + 7}" font-family="sans-serif" '
            f'font-size="18" text-anchor="middle" fill="{colour}">{x:g}</text>'
        )
    return parts


def strip(stages: dict[str, np.ndarray]) -> str:
    """All stages side by side with what was done between them."""
    titles = {
        "before": "S before",
        "decay": "decay: Diag(alpha) S",
        "erase": "erase: (I - beta k k^T) S",
        "write": "write: S + beta k v^T",
    }
    font = 'font-family="sans-serif" font-size="14" text-anchor="middle" fill="#102030"'
    step, top = 210, 40
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="840" height="170" role="img" aria-label="One token">',
        '<rect width="840" height="170" fill="#ffffff"/>',
    ]
    for n, (name, S) in enumerate(stages.items()):
        left = n * step + 48
        parts.append(f'<text x="{left + CELL}" y="24" {font}>{titles[name]}</text>')
        parts += cells(S, left, top)
        if n:
            x, y = left - 62, top + CELL
            parts.append(f'<path d="M{x} {y} h26 m-7 -6 l7 6 l-7 6" stroke="#5a7fa5" stroke-width="2" fill="none"/>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Write one file for every stage."""
    S, k, v = np.array([[10.0, 10.0], [2.0, 2.0]]), np.array([0.0, 1.0]), np.array([5.0, 5.0])
    stages = {"before": S}
    stages["decay"] = decay(S, np.array([1.0, 0.5]))
    stages["erase"] = erase(stages["decay"], k, 1.0)
    stages["write"] = write(stages["erase"], k, v, 1.0)
    for name, state in stages.items():
        (Path(__file__).parent / f"{name}.svg").write_text(picture(state))
    (Path(__file__).parent / "update.svg").write_text(strip(stages))


if __name__ == "__main__":
    main()
