"""Embedding and softmax for large vocabularies: frequent words have wide vectors, rare ones narrow and cheaper ones.

Sources: adaptive softmax, Grave et al. 2016 (arXiv 1609.04309); adaptive inputs with tied weights, Baevski and Auli
2018 (arXiv 1809.10853). Tokens are numbered by frequency. The cutoffs c_1 < ... < c_K divide them into parts: the head,
which is tokens below c_1, and K clusters. Part i has vectors of width d_i = H // div^i and a projection P_i r(H, d_i).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4gen.errors import UserError

INIT_SCALE = 0.5
"""The standard deviation is 0.5 / sqrt(d_i) for fresh vectors, 0.5 / sqrt(H) for fresh projections."""


class AdaptiveEmbedding(nn.Module):
    """Embedding sqrt(H) P_i e of a token, where e is its row in the table of its part i; dropout acts on e.

    Without cutoffs it is sqrt(H) e, and there are no projections.
    """

    def __init__(
        self, vocab: int, d_model: int, cutoffs: Sequence[int] = (), div: int = 4, dropout: float = 0.0
    ) -> None:
        """Make fresh tables.

        Raises:
            UserError: the cutoffs do not increase from above 0 to below `vocab`, or are too many for d_model.
        """
        super().__init__()
        bounds = (0, *cutoffs, vocab)
        if any(high <= low for low, high in pairwise(bounds)):
            raise UserError(
                f"the cutoffs are {list(cutoffs)}: expected increasing numbers between 0 and the vocabulary of {vocab}"
            )
        widths = [d_model // div**i for i in range(len(bounds) - 1)]
        if widths[-1] == 0:
            raise UserError(
                f"{len(cutoffs)} cutoffs with vectors {div} times narrower each leave no width of d_model = {d_model}: "
                "expected fewer cutoffs or a wider model"
            )
        self.bounds, self.d_model = bounds, d_model
        self.dropout = nn.Dropout(dropout)
        self.tables = nn.ParameterList(
            _normal(high - low, width, fan=width) for (low, high), width in zip(pairwise(bounds), widths, strict=True)
        )
        self.projections = nn.ParameterList(_normal(d_model, width, fan=d_model) for width in widths if cutoffs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens int64 (...): r(..., H).

        Every part looks up every token and multiplies what is not its own by zero. So no shape depends on values, and
        since the other parts are narrow, it costs little.
        """
        part = self.part(tokens)
        total = self._share(0, tokens, part)
        for i in range(1, len(self.tables)):
            total = total + self._share(i, tokens, part)
        return math.sqrt(self.d_model) * total

    def _share(self, i: int, tokens: Tensor, part: Tensor) -> Tensor:
        """Return P_i e, r(..., H), for the tokens of part i and zeros for the others."""
        own = part == i
        vector = F.embedding(torch.where(own, tokens - self.bounds[i], 0), self.tables[i])
        vector = self.dropout(vector) * own[..., None]
        return F.linear(vector, self.projections[i]) if len(self.projections) else vector

    def part(self, tokens: Tensor) -> Tensor:
        """Return 0 for tokens of the head and i for those of cluster i.

        Tokens beyond the vocabulary fall into the last part, where looking them up fails.
        """
        part = torch.zeros_like(tokens)
        for cutoff in self.bounds[1:-1]:
            part = part + (tokens >= cutoff)
        return part


