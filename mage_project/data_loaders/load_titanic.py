if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

import pyarrow.compute as pc

from mage_project.lib.handover import received
from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.samples import titanic_from_bucket


@data_loader
def load_titanic(*args, **kwargs):
    """titanic_clean.csv from the bucket, uploaded when it is not there yet: Cloud Storage answers."""
    run = run_of(kwargs)
    frame, source = titanic_from_bucket(run.settings)
    return run.dataset_of(frame, slice="titanic", source=source).hand_over()


@test
def there_are_passengers(output, *args) -> None:
    assert received(output).rows > 0, "titanic_clean.csv holds no rows"


@test
def every_passenger_has_an_age(output, *args) -> None:
    wrong = received(output).count(pc.field("age").is_null())
    assert wrong == 0, f"{wrong} passengers without an age in a file that is to be clean"
