"""The mathematics of state space models: pure functions on tensors.

Glossary, used throughout (letters of the S4 and S4D papers, arXiv 2111.00396 and 2206.11893):

    H       heads: independent single-input single-output systems (= d_model)
    N       real state size of one head (= d_state)
    n       N / 2, stored complex numbers: one of each conjugate pair
    R       rank of the correction P
    L       sequence length; T: length of a block
    Lambda  c(H, n) eigenvalues of the normal part, Re < 0, the member with Im <= 0 of each pair
    P       c(R, H, n) low-rank correction: A = diag(Lambda) - sum_r P_r P_r^*
    B, C    c(H, n) input and output vectors;  D  r(H) skip
    dt      r(H) step sizes

Of every conjugate pair one member is stored, so a real output is ``2 Re(sum_n C_n x_n)``. The state itself is kept
in *real form*: r(..., N), the n real parts followed by the n imaginary parts. All products with it are then real.
"""
