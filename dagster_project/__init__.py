"""Orchestration of the pipeline that dvc.yaml states; everything about the method itself is in seggen_core."""
