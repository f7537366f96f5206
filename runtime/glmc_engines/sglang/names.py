"""Names by which SGLang is told of our model classes; nothing is imported here."""

PACKAGE = "glmc_engines.sglang.models"
