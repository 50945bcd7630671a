"""The type of what Keras tells a callback, and a callback adds to: numbers by name."""

from typing import Any

Logs = dict[str, Any] | None
