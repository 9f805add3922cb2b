"""The thinnest whole line: one item, from HTTP to a terminal row."""

import pytest

from batches import engine
from batches.models import Run
from tests.conftest import Api
from tests.factories import make_model


@pytest.mark.django_db(transaction=True)
def test_one_item_goes_from_http_to_a_terminal_row() -> None:
    api, model = Api(), make_model()
    created = api.post(f"/v1/models/{model}/batches", {"input": [{"text": "hello"}]})
    assert created.status_code == 201, created.content
    engine.execute(provider_id=Run.objects.get().provider_id)
    batch = api.get(f"/v1/batches/{created.json()['id']}").json()
    assert batch["status_code"] == "succeeded"
    assert batch["cost"] == "0.01"
