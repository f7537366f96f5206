"""The package in which SGLang looks for model classes (``SGLANG_EXTERNAL_MODEL_PACKAGE``).

SGLang passes over a module that can't be imported and takes its own class then; it does not pass
over this package. So what fails is imported here, where a failure ends the start.
"""

from glmc_engines.sglang.plugin import require_plugged_in, version_error

require_plugged_in()
try:
    from glmc_engines.sglang.models import glm as glm
except ImportError as error:
    raise version_error(error) from error
