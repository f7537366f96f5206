"""Plan replay: whether a change leaves every plan as it was.

The nine presets and both shipped models are compiled for every target and ABI profile, and their
plans are compared with digests stored here, or call by call with those of another commit.
"""
