"""Tests which Ray instance a command connects to."""

import socket
import threading

import pytest

from tests.helpers.commands import IPD, invoke, one_line


@pytest.mark.parametrize("command", [[*IPD, "--stop", "{training_iteration: 1}"], ["tournament"]])
def test_ray_address_environment_variable_is_used(no_ray, monkeypatch, tmp_path, command):
    """The command fails if nothing answers at the address, and does not start a local Ray."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    if command == ["tournament"]:
        players = ["scripted/always_defect", "scripted/tit_for_tat"]
        command = [*command, *players, "--env", "ipd_v0", "--num-workers", "1", "--out", str(tmp_path / "out")]
    one_line(invoke(*command), "RAY_ADDRESS 127.0.0.1:9: no answer from there")


def test_service_other_than_ray_is_refused(no_ray):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        options = ("--stop", "{training_iteration: 1}", "--ray-address", address)
        one_line(invoke(*IPD, *options), f"--ray-address {address}: the service there is not Ray")
        thread.join()


@pytest.mark.parametrize(("environment", "option"), [(None, []), ("", []), ("127.0.0.1:9", ["--ray-address", "local"])])
def test_local_ray_is_started_without_an_address(monkeypatch, environment, option):
    """Without an explicit address, Ray would join a running local cluster or the cluster of RAY_ADDRESS."""
    import ray

    init_calls = []

    def init(**settings):
        init_calls.append(settings)
        raise RuntimeError("no Ray in this test")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    result = invoke(*IPD, "--stop", "{training_iteration: 1}", *option)
    assert str(result.exception) == "no Ray in this test"
    assert [arguments["address"] for arguments in init_calls] == ["local"]
