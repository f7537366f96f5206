"""The package in which SGLang looks for model classes (``SGLANG_EXTERNAL_MODEL_PACKAGE``).

SGLang passes over a module that can't be imported and takes its own class then; it does not pass
over this package. So what fails is imported here, where a failure ends the start.
"""

from glmc_engines.sglang import require_plugged_in

require_plugged_in()

from glmc_engines.sglang.plugin import version_error  # noqa: E402 - the reason above comes first

try:
    from glmc_engines.sglang.models import glm as glm
except ImportError as error:
    raise version_error(error) from error
