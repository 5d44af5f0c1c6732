"""What is defined around the assets, one module a part of the pipeline. Each says what, not how."""
