"""Compile the native engine: pick the target processor, find a compiler, build, cache and load the library.

Nothing in here imports torch, because the hook that builds wheels runs in an environment without it.
"""
