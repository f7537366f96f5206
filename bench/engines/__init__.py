"""A serving engine over compiled plans, beside the same engine without them."""
