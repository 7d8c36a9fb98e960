from __future__ import annotations

import csv
import io
from types import SimpleNamespace

from widgets.tried import Tried, as_csv, tried_view
from workbench.recipe import Quantization, Recipe

W4 = Recipe(quantization=Quantization(weight_bits=4))


def test_the_latest_is_on_top_and_the_current_is_marked(report):
    view = tried_view((report(Recipe(), lost=0, gained=0, latency=None), report(W4, lost=127, gained=83)), W4)
    top, foot = view["rows"]
    shown = [top[name] for name in ("name", "accuracy", "drop", "kilobytes", "milliseconds", "flips", "now")]
    assert shown == ["W4", "91.42", "−0.44", "48.9", "0.0320", "210", True]
    assert (foot["name"], foot["drop"], foot["milliseconds"], foot["now"]) == ("fp32", "", "–", False)
    assert view["remark"] == "2 recipes"


def test_the_code_makes_the_recipe_again(report):
    scope: dict = {}
    exec(tried_view((), W4)["code"], scope)  # noqa: S102
    assert scope["recipe"] == W4


def test_csv_reads_back(report):
    reports = (report(Recipe(), lost=0, gained=0, latency=None), report(W4))
    rows = list(csv.DictReader(io.StringIO(as_csv(reports))))
    assert [Recipe.from_json(row["recipe"]) for row in rows] == [Recipe(), W4]
    assert float(rows[1]["accuracy"]) == reports[1].accuracy.value and rows[0]["seconds"] == ""


def test_a_row_restores_its_recipe(session, report, send):
    done = report(W4)
    s = session(tried=(done,))
    send(Tried(s), {"do": "restore", "key": W4.key})
    assert s.calls == [("restore", W4.key)]


def test_the_file_of_the_recipe_goes_to_the_browser(session, send, monkeypatch):
    asked = []

    def export(recipe, path):
        asked.append(recipe)
        path.write_bytes(b"packed")
        return path

    shown = session(recipe=W4)
    shown.bench = SimpleNamespace(name="my model/1", export=export)
    part = Tried(shown)
    sent = []
    monkeypatch.setattr(part, "send", lambda message, buffers: sent.append((message, buffers)))
    send(part, {"do": "export"})
    assert asked == [W4]
    assert sent == [({"file": "my-model-1-W4.safetensors"}, [b"packed"])]
