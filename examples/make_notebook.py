"""Write first_hour.ipynb from first_hour.py, whose cells begin with `# %%` or `# %% [markdown]`.

    python examples/make_notebook.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE, NOTEBOOK = HERE / "first_hour.py", HERE / "first_hour.ipynb"
CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def notebook(script: str) -> str:
    """The notebook as JSON (nbformat 4.5), without outputs. The id of a cell is its number."""
    _, *parts = CELL.split(script)
    cells = []
    for number, (text, body) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        if text:
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        kind = {"cell_type": "markdown"} if text else {"cell_type": "code", "execution_count": None, "outputs": []}
        lines = body.strip("\n").splitlines(keepends=True)
        cells.append({**kind, "id": f"cell-{number}", "metadata": {}, "source": lines})
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"}}
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(SOURCE.read_text()))
