"""The mathematics of state space models, as pure functions on tensors: no modules, no configuration.

A state space model maps an input signal u(t) to an output y(t) through a state x(t) of N numbers (S4, eq. 1):

    continuous    dx/dt = A x + B u          y = C x + D u
    discrete      x_k = Abar x_(k-1) + Bbar u_k    y_k = Cbar x_k         one step of length dt    (S4, eq. 3)
    convolution   y = K * u,   K[l] = C Abar^l Bbar                       the same, all at once    (S4, eq. 4 and 5)

The skip D u is added by the layers in `s4gen.models`; no module here knows about it.

Glossary. The letters are those of the S4 and S4D papers (arXiv 2111.00396 and 2206.11893); r(...) is a real tensor of
that shape, c(...) a complex one.

    H       features: independent systems with one input and one output each (= d_model)
    N       real numbers in the state of one feature (= d_state)
    n       N / 2, complex numbers that are stored: one of each conjugate pair
    R       rank of the low-rank correction P
    L       length of the sequence;  T: length of a block of it;  l: a lag, 0 .. L - 1
    Lambda  c(H, n)     eigenvalues of the normal part of A, Re < 0; of each pair the member with Im <= 0
    P, Q    c(R, H, n)  low-rank correction: A = diag(Lambda) - sum_r P_r Q_r^*, where Q = P unless it is given
    B, C    c(H, n)     input and output vectors
    dt      r(H)        step sizes (Delta in the papers)
    Abar, Bbar, Cbar    the discrete system;  A_bar, B_bar, C_bar in code
    K       r(H, L)     the convolution kernel
    u, y    r(B, L, H)  input and output of a whole sequence, r(B, H) of one step; here B is the batch
    x       r(B, H, N)  the state, in real form

Real form. A and B are real in the end, so eigenvalues come in conjugate pairs and y = 2 Re(sum_n C_n x_n). The state is
kept as N real numbers, the n real parts followed by the n imaginary parts (`realform`), so that all products with it
are real.

Where to begin: `reference` defines everything with dense matrices and a loop; every other module computes the same
faster and is tested against it.

    hippo       matrices A, B of the HiPPO measures and their diagonal plus low-rank form
    inits       initial Lambda and B of diagonal models, initial dt
    diagonal    S4D: diagonal A          dplr   S4: diagonal plus low rank (`lowrank` has its powers)
    dss         DSS, ancestor of S4D     lssl   LSSL, ancestor of S4: dense A (`krylov` has its powers)
    block_form  the convolution itself: in blocks, as layers use it, and by FFT
    recompute   memory saved by computing again in the backward pass
    transforms  positive parameters
"""
