"""Measuring what data cost under a model, exactly: bits per dimension, perplexity, bits per sample; and recognition.

scorers        the one signature of scoring, -log p in nats, by convolution or by recurrence
images         bits per dimension of images
text           perplexity of a text, as one stream or in windows
audio          bits per sample of recordings
recognition    classifiers that tell which class a generated recording sounds like
"""
