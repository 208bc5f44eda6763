"""State dicts as state-spaces/s4 writes them, with random weights, and by definition what such a model computes.

The definition is dense matrices and loops in float64, with nothing of s4gen in it; the conventions are those of the
reference (HEAD, v3.0.0, v2), and `tests/test_import_fixtures.py` holds them against numbers that it made itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[Any]


@dataclass
class Theirs:
    """A model to be made. `blocks` of an isotropic one: such as ["ssm", "ssm", "ff"], repeated n_layers times."""

    version: str = "HEAD"
    kind: str = "s4"
    d_model: int = 6
    d_state: int = 8
    n_layers: int = 2
    n_ssm: int = 2
    rank: int = 1
    vocab: int = 11
    length: int = 12
    """Of the kernel that C~ was made for; 0: C is stored itself."""
    disc: str = "zoh"
    dt_transform: str = "exp"
    prenorm: bool = True
    transposed: bool = False
    blocks: tuple[str, ...] = ("ssm",)
    pool: tuple[int, ...] = ()
    expand: int = 2
    ff: int = 2
    hurwitz: bool = True
    cutoffs: tuple[int, ...] = ()
    div: int = 2
    tie_weights: bool = True
    tie_projs: bool = True
    seed: int = 0
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.systems: dict[str, tuple[Array, ...]] = {}
        width = self.d_model
        if self.pool:
            widths = [width * self.expand**level for level in range(len(self.pool) + 1)]
            for i, stride in enumerate(self.pool):
                self._pool(f"model.d_layers.{i}", widths[i + 1], widths[i] * stride)
            self._level("model.c_layers", widths[-1], 0)
            for t, i in enumerate(reversed(range(len(self.pool)))):
                self._pool(f"model.u_layers.{t}.0", widths[i] * self.pool[i], widths[i + 1])
                self._level(f"model.u_layers.{t}", widths[i], 1)
            self._put("model.norm.weight", width), self._put("model.norm.bias", width)
        else:
            for i, kind in enumerate(self.blocks * self.n_layers):
                self._block(f"model.layers.{i}", kind, width)
            if self.prenorm:
                self._norm("model", width)
        self._ends()

    def config(self) -> dict[str, Any]:
        """What stands beside the weights."""
        names = ("kind", "d_model", "d_state", "n_layers", "disc", "dt_transform", "prenorm", "vocab", "transposed")
        return {"version": self.version} | {name: getattr(self, name) for name in names}

    # ---------------------------------------------------------------------------------------------------- the weights

    def _draw(self, *shape: int, scale: float = 0.5) -> Array:
        return (scale * self.random.standard_normal(shape)).astype(np.float32)

    def _put(self, key: str, *shape: int, scale: float = 0.5) -> Array:
        value = self._draw(*shape, scale=scale)
        self.tensors[key] = torch.from_numpy(value)
        return value.astype(np.float64)

    def _linear(self, key: str, n_out: int, n_in: int) -> None:
        self._put(f"{key}.weight", n_out, n_in, scale=n_in**-0.5)
        self._put(f"{key}.bias", *((n_out, 1) if self.transposed and self.version == "v2" else (n_out,)))

    def _norm(self, block: str, width: int) -> None:
        if self.transposed:
            self._put(f"{block}.norm.norm.m", 1), self._put(f"{block}.norm.norm.s", 1)
        else:
            self._put(f"{block}.norm.norm.weight", width), self._put(f"{block}.norm.norm.bias", width)

    def _pool(self, key: str, n_out: int, n_in: int) -> None:
        self._put(f"{key}.linear.bias", n_out)
        self._put(f"{key}.linear.weight_g", n_out, 1), self._put(f"{key}.linear.weight_v", n_out, n_in)

    def _level(self, prefix: str, width: int, first: int) -> None:
        kinds = ("ssm", "ff") if self.ff else ("ssm",)
        for i, kind in enumerate(kinds * self.n_layers):
            self._block(f"{prefix}.{i + first}", kind, width)

    def _block(self, prefix: str, kind: str, width: int) -> None:
        self._norm(prefix, width)
        if kind == "ff":
            self._linear(f"{prefix}.layer.ff.0.0", width * self.ff, width)
            self._linear(f"{prefix}.layer.ff.2", width, width * self.ff)
            return
        self._linear(f"{prefix}.layer.output_linear.0", 2 * width, width)
        self.systems[prefix] = self._ssm(prefix, width)

    def _ssm(self, prefix: str, H: int) -> tuple[Array, ...]:
        """Puts the parameters, and returns Abar (H, N, N), Bbar (H, N), C (H, N) and D (H,) on the full state."""
        S, n, t = self.n_ssm or H, self.d_state // 2, self.tensors
        head = self.version == "HEAD"
        layer = f"{prefix}.layer.layer." if head else f"{prefix}.layer."
        k = f"{layer}kernel." if head else f"{layer}kernel.kernel."
        D = self._put(f"{layer}D", 1, H)[0]
        raw = self._draw(H, scale=0.3) - 2
        dt = np.exp(raw.astype(np.float64)) if self.dt_transform == "exp" else np.log1p(np.exp(raw.astype(np.float64)))
        t[f"{k}inv_dt" if head else f"{k}log_dt"] = torch.from_numpy(raw[:, None] if head else raw)
        real, imag = self._draw(S, n, scale=0.2) - 0.5, (2 * (1 + np.arange(n)) + self._draw(S, n)).astype(np.float32)
        a = -np.exp(real.astype(np.float64))
        s4 = self.kind == "s4"
        if head:
            t[f"{k}A_real"], t[f"{k}A_imag"] = torch.from_numpy(real), torch.from_numpy(imag)
            Lambda = a - 1j * imag
        elif self.version == "v3":
            t[f"{k}inv_w_real" if s4 else f"{k}inv_A_real"] = torch.from_numpy(real)
            t[f"{k}w_imag" if s4 else f"{k}A_imag"] = torch.from_numpy(-imag if s4 else imag)
            Lambda = a - 1j * imag if s4 else a + 1j * imag
        elif self.hurwitz:
            t[f"{k}log_w_real"], t[f"{k}w_imag"] = torch.from_numpy(real), torch.from_numpy(imag)
            Lambda = a + 1j * imag
        else:
            w = np.stack((a.astype(np.float32), imag), -1)
            t[f"{k}w"] = torch.from_numpy(w)
            Lambda = w[..., 0].astype(np.float64) + 1j * w[..., 1]
        pair = (S, n) if self.version == "v3" and not s4 else (1, S, n)
        B = self._pairs(f"{k}B", *pair).reshape(S, n)
        rows = np.arange(H) % S
        full = np.concatenate((Lambda, Lambda.conj()), -1)[rows]
        A = np.stack([np.diag(each) for each in full])
        if s4:
            P = self._pairs(f"{k}P", self.rank, S, n)[:, rows]
            Q = P.conj()
            if not self.hurwitz:
                Q = self._pairs(f"{k}Q", self.rank, S, n)[:, rows]
            P, Q = (np.concatenate((x, x.conj()), -1) for x in (P, Q))
            A = A - np.einsum("rhi,rhj->hij", P, Q)
        B = np.concatenate((B, B.conj()), -1)[rows]
        Abar, Bbar = self._discrete(A, B, dt, "bilinear" if s4 else self.disc)
        C = self._pairs(f"{k}C", 1, H, n)[0]
        C = np.concatenate((C, C.conj()), -1)
        if s4:
            C = self._length(k, Abar, C)
        elif self.version == "v3":
            self._put(f"{k}A", S, n, 2)  # which nothing reads
        return Abar, Bbar, C, D

    def _length(self, k: str, Abar: Array, C: Array) -> Array:
        """The stored C is C~ = C (I - Abar^length): returns C."""
        if self.version == "v2":
            nodes = self._draw(self.length // 2 + 1, 2)
            self.tensors[f"{k}omega"] = self.tensors[f"{k}z"] = torch.from_numpy(nodes)
        else:
            self.tensors[f"{k}l_kernel" if self.version == "HEAD" else f"{k}L"] = torch.tensor(self.length)
        if not self.length:
            return C
        left = np.eye(Abar.shape[-1]) - np.linalg.matrix_power(Abar, self.length)
        return np.linalg.solve(left.transpose(0, 2, 1), C[..., None])[..., 0]

    def _pairs(self, key: str, *shape: int) -> Array:
        value = self._put(key, *shape, 2)
        return value[..., 0] + 1j * value[..., 1]

    @staticmethod
    def _discrete(A: Array, B: Array, dt: Array, disc: str) -> tuple[Array, Array]:
        h, eye = dt[:, None, None], np.eye(A.shape[-1])
        if disc == "zoh":
            a = np.einsum("hii->hi", A)
            e = np.exp(dt[:, None] * a)
            return np.stack([np.diag(each) for each in e]), (e - 1) / a * B
        left = eye - h / 2 * A
        return np.linalg.solve(left, eye + h / 2 * A), np.linalg.solve(left, dt[:, None, None] * B[..., None])[..., 0]

    def _ends(self) -> None:
        H, V = self.d_model, self.vocab
        encoder, decoder = ("encoder.", "decoder.") if self.version == "v2" else ("encoder.0.", "decoder.0.")
        if not self.cutoffs:
            self._put(f"{encoder}weight", V, H)
            self._put(f"{decoder}output_transform.weight", V, H), self._put(f"{decoder}output_transform.bias", V)
            return
        bounds = (0, *self.cutoffs, V)
        K = len(self.cutoffs)
        sizes, widths = np.diff(bounds).tolist(), [H // self.div**i for i in range(K + 1)]
        if self.div == 1:
            sizes, widths = [V], [H]
        for i, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            self._put(f"{encoder}emb_layers.{i}.weight", size, width)
            if self.div > 1:
                shared = self._put(f"{encoder}emb_projs.{i}", H, width)
                self.tensors[f"loss.shared_out_projs.{i}"] = torch.from_numpy(shared.astype(np.float32))
                if i == 0 or not self.tie_projs:
                    self._put(f"loss.out_projs.{i}", H, width)
            if not self.tie_weights:
                self._put(f"loss.out_layers_weights.{i}", size, width)
            self._put(f"loss.out_layers_biases.{i}", size)
        self._put("loss.cluster_weight", K, H), self._put("loss.cluster_bias", K)
        self.tensors |= {key.replace("loss.", "loss_val."): x for key, x in self.tensors.items() if "loss." in key}

    # ------------------------------------------------------------------------------------------------ what it computes

    def logits(self, tokens: Array) -> Array:
        """Logits (B, L, V) of tokens (B, L), or log-probabilities of an adaptive softmax, float64."""
        x = self._embedded(tokens)
        if self.pool:
            x = self._stack(x, 0)
            return self._decoded(_layer_norm(x, self.get("model.norm.weight"), self.get("model.norm.bias")))
        for i, kind in enumerate(self.blocks * self.n_layers):
            x = self._run_block(f"model.layers.{i}", kind, x)
        return self._decoded(self._normed("model", x) if self.prenorm else x)

    def get(self, key: str) -> Array:
        value: Array = self.tensors[key].double().numpy()
        return value

    def _stack(self, x: Array, level: int) -> Array:
        """A level of SaShiMi and all that are coarser: y = s + blocks(s), s = x + what comes back."""
        n = len(self.pool)
        if level == n:
            return x + self._run_level("model.c_layers", x, 0)
        stride, (n_batch, L, H) = self.pool[level], x.shape
        assert L % stride == 0
        windows = x.reshape(n_batch, L // stride, stride, H).transpose(0, 1, 3, 2)  # place in the window fastest
        z = self._pooled(f"model.d_layers.{level}", windows.reshape(n_batch, L // stride, H * stride))
        z = self._pooled(f"model.u_layers.{n - 1 - level}.0", self._stack(z, level + 1))
        z = np.concatenate((np.zeros_like(z[:, :1]), z[:, :-1]), 1)
        s = x + z.reshape(n_batch, L // stride, H, stride).transpose(0, 1, 3, 2).reshape(n_batch, L, H)
        return s + self._run_level(f"model.u_layers.{n - 1 - level}", s, 1)

    def _run_level(self, prefix: str, x: Array, first: int) -> Array:
        for i, kind in enumerate((("ssm", "ff") if self.ff else ("ssm",)) * self.n_layers):
            x = self._run_block(f"{prefix}.{i + first}", kind, x)
        return x

    def _pooled(self, key: str, x: Array) -> Array:
        v = self.get(f"{key}.linear.weight_v")
        weight = self.get(f"{key}.linear.weight_g") * v / np.linalg.norm(v, axis=1, keepdims=True)
        return x @ weight.T + self.get(f"{key}.linear.bias").ravel()

    def _affine(self, key: str, x: Array) -> Array:
        return x @ self.get(f"{key}.weight").T + self.get(f"{key}.bias").ravel()

    def _run_block(self, prefix: str, kind: str, x: Array) -> Array:
        u = self._normed(prefix, x) if self.prenorm else x
        y = x + (self._run_ff if kind == "ff" else self._run_ssm)(prefix, u)
        return y if self.prenorm else self._normed(prefix, y)

    def _run_ff(self, prefix: str, u: Array) -> Array:
        return self._affine(f"{prefix}.layer.ff.2", _gelu(self._affine(f"{prefix}.layer.ff.0.0", u)))

    def _run_ssm(self, prefix: str, u: Array) -> Array:
        A, B, C, D = self.systems[prefix]
        state, outputs = np.zeros((len(u), *B.shape), complex), []
        for u_t in u.transpose(1, 0, 2):
            state = np.einsum("hij,bhj->bhi", A, state) + B * u_t[..., None]
            outputs.append((C * state).sum(-1).real + D * u_t)
        value, gate = np.split(self._affine(f"{prefix}.layer.output_linear.0", _gelu(np.stack(outputs, 1))), 2, -1)
        result: Array = value / (1 + np.exp(-gate))
        return result

    def _normed(self, block: str, x: Array) -> Array:
        if self.transposed:
            m, s = self.get(f"{block}.norm.norm.m"), self.get(f"{block}.norm.norm.s")
            normed: Array = s / x.std(-1, keepdims=True) * (x - x.mean(-1, keepdims=True) + m)
            return normed
        return _layer_norm(x, self.get(f"{block}.norm.norm.weight"), self.get(f"{block}.norm.norm.bias"))

    def _embedded(self, tokens: Array) -> Array:
        encoder = "encoder." if self.version == "v2" else "encoder.0."
        if not self.cutoffs:
            return self.get(f"{encoder}weight")[tokens]
        if self.div == 1:
            return self.get(f"{encoder}emb_layers.0.weight")[tokens] * np.sqrt(self.d_model)
        bounds = (0, *self.cutoffs, self.vocab)
        table = [
            self.get(f"{encoder}emb_layers.{i}.weight") @ self.get(f"{encoder}emb_projs.{i}").T
            for i in range(len(bounds) - 1)
        ]
        return np.concatenate(table)[tokens] * np.sqrt(self.d_model)

    def _decoded(self, x: Array) -> Array:
        if not self.cutoffs:
            return self._affine("decoder.output_transform" if self.version == "v2" else "decoder.0.output_transform", x)
        bounds, K = (0, *self.cutoffs, self.vocab), len(self.cutoffs)
        stored = "encoder.0.emb_layers.{}.weight" if self.tie_weights else "loss.out_layers_weights.{}"
        if self.div == 1:
            weights = np.split(self.get(stored.format(0)), bounds[1:-1])
            biases = np.split(self.get("loss.out_layers_biases.0"), bounds[1:-1])
            projections = [np.eye(self.d_model)] * (K + 1)
        else:
            weights = [self.get(stored.format(i)) for i in range(K + 1)]
            biases = [self.get(f"loss.out_layers_biases.{i}") for i in range(K + 1)]
            own = [i == 0 or not self.tie_projs for i in range(K + 1)]
            projections = [
                self.get(f"loss.out_projs.{i}" if own[i] else f"encoder.0.emb_projs.{i}") for i in range(K + 1)
            ]
        weights[0] = np.concatenate((weights[0], self.get("loss.cluster_weight")))
        biases[0] = np.concatenate((biases[0], self.get("loss.cluster_bias")))
        parts = [_log_softmax(x @ p @ w.T + b) for p, w, b in zip(projections, weights, biases, strict=True)]
        head, tails = parts[0], parts[1:]
        return np.concatenate((head[..., : bounds[1]], *(head[..., -i, None] + t for i, t in enumerate(tails, 1))), -1)


def _gelu(x: Array) -> Array:
    result: Array = x * (1 + erf(x / np.sqrt(2))) / 2
    return result


def _layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    normed: Array = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias
    return normed


def _log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    result: Array = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result
