if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader


@data_loader
def nothing(*args, **kwargs):
    """Nothing: what a Mage process costs by itself."""
    return {"nothing": 0}
