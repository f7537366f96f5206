"""Names by which SGLang is told of our model classes; nothing is imported here."""

PACKAGE = "glmc_engines.sglang.models"
VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"
"""The environment variable for the package in which SGLang looks before its own."""
