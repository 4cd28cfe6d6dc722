"""What `cantrip up` left about the local services, in `.cantrip/services.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mage_project.lib.errors import ConfigurationError


def read_services(home: Path) -> dict[str, dict[str, Any]]:
    """Give what `cantrip up` wrote about each local service; nothing says that it still runs."""
    try:
        return json.loads((home / "services.json").read_text())
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise ConfigurationError(
            f"{home} belongs to another user, so the local services can't be looked up. "
            "Set CANTRIP_HOME to a folder that you own."
        ) from error
    except NotADirectoryError as error:
        raise ConfigurationError(
            f"CANTRIP_HOME is {home}, which is no folder. Set it to a folder that you own."
        ) from error
    except (json.JSONDecodeError, OSError) as error:
        raise ConfigurationError(
            f"{home / 'services.json'} can't be read ({error}). Remove it and run `./cantrip up`."
        ) from error
