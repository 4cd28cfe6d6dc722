"""The type of an error says how to recover, and decides the exit code."""

import pytest

from mage_project.lib import errors
from mage_project.lib.errors import CantripError, DataError, DatasetMisuseError, NotPublishedError, about_slice

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CantripError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_only_configuration_ends_with_2_and_everything_else_with_1(kind: type[CantripError]) -> None:
    assert kind("…").exit_code == (2 if kind is errors.ConfigurationError else 1)


def test_a_month_that_is_not_published_is_the_sources_side() -> None:
    assert issubclass(NotPublishedError, errors.SourceError)


def test_misuse_answers_no_to_whoever_probes_for_an_attribute() -> None:
    assert issubclass(DatasetMisuseError, AttributeError)
    assert issubclass(DatasetMisuseError, TypeError)


def test_an_error_of_ours_learns_which_slice_it_is_about() -> None:
    with pytest.raises(DataError) as caught, about_slice("green/2021-02"):
        raise DataError("cut short")
    assert caught.value.slice == "green/2021-02"


def test_an_error_of_others_passes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError) as caught, about_slice("green/2021-02"):
        raise ZeroDivisionError
    assert not hasattr(caught.value, "slice")