class AdaptiveSoftmax(nn.Module):
    """Distribution over the vocabulary that shares tables and cluster projections with an `AdaptiveEmbedding`.

    The head is a softmax over its own tokens and K clusters, with logits (h Q) [E_0; G]^T + bias; the projection Q and
    the vectors G are its own. The probability of a token is its probability in the head, or that of its cluster times
    its probability among the cluster's tokens, whose logits are (h P_i) E_i^T + bias. Without cutoffs it is the softmax
    of h E^T + bias. Dropout acts on h Q and h P_i. Logits are at least float32.

    If not `tied`, it has tables and projections of its own, of the same shapes.
    """

    def __init__(self, embedding: AdaptiveEmbedding, dropout: float = 0.0, tied: bool = True) -> None:
        super().__init__()
        if not tied:
            self.tables = nn.ParameterList(_like(table) for table in embedding.tables)
            self.projections = nn.ParameterList(_like(projection) for projection in embedding.projections[1:])
        # The tuple keeps torch from registering the embedding here too: its parameters are saved and optimised once.
        self._tied = (embedding,)
        bounds, H = embedding.bounds, embedding.d_model
        self.n_clusters = len(bounds) - 2
        self.width = bounds[1] + self.n_clusters
        """The number of logits that every token costs: those of the head."""
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(bounds[-1]))
        if self.n_clusters:
            self.projection = _normal(H, H, fan=H)
            self.cluster_weight = _normal(self.n_clusters, H, fan=H)
            self.cluster_bias = nn.Parameter(torch.zeros(self.n_clusters))

    def nats(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Return -log p(target) in nats, r(...), for hidden r(..., H) and target int64 (...).

        The logits of a cluster are made only for the targets in it.
        """
        (embedding,) = self._tied
        h, wanted = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1)
        part = embedding.part(wanted)
        words, clusters, log_z = self._head(h)
        in_head = wanted.where(part == 0, 0)
        chosen = words.gather(1, in_head[:, None])[:, 0]
        for i in range(1, self.n_clusters + 1):
            # This runs even if no target is in the cluster: its parameters then have gradients, of zeros.
            rows = (part == i).nonzero()[:, 0]
            inside = F.cross_entropy(self._tail(i, h[rows]), wanted[rows] - embedding.bounds[i], reduction="none")
            chosen = chosen.index_copy(0, rows, clusters[rows, i - 1] - inside)
        return (log_z - chosen).view(target.shape)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Return log p of every token, r(..., V), for hidden r(..., H)."""
        words, clusters, log_z = self._head(hidden)
        log_z = log_z[..., None]
        parts = [words - log_z]
        for i in range(1, self.n_clusters + 1):
            parts.append(clusters[..., i - 1 : i] - log_z + self._tail(i, hidden).log_softmax(-1))
        return torch.cat(parts, dim=-1)

    def parts(self) -> Iterator[tuple[Tensor | None, Tensor, Tensor]]:
        """Yield projection r(d_i, H) or None, weight r(T, d_i) and bias r(T) of each part of the vocabulary.

        Its logits are weight (projection h) + bias; those of the first part are for its tokens, then for the clusters.
        """
        (embedding,) = self._tied
        biases = self.bias.split([high - low for low, high in pairwise(embedding.bounds)])
        if not self.n_clusters:
            yield None, self._table(0), self.bias
            return
        weight = torch.cat([self._table(0), self.cluster_weight])
        yield self.projection.T, weight, torch.cat([biases[0], self.cluster_bias])
        for i in range(1, self.n_clusters + 1):
            yield self._projection(i).T, self._table(i), biases[i]

    def _table(self, i: int) -> Tensor:
        """Return the vectors r(T, d_i) of part i's tokens."""
        return self.tables[i] if hasattr(self, "tables") else self._tied[0].tables[i]

    def _projection(self, i: int) -> Tensor:
        """Return the projection r(H, d_i) of cluster i, 1 to K."""
        return self.projections[i - 1] if hasattr(self, "projections") else self._tied[0].projections[i]

    def _head(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the head's tokens r(..., c_1) and of the clusters r(..., K), and the log normaliser.

        The two are kept apart, because joining them, or their weights, would copy megabytes for each token.
        """
        h = self.dropout(F.linear(h, self.projection.T) if self.n_clusters else h)
        words = self._against_table(0, h)
        log_z = words.logsumexp(-1)
        if not self.n_clusters:
            return words, words[..., :0], log_z
        clusters = _at_least_float32(F.linear(h, self.cluster_weight, self.cluster_bias))
        return words, clusters, torch.logaddexp(log_z, clusters.logsumexp(-1))

    def _tail(self, i: int, h: Tensor) -> Tensor:
        """Return the logits of the tokens of cluster i, 1 to K."""
        return self._against_table(i, self.dropout(F.linear(h, self._projection(i).T)))

    def _against_table(self, i: int, h: Tensor) -> Tensor:
        embedding = self._tied[0]
        bias = self.bias[embedding.bounds[i] : embedding.bounds[i + 1]]
        return _at_least_float32(F.linear(h, self._table(i), bias))


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _like(parameter: Tensor) -> nn.Parameter:
    """Make a fresh parameter with the shape and the standard deviation of this one."""
    return nn.Parameter(torch.randn_like(parameter) * parameter.std())


def _normal(rows: int, columns: int, fan: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * (INIT_SCALE / math.sqrt(fan)))
