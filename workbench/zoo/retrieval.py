"""Questions about making models smaller, and the passage that answers each: a search for sentence encoders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.task import Task
from workbench.zoo import checkpoints, encoder, packages

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZERS = packages.Package("tokenizers", "tokenizers")
TOKENIZER = packages.File(
    encoder.PACKAGE, "model/tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
)
TEXTS = "retrieval/compression.json"
TOKENS = 36
"""Of every text: the longest passage has as many, shorter ones are padded, so that one graph serves all."""


def task() -> Task:
    """Cosine of every vector to fp32, and how often a question finds its passage among all passages.

    Raises:
        WorkbenchError: A package is not installed, or the texts or the tokenizer are missing or altered.
    """
    questions, passages, others = texts()
    asked = range(len(questions))
    answers = range(len(questions), len(questions) + len(passages))
    return Task.embedding(
        tokens([*questions, *passages]),
        queries=asked,
        documents=answers,
        relevant=answers,
        recall_at=(1, 5),
        calibration=tokens(others),
        name="retrieval",
        description=f"{len(questions)} questions, each answered by one of {len(passages)} passages",
        noun="sentences",
    )


def texts() -> tuple[list[str], list[str], list[str]]:
    """Questions, the passages that answer them, and sentences about other things, for calibration.

    Raises:
        WorkbenchError: The file is missing or altered.
    """
    path = checkpoints.data_folder() / TEXTS
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        pairs = held["pairs"]
        return [p["question"] for p in pairs], [p["passage"] for p in pairs], list(held["sentences"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkbenchError(f"{path} cannot be read ({error!r}). Restore it: `git checkout -- data`.") from error


def tokens(sentences: Sequence[str]) -> dict[str, Tensor]:
    """What the encoder takes: ``input_ids`` and ``attention_mask``, shape (n, 36).

    Args:
        sentences: Texts; of each the first 36 tokens count.

    Raises:
        WorkbenchError: A package is not installed, or the tokenizer is not the one that was released.
    """
    found = _tokenizer().encode_batch(list(sentences))
    return {
        "input_ids": torch.tensor([each.ids for each in found]),
        "attention_mask": torch.tensor([each.attention_mask for each in found]),
    }


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    path = TOKENIZER.checked()
    if TOKENIZERS.folder() is None:
        raise WorkbenchError(f"Splitting text needs tokenizers. {packages.INSTALL}")
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(path))
    made.enable_padding(length=TOKENS)
    made.enable_truncation(TOKENS)
    return made
