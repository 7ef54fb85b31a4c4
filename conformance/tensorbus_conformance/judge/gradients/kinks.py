from typing import Any


def kinks(session: Any) -> Any: ...
