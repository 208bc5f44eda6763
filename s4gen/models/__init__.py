"""nn.Modules: state space layers, residual blocks, embeddings and the density model."""
