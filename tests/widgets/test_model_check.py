from __future__ import annotations

from widgets.model_check import ModelCheck, model_check_view
from workbench.layers import LayerInfo
from workbench.preflight import Preflight, RuntimeCheck

LAYER = LayerInfo(name="fc", kind="Linear", shape=(4, 4), parameters=20)
TABLE = LayerInfo(name="table", kind="Embedding", shape=(4, 4), parameters=16, activations="its input is indices")
FIXED = LayerInfo(name="own", kind="Own", shape=(2, 2), parameters=4, weights="no", activations="no")
RUNTIMES = (
    RuntimeCheck(runtime="onnxruntime", precision="fp32", works=True, said=""),
    RuntimeCheck(runtime="onnxruntime", precision="int8", works=False, said="no kernel for it"),
    RuntimeCheck(runtime="eager", precision="fp32", works=False, said="does not run"),
)


def found(**more):
    return Preflight(model="net", parameters=40, layers=(LAYER, TABLE, FIXED), memory=2_500_000, **more)


def test_it_says_how_much_can_be_quantized_and_which_runtimes_take_it():
    view = model_check_view(found(runtimes=RUNTIMES, complete=True))

    texts = {line["text"]: line["ok"] for line in view["lines"]}
    assert texts["2 of 3 layers can be quantized, 90.0 % of the parameters"]
    assert texts["onnxruntime: fp32"]
    assert not texts["eager: does not take it"]
    assert {"name": "onnxruntime int8", "text": "no kernel for it"} in view["more"]
    assert view["remark"] == ""


def test_before_anything_is_known_it_says_when_it_will_be():
    assert "after its first numbers" in model_check_view(None)["quiet"]


def test_it_follows_the_session(session):
    fake = session()
    part = ModelCheck(fake)
    fake.preflight = found(warnings=("Pixels go from 0 to 255.",))
    part.refresh()

    assert part.view["warnings"] == ["Pixels go from 0 to 255."]
    assert part.view["remark"] == "looking…"
