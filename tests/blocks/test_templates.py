"""The templates of Mage's browser are code that people start from: they run as they stand."""

import pyarrow.compute as pc
import pytest
import yaml

from mage_project.lib.handover import received
from mage_project.lib.runs.pipelines import PROJECT
from tests.support.blocks import block
from tests.support.months import month_table, write_month

TEMPLATES = sorted((PROJECT / "custom_templates" / "blocks").iterdir())


@pytest.mark.parametrize("folder", TEMPLATES, ids=lambda folder: folder.name)
def test_a_template_names_its_type_and_has_its_file(folder):
    facts = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert facts["block_type"] in ("data_loader", "transformer", "data_exporter")
    assert facts["description"] and facts["name"].endswith("(Cantrip)")
    assert block(f"custom_templates/blocks/{folder.name}/{folder.name}.py").functions


def test_the_small_api_template_hands_over_its_rows(run_block, published, run_kwargs):
    output = run_block("custom_templates/blocks/load_small_api/load_small_api.py", **run_kwargs)
    assert received(output).rows == 1


def test_the_pandas_template_counts_what_it_drops_and_adds_its_column(run_block, published, run_kwargs):
    write_month(published.folder, rows=700)
    loaded = run_block("data_loaders/load_api_data.py", **run_kwargs)
    output = received(
        run_block("custom_templates/blocks/transform_with_pandas/transform_with_pandas.py", loaded, **run_kwargs)
    )
    far = pc.sum(pc.greater_equal(month_table(rows=700)["trip_distance"], 500)).as_py()
    assert output.rows == 700 - far
    assert "tip_share" in output.schema.names


def test_the_drop_template_leaves_no_negative_fare(run_block, published, run_kwargs):
    write_month(published.folder, rows=700)
    loaded = run_block("data_loaders/load_api_data.py", **run_kwargs)
    output = received(run_block("custom_templates/blocks/drop_rows/drop_rows.py", loaded, **run_kwargs))
    negative = pc.sum(pc.less(month_table(rows=700)["fare_amount"], 0)).as_py()
    assert dict(output.dropped) == {"negative_fare": negative}
    assert negative > 0
