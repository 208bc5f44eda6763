"""Lossless compression: files in about as many bits as a density model gives them, -log2 p, and back again.

A model predicts each token from those before it, and a range coder turns the predictions into bits. The decoder steps
the same model over the tokens that it has decoded so far, and so arrives at the same predictions.

    frequencies   what a model says of the next token, as whole numbers that every machine makes of the same logits
    coding        rows side by side through an engine, each with a range coder of its own
    container     the one file that holds all: its header, names, checksums
    identity      which model, and which way of rounding, a file was written with
    contents      what the kinds have in common; images, texts and sound are between files and tokens
    compressor    files to a container, and back

**What is promised.** What comes back is what went in: the pixels of an image, the bytes of a text, the samples of a
recording (of a wav file, its bytes). That holds for the same checkpoint and an engine that computes the same bits. The
native engine does so for any batch and any number of threads, on every machine that runs the same library for the same
target. Whether an engine computes the same bits is found out before anything is decoded, by a signature of its logits,
and again by a checksum over each block of decoded values. Where it does not, decoding is refused.
"""
