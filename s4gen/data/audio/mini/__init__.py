"""Hold spoken digits for the demo and the tests; README.md here says which."""
