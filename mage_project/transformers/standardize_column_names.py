if "transformer" not in globals():
    from mage_ai.data_preparation.decorators import transformer
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

from mage_project.lib.handover import received_manifest


@transformer
def standardize_column_names(trips, *args, **kwargs):
    """Column names in lower case, `_` for spaces; the files keep the publisher's."""
    return received_manifest(trips).standardized().hand_over()


@test
def names_are_unique_and_lower(output, *args) -> None:
    names = list(received_manifest(output).columns.values())
    assert len(set(names)) == len(names), f"not unique: {sorted(names)}"
    odd = [name for name in names if name != name.lower() or " " in name]
    assert not odd, f"not in lower case, or with a space: {odd}"
