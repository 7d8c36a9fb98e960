from __future__ import annotations

import importlib.util
from collections import Counter

from fuzzing import FAILURES, run
from mutations import ENDINGS, mutated

FILES = 200


def test_mutated_files_end_in_clear_errors(tmp_path):
    kinds = [kind for kind in ENDINGS if kind != "config" or importlib.util.find_spec("transformers")]
    canary = tmp_path / "canary"
    files = mutated(tmp_path, FILES, 4, kinds, canary)
    outcomes = list(run(files, canary))
    assert len(outcomes) == FILES
    failed = [outcome for outcome in outcomes if outcome.result in FAILURES]
    assert not failed, "\n".join(f"{o.path} {o.result} {o.detail}" for o in failed[:5])
    by_kind = Counter(o.kind for o in outcomes if o.result != "loaded")
    assert all(by_kind[kind] > FILES / len(kinds) / 4 for kind in kinds), f"the mutations do too little harm: {by_kind}"
