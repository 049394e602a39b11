"""Kubeflow pipelines: each step runs one script of quarry_training. No training code lives here."""
