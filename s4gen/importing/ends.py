"""Read both ends of a model of state-spaces/s4: the embedding and the head, plain or adaptive."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.importing.ledger import Ledger
from s4gen.importing.options import Options


class Ends:
    """The tensors of embedding and head by our names, and the values that `ModelConfig` needs to build both."""

    def __init__(self, vocab: int, d_model: int, tensors: dict[str, Tensor]) -> None:
        """Hold a plain pair; `_adaptive` sets `cutoffs`, `div` (the ratio of two parts' widths) and `tied`."""
        self.vocab, self.d_model, self.tensors = vocab, d_model, tensors
        self.cutoffs: tuple[int, ...] = ()
        self.div = 4
        self.tied = False


def is_adaptive(ledger: Ledger) -> bool:
    """Return whether the file holds a model with adaptive embedding and softmax (arXiv 1809.10853)."""
    return any(".emb_layers." in key for key in ledger.names)


def read_ends(ledger: Ledger, options: Options) -> Ends:
    """Read the tensors of embedding and head.

    Raises:
        UserError: a tensor is missing or has another size.
    """
    return _adaptive(ledger, options) if is_adaptive(ledger) else _plain(ledger)


def _plain(ledger: Ledger) -> Ends:
    """Read a table of vectors r(V, H) and a linear layer r(V, H)."""
    # HEAD and v3 wrap encoder and decoder in sequences of modules, which puts a ".0" into the keys; v2 does not.
    encoder = "encoder.0.weight" if "encoder.0.weight" in ledger else "encoder.weight"
    decoder = (
        "decoder.0.output_transform" if "decoder.0.output_transform.weight" in ledger else "decoder.output_transform"
    )
    vocab, d_model = _matrix(ledger, encoder)
    if (outputs := _matrix(ledger, f"{decoder}.weight")[0]) != vocab:
        raise UserError(
            f"{ledger.where}: {decoder}.weight gives {outputs} outputs, and {encoder} knows {vocab} tokens: this model "
            "predicts something other than its next token"
        )
    tensors = {"embedding.weight": ledger.take(encoder, vocab, d_model)}
    tensors["head.weight"] = ledger.take(f"{decoder}.weight", vocab, d_model)
    tensors["head.bias"] = ledger.take(f"{decoder}.bias", vocab)
    return Ends(vocab, d_model, tensors)


def _matrix(ledger: Ledger, key: str) -> tuple[int, int]:
    """Return the shape of a matrix; anything that is no matrix is a UserError."""
    shape = ledger.shape(key)
    if len(shape) != 2:
        raise UserError(f"{ledger.where}: {key} has shape {shape}, expected two axes")
    return shape[0], shape[1]


def _adaptive(ledger: Ledger, options: Options) -> Ends:
    """Read adaptive embedding and softmax of K clusters behind the frequent tokens; both may share their tensors."""
    encoder = _encoder(ledger)
    if "loss.cluster_weight" not in ledger:
        raise UserError(
            f"{ledger.where}: the key loss.cluster_weight is missing, without which an adaptive softmax has no clusters"
        )
    K, d_model = _matrix(ledger, "loss.cluster_weight")
    tables, projections, cutoffs, div = _embedding(ledger, encoder, options, K, d_model)
    ends = Ends(sum(map(len, tables)), d_model, {})
    ends.cutoffs, ends.div, out = cutoffs, div, ends.tensors
    for i, (table, projection) in enumerate(zip(tables, projections, strict=True)):
        out[f"embedding.tables.{i}"], out[f"embedding.projections.{i}"] = table, projection
    weights, outward = _outward(ledger, tables, projections, div)
    # `_outward` hands back the very same objects where the file has no tensors of the softmax's own, so identity, not
    # equality of values, tells whether they were trained as one parameter.
    ends.tied = weights is tables and all(a is b for a, b in zip(outward[1:], projections[1:], strict=True))
    if not ends.tied:
        out |= {f"head.tables.{i}": table.clone() for i, table in enumerate(weights)}
        out |= {f"head.projections.{i}": projection.clone() for i, projection in enumerate(outward[1:])}
    out["head.projection"] = outward[0].clone()
    # The reference reads the log-probability of cluster i at the i-th position from the end; ours is in order.
    out["head.cluster_weight"] = ledger.take("loss.cluster_weight", K, d_model).flip(0)
    out["head.cluster_bias"] = ledger.take("loss.cluster_bias", K).flip(0)
    biases = [f"loss.out_layers_biases.{i}" for i in range(1 if div == 1 else K + 1)]
    sizes = [ends.vocab] if div == 1 else [len(table) for table in tables]
    out["head.bias"] = torch.cat([ledger.take(key, size) for key, size in zip(biases, sizes, strict=True)])
    for key in ledger.names:
        if key.startswith("loss_val."):  # the reference's validation loss registers the same tensors once more
            ledger.repeats(key, key.replace("loss_val.", "loss.", 1))
    return ends


def _embedding(
    ledger: Ledger, encoder: str, options: Options, K: int, d_model: int
) -> tuple[list[Tensor], list[Tensor], tuple[int, ...], int]:
    """Read the embedding's K + 1 parts of T_i tokens and width d_i.

    Return the tables r(T_i, d_i), the projections r(H, d_i), the cutoffs (the first token of each cluster) and the
    ratio d_0 / d_1 of the widths.
    """
    if f"{encoder}emb_layers.1.weight" not in ledger:
        return _undivided(ledger, encoder, options, K, d_model)
    shapes = [_matrix(ledger, f"{encoder}emb_layers.{i}.weight") for i in range(K + 1)]
    div = shapes[0][1] // max(1, shapes[1][1])  # a broken file may say 0; the widths are compared just below
    if [width for _, width in shapes] != [d_model // div**i for i in range(K + 1)]:
        raise UserError(
            f"{ledger.where}: the parts of the embedding have widths {[width for _, width in shapes]}, expected "
            f"{d_model} for the first, and the same ratio between each part and the next"
        )
    tables = [ledger.take(f"{encoder}emb_layers.{i}.weight", *shape) for i, shape in enumerate(shapes)]
    projections = [ledger.take(f"{encoder}emb_projs.{i}", d_model, width) for i, (_, width) in enumerate(shapes)]
    cutoffs = tuple(accumulate(count for count, _ in shapes[:-1]))
    options.agree("cutoffs", list(cutoffs), "the sum of the parts' sizes")
    options.agree("div_val", div, "the ratio of the parts' widths")
    return tables, projections, cutoffs, div


def _undivided(
    ledger: Ledger, encoder: str, options: Options, K: int, d_model: int
) -> tuple[list[Tensor], list[Tensor], tuple[int, ...], int]:
    """Split the one table that all parts share where div_val = 1; the configuration has to name the cutoffs.

    Nothing is projected there, so the projections are identities.
    """
    key = f"{encoder}emb_layers.0.weight"
    vocab, width = _matrix(ledger, key)
    if width != d_model:
        raise UserError(f"{ledger.where}: {key} has vectors of width {width}, expected d_model = {d_model}")
    given = options.need("cutoffs", f"{K} increasing numbers below {vocab}")
    cutoffs = tuple(given) if isinstance(given, list | tuple) else ()
    bounds = (0, *cutoffs, vocab)
    if len(cutoffs) != K or any(low >= high for low, high in pairwise(bounds)):
        raise UserError(f"{options.source}: cutoffs = {given}: expected {K} increasing numbers below {vocab}")
    parts = ledger.take(key, vocab, width).split([high - low for low, high in pairwise(bounds)])
    tables = [part.clone() for part in parts]
    identity = torch.eye(d_model)
    return tables, [identity.clone() for _ in tables], cutoffs, 1


def _outward(
    ledger: Ledger, tables: list[Tensor], projections: list[Tensor], div: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the softmax's tables and projections; where it shares the embedding's, these are the same objects."""
    weights, outward = tables, list(projections)
    stored = "loss.out_layers_weights.{}"
    if stored.format(0) in ledger:
        if div == 1:
            whole = ledger.take(stored.format(0), sum(map(len, tables)), tables[0].shape[1])
            weights = list(whole.split([len(table) for table in tables]))
        else:
            weights = [ledger.take(stored.format(i), *table.shape) for i, table in enumerate(tables)]
    for i, projection in enumerate(projections):
        if f"loss.out_projs.{i}" in ledger or (i == 0 and div > 1):  # the head's own is never shared
            outward[i] = ledger.take(f"loss.out_projs.{i}", *projection.shape)
    for key in ledger.names:
        if key.startswith("loss.shared_out_projs."):
            ledger.repeats(key, key.replace("loss.shared_out_projs.", f"{_encoder(ledger)}emb_projs."))
    return weights, outward


def _encoder(ledger: Ledger) -> str:
    """Return the prefix of the adaptive embedding's keys, such as "encoder.0."."""
    return next(key for key in ledger.names if ".emb_layers." in key).partition("emb_layers.")[0]
