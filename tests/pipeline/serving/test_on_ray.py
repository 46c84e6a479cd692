"""What is looked at before Ray is started. tests/flows/test_serve.py has the rest, as the command starts it."""

import socket

import pytest

from pipeline.errors import RunFailed, UserError
from pipeline.serving import on_ray
from pipeline.serving.on_ray import serving


def test_an_address_that_can_not_be_had_is_named(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = rf"127\.0\.0\.1:{port}: Address already in use; choose another"
        with pytest.raises(UserError, match=said), serving(settings, "127.0.0.1", port, 1):
            pass
    with pytest.raises(UserError, match=r"nowhere\.invalid"), serving(settings, "nowhere.invalid", 8000, 1):
        pass


def test_a_port_that_somebody_took_meanwhile_is_one_line(settings, ray_cluster):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        try:
            with pytest.raises(RunFailed, match=r"^the service of dots@champion did not start: .+$") as failed:
                on_ray._started(settings, "127.0.0.1", port, 1, None)
        finally:
            on_ray._end()
    assert "\n" not in str(failed.value)
