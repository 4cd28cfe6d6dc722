if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

import pandas as pd

from mage_project.lib.handover import received
from mage_project.lib.runs.context import run_of


@data_loader
def load_small_api(*args, **kwargs):
    """What the API says of the run's window."""
    run = run_of(kwargs)
    frame = pd.DataFrame({"day": [run.window.start], "value": [1.0]})  # fetch it here
    return run.dataset_of(frame, slice=f"my_api/{run.window.start}", source="https://api.example.com").hand_over()


@test
def there_are_rows(output, *args) -> None:
    assert received(output).rows > 0, "the API gave no rows"
