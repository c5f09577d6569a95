"""The notebook of the examples, from its first cell to its last: on a tiny model and a few rows, since the tests have no other."""

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")

NOTEBOOK = Path(__file__).parents[3] / "examples" / "notebook.ipynb"


def test_it_runs_to_its_end(tiny, tmp_path, monkeypatch):
    rows = [{"question": f"what is {a} plus two", "answer": f"two plus two <<2+2=4>>four\n#### {a}"} for a in ("two", "three", "four") * 16]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("TOKTUNE_MODEL", str(tiny))
    monkeypatch.setenv("GSM8K", str(data))
    monkeypatch.setenv("TOKTUNE_OUTPUT", str(tmp_path / "out"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    told = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "written by itself" in told and "PeftModel" in told


def test_its_outputs_are_in_it():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.outputs or cell.source.startswith("def ") for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
