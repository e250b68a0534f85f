"""The first gate: most files have nothing to do with training, and a look at their text is all that they cost."""

from __future__ import annotations

import re

from flake8_gradtrap.own import OwnApis

_LIBRARIES = re.compile(
    r"\b(torch|lightning|accelerate|deepspeed|fabric|transformers|apex|zero_grad|backward|parameters)\b|pytorch",
    re.IGNORECASE,
)


def is_about_training(text: str, apis: OwnApis) -> bool:
    """Whether a text mentions torch, a library around it, or an API of the project's own."""
    own = apis.mentioned
    return _LIBRARIES.search(text) is not None or (own is not None and own.search(text) is not None)
