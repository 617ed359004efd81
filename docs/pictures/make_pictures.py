"""Draw the state after each stage of the walkthrough in docs/equation.md as SVG: python docs/pictures/make_pictures.py."""

from pathlib import Path

import numpy as np

from kda_spec import decay, erase, write

CELL = 56


def picture(S: np.ndarray) -> str:
    """The matrix as shaded cells with their numbers, in SVG; a deeper blue is a larger number."""
    rows, columns = S.shape
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * CELL + 2}" height="{rows * CELL + 2}">']
    for (i, j), x in np.ndenumerate(S):
        shade = float(x) / 10
        text = "#ffffff" if shade > 0.6 else "#102030"
        parts.append(
            f'<rect x="{j * CELL + 1}" y="{i * CELL + 1}" width="{CELL}" height="{CELL}" stroke="#5a7fa5" '
            f'fill="rgb({245 - 200 * shade:.0f},{248 - 145 * shade:.0f},{252 - 70 * shade:.0f})"/>'
            f'<text x="{(j + 0.5) * CELL + 1}" y="{(i + 0.5) * CELL + 7}" font-family="sans-serif" font-size="18" '
            f'text-anchor="middle" fill="{text}">{x:g}</text>'
        )
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


if __name__ == "__main__":
    main()
