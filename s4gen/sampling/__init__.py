"""From a trained model to samples: convert to the recurrent view, certify, draw."""
