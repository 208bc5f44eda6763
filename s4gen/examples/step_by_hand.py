"""Compute one state space layer in three ways: by its convolution, by its `step`, and by a recurrence written out here.

    python -m s4gen.examples.step_by_hand

The system is x' = Λ x + B u, y = C x + D u with a diagonal Λ (S4D, arXiv 2206.11893). If u is constant during a step
of size Δ (zero-order hold), it becomes x_k = Ā x_(k-1) + B̄ u_k, with Ā = exp(Δ Λ) and B̄ = (Ā - 1) / Λ · B.
"""

import torch

from s4gen.layers import S4D

torch.manual_seed(0)
layer = S4D(4, d_state=8, mix=False)  # 4 features, each with 8 real numbers of state: 4 modes and their conjugates
u = torch.randn(1, 20, 4)  # (batch, length, features)

with torch.no_grad():
    by_convolution, _ = layer(u)  # all 20 outputs at once: what training uses

    stepped, state = [], layer.initial_state(1)
    for u_k in u.unbind(1):  # one input at a time, in constant memory: what sampling uses
        y_k, state = layer.step(u_k, state)
        stepped.append(y_k)

    Lambda, B, C, dt = layer.ssm.continuous()  # complex (4, 4), and dt (4,)
    Abar = torch.exp(dt[:, None] * Lambda)
    Bbar = (Abar - 1) / Lambda * B
    x, by_hand = torch.zeros_like(Lambda), []
    for u_k in u[0]:
        x = Abar * x + Bbar * u_k[:, None]
        # The layer keeps one mode of each conjugate pair. The other adds the conjugate: the sum is twice the real part.
        by_hand.append(2 * (C * x).sum(1).real + layer.ssm.D * u_k)

for name, y in (("step", torch.stack(stepped, 1)), ("by hand", torch.stack(by_hand)[None])):
    print(f"{name}: differs from the convolution by {(y - by_convolution).abs().max():.1e} at most")
