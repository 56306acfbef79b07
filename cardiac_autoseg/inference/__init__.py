"""Prediction with trained networks: predictor, postprocessing, ensembles, and models for use from Python."""
