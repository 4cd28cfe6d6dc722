"""A small file in the bucket to try Cloud Storage with: titanic_clean.csv."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from mage_project.lib.runs import mage
from mage_project.lib.settings import Settings
from mage_project.lib.sinks.buckets import bucket_errors, ensure_bucket
from mage_project.lib.sinks.google_clients import storage_client

if TYPE_CHECKING:
    import pandas as pd

TITANIC = "titanic_clean.csv"


def titanic_from_bucket(settings: Settings) -> tuple[pd.DataFrame, str]:
    """Give the passengers and the file's address; the file is uploaded when it is not in the bucket.

    Raises ConfigurationError when there is no bucket or no permission.
    """
    import pandas as pd

    google = settings.require_google()
    with bucket_errors(google, TITANIC, "reading it"):
        blob = ensure_bucket(storage_client(google), google).blob(TITANIC)
        if not blob.exists():
            blob.upload_from_string(clean_titanic().to_csv(index=False), content_type="text/csv")
        return pd.read_csv(io.BytesIO(blob.download_as_bytes())), f"gs://{google.bucket}/{TITANIC}"


def clean_titanic() -> pd.DataFrame:
    """Give the passengers that Mage ships as a sample: names in lower case, no cabin, no unknown age or port.

    Of its 891 passengers 712 are left, in 11 columns.
    """
    import pandas as pd

    frame = pd.read_csv(mage.sample_file("titanic_survival.csv"))
    frame.columns = frame.columns.str.lower()
    return frame.drop(columns="cabin").dropna(subset=["age", "embarked"])
