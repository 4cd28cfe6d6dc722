if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

from mage_project.lib.feeds.taxi.schema import known_color, undeclared
from mage_project.lib.handover import received_manifest
from mage_project.lib.runs.context import run_of
from mage_project.lib.settings import load_settings
from mage_project.lib.sinks.manifests import broken_files, require_manifest


@data_loader
def load_taxi_gcs(*args, **kwargs):
    """The manifest of the month's files in the bucket: addresses, rows and schema. The rows stay there."""
    run = run_of(kwargs)
    color = known_color(run.variables.get("color", "yellow"))
    google = run.settings.require_google()
    return require_manifest(google, f"nyc_taxi_data/{color}", f"{color}/{run.window.month}").hand_over()


@test
def every_file_is_there_and_whole(output, *args) -> None:
    broken = broken_files(load_settings().require_google(), received_manifest(output))
    assert not broken, f"{'; '.join(broken)}. Run api_to_gcs for this window again: it mends the files"


@test
def the_rows_add_up(output, *args) -> None:
    manifest = received_manifest(output)
    rows = sum(file.rows for file in manifest.files)
    assert rows == manifest.rows > 0, f"{manifest.where}: {rows} rows in its files, {manifest.rows} in all"


@test
def the_schema_is_as_declared(output, *args) -> None:
    manifest = received_manifest(output)
    wrong = undeclared(manifest.schema, manifest.slice)
    assert not wrong, f"{manifest.slice}: not as declared: {wrong}"
