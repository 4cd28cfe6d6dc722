"""The one reader of the environment.

`load_settings` builds a frozen `Settings` from, in this order: the process's environment, `.env`
at the project's root, and what `cantrip up` left in `.cantrip/services.json` (the addresses of the
local servers). `export_environment` writes the same facts back for Mage, whose `io_config.yaml`
and child processes know nothing but the environment.
"""

from mage_project.lib.settings.export import child_environment, export_environment, remember, use_plain_allocator
from mage_project.lib.settings.model import (
    LOCAL_BUCKET,
    LOCAL_PROJECT,
    TLC_BASE_URL,
    TLC_ZONES_URL,
    GoogleSettings,
    HttpSettings,
    PostgresSettings,
    RetentionSettings,
    Settings,
    TaxiSettings,
)
from mage_project.lib.settings.reading import ROOT, load_settings
from mage_project.lib.settings.services import read_services

__all__ = [
    "LOCAL_BUCKET",
    "LOCAL_PROJECT",
    "ROOT",
    "TLC_BASE_URL",
    "TLC_ZONES_URL",
    "GoogleSettings",
    "HttpSettings",
    "PostgresSettings",
    "RetentionSettings",
    "Settings",
    "TaxiSettings",
    "child_environment",
    "export_environment",
    "load_settings",
    "read_services",
    "remember",
    "use_plain_allocator",
]
