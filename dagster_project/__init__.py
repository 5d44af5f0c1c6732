"""Orchestration of the pipeline that dvc.yaml states; the method itself is in seggen_core."""
