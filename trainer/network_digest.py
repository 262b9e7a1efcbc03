"""What tells a network from another one whose function has the same name."""

import hashlib
import json
import re
from typing import Any

import keras


def digest(network: keras.Model) -> str:
    """Returns a hash of a network's layers, their options and how they hang together.

    Of a network that Keras cannot describe, one of the shapes of its variables: none before it is
    built.
    """
    try:
        found = _without_counters(keras.saving.serialize_keras_object(network), {})
    except Exception:  # A subclass may have no get_config, or one that raises anything.
        found = [list(variable.shape) for variable in network.variables]
    # Without what has no JSON: its text may hold an address.
    text = json.dumps(found, sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_counters(config: Any, names: dict[str, str]) -> Any:
    """Numbers names such as dense_7 anew: Keras goes on counting where a process builds again."""
    if isinstance(config, dict):
        name = config.get("name")
        if isinstance(name, str):
            names.setdefault(name, f"{re.sub(r'_[0-9]+$', '', name)}#{len(names)}")
        return {
            key: _without_counters(value, names)
            for key, value in config.items()
            if key != "shared_object_id"  # An address.
        }
    if isinstance(config, list | tuple):
        return [_without_counters(value, names) for value in config]
    return names.get(config, config) if isinstance(config, str) else config
