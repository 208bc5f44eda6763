"""Large vocabularies: the frequent words have wide vectors, the rare ones narrow ones, and these cost less.

Adaptive softmax, Grave et al. 2016 (arXiv 1609.04309); adaptive inputs with tied weights, Baevski and Auli 2018 (arXiv
1809.10853). Tokens are numbered by frequency. Cutoffs c_1 < ... < c_K part them into the head, tokens below c_1, and K
clusters; part i has vectors of width d_i = H // div^i and a projection P_i (H, d_i).
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
"""Vectors begin with a standard deviation of 0.5 / sqrt(d_i), projections with 0.5 / sqrt(H)."""


class AdaptiveEmbedding(nn.Module):
    """Tokens as vectors: sqrt(H) P_i e, for the e in part i's table. Without cutoffs, sqrt(H) e and no projection.

    Dropout is on e.
    """

    def __init__(
        self, vocab: int, d_model: int, cutoffs: Sequence[int] = (), div: int = 4, dropout: float = 0.0
    ) -> None:
        """Raises UserError for cutoffs that do not increase from above 0 to below `vocab`, or too many for d_model."""
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
        """tokens int64 (...) -> r(..., H).

        Every part looks up every token, and what is not its own counts nothing: no shape depends on values, and the
        narrow parts cost little.
        """
        part = self.part(tokens)
        total = self._share(0, tokens, part)
        for i in range(1, len(self.tables)):
            total = total + self._share(i, tokens, part)
        return math.sqrt(self.d_model) * total

    def _share(self, i: int, tokens: Tensor, part: Tensor) -> Tensor:
        """P_i e, r(..., H), for the tokens of part i, and zeros for the others."""
        own = part == i
        vector = F.embedding(torch.where(own, tokens - self.bounds[i], 0), self.tables[i])
        vector = self.dropout(vector) * own[..., None]
        return F.linear(vector, self.projections[i]) if len(self.projections) else vector

    def part(self, tokens: Tensor) -> Tensor:
        """0 for a token of the head, i for one of cluster i. The last holds what is beyond the vocabulary, to fail."""
        part = torch.zeros_like(tokens)
        for cutoff in self.bounds[1:-1]:
            part = part + (tokens >= cutoff)
        return part


class AdaptiveSoftmax(nn.Module):
    """Distributions over the vocabulary, with the tables of an `AdaptiveEmbedding` and its clusters' projections.

    Not `tied`, it has tables and projections of its own, of the same shapes.

    The head is a softmax over its own tokens and K clusters: logits (h Q) [E_0; G]^T + bias, with a projection Q and
    vectors G of its own. p(token) is its p in the head, or p(its cluster) times its p among the cluster's tokens, whose
    logits are (h P_i) E_i^T + bias. Without cutoffs: the softmax of h E^T + bias. Dropout is on h Q and h P_i. Logits
    are at least float32.
    """

    def __init__(self, embedding: AdaptiveEmbedding, dropout: float = 0.0, tied: bool = True) -> None:
        super().__init__()
        if not tied:
            self.tables = nn.ParameterList(_like(table) for table in embedding.tables)
            self.projections = nn.ParameterList(_like(projection) for projection in embedding.projections[1:])
        # In a tuple, so that its parameters are not this module's, too: they are saved and optimised once.
        self._tied = (embedding,)
        bounds, H = embedding.bounds, embedding.d_model
        self.n_clusters = len(bounds) - 2
        self.width = bounds[1] + self.n_clusters
        """Logits that every token costs."""
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(bounds[-1]))
        if self.n_clusters:
            self.projection = _normal(H, H, fan=H)
            self.cluster_weight = _normal(self.n_clusters, H, fan=H)
            self.cluster_bias = nn.Parameter(torch.zeros(self.n_clusters))

    def nats(self, hidden: Tensor, target: Tensor) -> Tensor:
        """-log p(target), r(...), for hidden r(..., H) and target int64 (...).

        The logits of a cluster are made only where the target is in it.
        """
        (embedding,) = self._tied
        h, wanted = hidden.reshape(-1, hidden.shape[-1]), target.reshape(-1)
        part = embedding.part(wanted)
        words, clusters, log_z = self._head(h)
        in_head = wanted.where(part == 0, 0)
        chosen = words.gather(1, in_head[:, None])[:, 0]
        for i in range(1, self.n_clusters + 1):
            # Also where no row is left: then the gradients are zeros, and every parameter has one.
            rows = (part == i).nonzero()[:, 0]
            inside = F.cross_entropy(self._tail(i, h[rows]), wanted[rows] - embedding.bounds[i], reduction="none")
            chosen = chosen.index_copy(0, rows, clusters[rows, i - 1] - inside)
        return (log_z - chosen).view(target.shape)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """log p of every token, r(..., V), for hidden r(..., H); their exponentials sum to one."""
        words, clusters, log_z = self._head(hidden)
        log_z = log_z[..., None]
        parts = [words - log_z]
        for i in range(1, self.n_clusters + 1):
            parts.append(clusters[..., i - 1 : i] - log_z + self._tail(i, hidden).log_softmax(-1))
        return torch.cat(parts, dim=-1)

    def parts(self) -> Iterator[tuple[Tensor | None, Tensor, Tensor]]:
        """Of each part of the vocabulary: projection r(d_i, H) (None: there is none), weight r(T, d_i) and bias r(T).

        Logits are weight (projection h) + bias; the first part's are of its tokens, then of the clusters.
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
        """The vectors r(T, d_i) of part i's tokens."""
        return self.tables[i] if hasattr(self, "tables") else self._tied[0].tables[i]

    def _projection(self, i: int) -> Tensor:
        """The projection r(H, d_i) of cluster i, which is 1 to K."""
        return self.projections[i - 1] if hasattr(self, "projections") else self._tied[0].projections[i]

    def _head(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the head's tokens r(..., c_1) and of the clusters r(..., K), and the log of their normaliser.

        They are kept apart, because joining either them or their weights would copy megabytes for each token.
        """
        h = self.dropout(F.linear(h, self.projection.T) if self.n_clusters else h)
        words = self._against_table(0, h)
        log_z = words.logsumexp(-1)
        if not self.n_clusters:
            return words, words[..., :0], log_z
        clusters = _at_least_float32(F.linear(h, self.cluster_weight, self.cluster_bias))
        return words, clusters, torch.logaddexp(log_z, clusters.logsumexp(-1))

    def _tail(self, i: int, h: Tensor) -> Tensor:
        """Logits of the tokens of cluster i, which is 1 to K."""
        return self._against_table(i, self.dropout(F.linear(h, self._projection(i).T)))

    def _against_table(self, i: int, h: Tensor) -> Tensor:
        embedding = self._tied[0]
        bias = self.bias[embedding.bounds[i] : embedding.bounds[i + 1]]
        return _at_least_float32(F.linear(h, self._table(i), bias))


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _like(parameter: Tensor) -> nn.Parameter:
    """Another one with the shape and the initial size of this one."""
    return nn.Parameter(torch.randn_like(parameter) * parameter.std())


def _normal(rows: int, columns: int, fan: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * (INIT_SCALE / math.sqrt(fan)))
