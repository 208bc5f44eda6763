"""Hold the first articles of WikiText-2's valid and test text for the demo and the tests; README.md here says which."""
