if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from pathlib import Path

from mage_ai.io.config import ConfigFileLoader
from mage_ai.io.postgres import Postgres
from mage_ai.settings.repo import get_repo_path


@data_exporter
def export_trips(trips, *args, **kwargs):
    """Mage's own export, as its template writes it."""
    config = ConfigFileLoader(str(Path(get_repo_path()) / "io_config.yaml"), "default")
    with Postgres.with_config(config) as loader:
        loader.export(trips, "bench", "stock", index=False, if_exists="replace")
