"""What launchers say in the environment, and where processes meet."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import free_port

from pointcept.engines import meeting
from pointcept.engines.meeting import meet
from pointcept.engines.world import World, first_host, from_environment, parse_url
from pointcept.utils.errors import ConfigError, MachineError

HERE = Path(__file__).parent
REPO = HERE.parents[2]

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu1", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "gpu[03-04,7],login", "SLURM_STEP_ID": "0"}  # fmt: skip
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


def test_each_launcher_says_who_is_who() -> None:
    assert from_environment(env={}) is None
    found = from_environment(env={**TORCHRUN, "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert found == World(1, 4, 1, "gpu1", 29500, "torchrun", served=True)
    found = from_environment(env=SRUN)
    assert found is not None
    assert (found.rank, found.size, found.local_rank, found.host, found.alone) == (3, 4, 1, "gpu03", False)
    assert from_environment(env={**SRUN, "SLURM_PROCID": "0"}).port == found.port  # type: ignore[union-attr]
    assert from_environment(env={**SRUN, "SLURM_JOB_ID": "8"}).port != found.port  # type: ignore[union-attr]
    one = from_environment("tcp://other:1234", {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"})
    assert one is not None
    assert (one.size, one.host, one.port) == (2, "other", 1234)
    local = {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    found = from_environment(env={**OPEN_MPI, **local, **SRUN})
    assert found is not None
    assert (found.rank, found.host, found.launcher, found.alone) == (1, "127.0.0.1", "Open MPI", True)
    found = from_environment(env={"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MASTER_ADDR": "a"})
    assert found is not None
    assert (found.rank, found.size, found.host, found.launcher) == (1, 2, "a", "MPI")


def test_one_task_and_the_script_of_a_batch_job_are_alone() -> None:
    assert from_environment(env={**SRUN, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) is None
    batch = {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"}
    assert from_environment(env={**batch, "ENVIRONMENT": "BATCH"}) is None
    assert from_environment(env=batch) is not None


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({**TORCHRUN, "RANK": "abc"}, "RANK='abc'"),
        ({**TORCHRUN, "RANK": ""}, "but not RANK"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4, but WORLD_SIZE=4"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({**TORCHRUN, "LOCAL_RANK": "-3"}, "LOCAL_RANK='-3'"),
        ({**TORCHRUN, "MASTER_PORT": "99999"}, "MASTER_PORT='99999'"),
        ({"RANK": "0"}, "but not WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({**SRUN, "SLURM_LOCALID": ""}, "srun: .* but not SLURM_LOCALID"),
        ({**SRUN, "SLURM_PROCID": "9"}, "SLURM_PROCID=9, but SLURM_NTASKS=4"),
        ({**SRUN, "SLURM_JOB_NODELIST": ""}, "set MASTER_ADDR"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "Open MPI: .* but not OMPI_COMM_WORLD_SIZE"),
    ],
)
def test_variables_that_cannot_be(env: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_environment(env=env)


def test_lists_of_machines_and_urls() -> None:
    for text, host in (("a", "a"), ("a1,b2", "a1"), ("n[01-04,7]-x,b", "n01-x"), ("n[7,9]", "n7"), ("n-1[3]", "n-13")):
        assert first_host({"SLURM_NODELIST": text}, "srun") == host
    assert parse_url("tcp://[fe80::1]:80") == ("fe80::1", 80)
    for url in ("nonsense", "tcp://127.0.0.1", "tcp://h:0", "tcp://h:99999", "tcp://:80", "file:///tmp/x"):
        with pytest.raises(ConfigError, match="--dist-url"):
            parse_url(url)


def test_meetings_that_fail_say_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(meeting, "WORD", 0.2)
    nobody = World(1, 2, 0, "127.0.0.1", free_port(), "srun")
    with pytest.raises(MachineError, match=r"127\.0\.0\.1:\d+ within dist_timeout=1 s: Connection refused"):
        meet(nobody, 1.0)
    assert "waiting for process 0 at 127.0.0.1" in caplog.text
    with pytest.raises(MachineError, match=r"process 1 of 2 did not come to 127\.0\.0\.1:\d+ within dist_timeout=1 s"):
        meet(World(0, 2, 0, "127.0.0.1", free_port(), "srun"), 1.0)
    assert "waiting for process 1 of 2 to come to" in caplog.text
    for rank in (0, 1):
        with pytest.raises(MachineError, match=r"there is no host no\.such\.host\.invalid"):
            meet(World(rank, 2, 0, "no.such.host.invalid", 29500, "srun"), 1.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MachineError, match=f"port {port} of this machine is taken"):
            meet(World(0, 2, 0, "127.0.0.1", port, "srun"), 1.0)


TWO_MACHINES = """
import sys; sys.path.insert(0, {here!r})
import two_processes as t
from pointcept.engines.launch import launch
if __name__ == "__main__":
    launch(t.say_machine, num_machines=2, machine_rank={number}, dist_url="tcp://10.97.31.1:29533", cfg={folder!r})
"""


def network(*command: str) -> bool:
    return subprocess.run(["ip", *command], capture_output=True, check=False).returncode == 0


def test_two_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two network namespaces with a cable between them: neither reaches the other's loopback."""
    names = [f"pointcept{os.getpid()}{letter}" for letter in "ab"]
    if not shutil.which("ip") or not all(network("netns", "add", name) for name in names):
        pytest.skip("network namespaces need root and the program ip")
    try:
        cable = ("type", "veth", "peer", "name", "p1", "netns", names[1])
        if not network("link", "add", "p0", "netns", names[0], *cable):
            pytest.skip("this system has no virtual cables (veth)")
        for i, name in enumerate(names):
            assert network("-n", name, "address", "add", f"10.97.31.{i + 1}/24", "dev", f"p{i}")
            assert network("-n", name, "link", "set", f"p{i}", "up")
            assert network("-n", name, "link", "set", "lo", "up")
        machines = []
        for i, name in enumerate(names):
            script = tmp_path / f"machine{i}.py"
            script.write_text(TWO_MACHINES.format(here=str(HERE), number=i, folder=str(tmp_path)))
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
            machines.append(subprocess.Popen(["ip", "netns", "exec", name, sys.executable, str(script)], env=env))
            time.sleep(0.1)
        assert [machine.wait(60) for machine in machines] == [0, 0]
    finally:
        for name in names:
            network("netns", "delete", name)
    said = [(tmp_path / f"rank{i}").read_text() for i in (0, 1)]
    assert said == ["2 3.0 p0", "2 3.0 p1"]
