"""``zoo extract --engine ray``: the bytes of one process, on a real cluster whose workers and machines are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from extraction_driver import assert_tidy, results
from pictures import encode, fill, picture

from zoo.cli.app import exit_code
from zoo.cli.main import app
from zoo.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from zoo.extraction.executor import LoadArguments
from zoo.extraction.extract import run_extraction
from zoo.extraction.extraction import Extraction
from zoo.extraction.fingerprint import ExtractionConfig
from zoo.extraction.partition import ALL_SHARDS, Partition
from zoo.extraction.ray_executor import RayExecutor, connect
from zoo.inference.outputs import Outputs

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT / "examples" / "photos"
ON_CPU = LoadArguments("cpu", "torch", "fp32", normalize=False, outputs=Outputs())


def test_without_ray_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)

    def error(*options: str) -> str:
        monkeypatch.setattr(
            sys, "argv", ["zoo", "extract", "--images", str(PHOTOS), "--out", str(tmp_path / "out"), *options]
        )
        assert exit_code(app, "zoo", "") == EXIT_USER_ERROR
        return capsys.readouterr().err

    assert error("--engine", "ray") == "zoo: error: --engine ray needs Ray: pip install 'siamese-zoo[cluster]'\n"
    assert error("--ray-address", "auto") == "zoo: error: --ray-address needs --engine ray\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-machine.invalid:6379"])
def test_an_address_where_nothing_answers_is_one_line_at_once(address: str) -> None:
    pytest.importorskip("ray", reason="needs siamese-zoo[cluster]")
    with pytest.raises(UserError, match=rf"^no Ray cluster at {address} \([^\n]+\): see `ray status`$"):
        connect(address, cores=1).__enter__()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = fill(tmp_path / "images", 60)  # 16 shards
    (root / "bad.jpg").write_bytes(b"bad")
    return root


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of three machines with a core each, as far as Ray can tell."""
    pytest.importorskip("ray", reason="needs siamese-zoo[cluster]")
    from ray.cluster_utils import Cluster as Machines

    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # where Ray may be
    for name, value in {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}.items():
        monkeypatch.setenv(name, value)
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        machines.add_node(num_cpus=1)
    try:
        yield machines
    finally:
        machines.shutdown()


def run(images: Path, out: Path, model: Path, executor: RayExecutor | None = None, *, update: bool = False,
        partition: Partition = ALL_SHARDS) -> Extraction:  # fmt: skip
    opened: Any = ON_CPU.load(model) if executor is None else executor.open(model, ON_CPU)
    config = ExtractionConfig(batch_size=2, shard_size=4)
    return run_extraction(
        images, out, model=opened, config=config, executor=executor, update=update, partition=partition, workers=1
    )


def at_work(machine: Any) -> list[int]:
    """The processes of a machine that are in the middle of a shard: Ray gives them the task's name."""
    raylet = machine.all_processes["raylet"][0].process.pid
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title, status = (folder / "cmdline").read_bytes(), (folder / "stat").read_text()
        except OSError:
            continue
        if title.startswith(b"ray::_make") and int(status.rpartition(")")[2].split()[1]) == raylet:
            found.append(int(folder.name))
    return found


def meanwhile(condition: Callable[[], Any], act: Callable[[Any], None]) -> threading.Thread:
    """In a thread: wait until the condition has a value, and act on it."""

    def wait() -> None:
        while not (value := condition()):
            time.sleep(0.02)
        act(value)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def shards(out: Path) -> int:
    return len(list(out.glob("embeddings-*")))


@pytest.mark.slow
def test_workers_and_machines_are_lost(images: Path, tmp_path: Path, random_weights: Path, machines: Any) -> None:
    run(images, tmp_path / "one", random_weights)
    expected = results(tmp_path / "one")
    with connect(machines.address, cores=1) as executor:
        import ray

        mine = ray.get_runtime_context().get_node_id()  # a driver does not outlive the machine it runs on
        lost = next(machine for machine in machines.worker_nodes if machine.unique_id != mine)
        everywhere = [machines.head_node, *machines.worker_nodes]

        def working() -> list[int]:
            return [pid for machine in everywhere for pid in at_work(machine)]

        out = tmp_path / "killed"
        killed: list[int] = []
        seen: set[int] = set()

        def kill(pids: list[int]) -> None:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

        def look() -> None:
            seen.update(working())

        killer = meanwhile(lambda: shards(out) > 0 and working(), kill)
        watcher = meanwhile(lambda: look() or (out / "_manifest.json").exists(), lambda _: None)
        result = run(images, out, random_weights, executor)
        killer.join(10)
        watcher.join(10)
        assert len(killed) == 1
        assert len(seen - set(killed)) >= 2, "several workers made the shards"
        assert (result.total, result.failed) == (61, {"not-an-image": 1})
        assert results(out) == expected
        assert_tidy(out)

        out = tmp_path / "machine"
        assert run(images, out, random_weights, executor, partition=Partition(1, 4)).missing
        before = shards(out)
        assert 0 < before < 16
        remover = meanwhile(
            lambda: shards(out) > before and at_work(lost),
            lambda _: machines.remove_node(lost, allow_graceful=False),
        )
        run(images, out, random_weights, executor)
        remover.join(30)
        assert not remover.is_alive()
        assert results(out) == expected
        assert_tidy(out)

        (images / "bad.jpg").write_bytes(encode(picture(seed=98), "JPEG"))
        (images / "00.jpeg").write_bytes(encode(picture(seed=99), "JPEG"))
        with pytest.raises(UserError, match="2 files changed"):
            run(images, out, random_weights, executor)
        assert run(images, out, random_weights, executor, update=True).reused == 59
    run(images, tmp_path / "one", random_weights, update=True)
    assert results(out) == results(tmp_path / "one")
    assert_tidy(out)


@pytest.mark.slow
def test_the_command_is_stopped_and_gone_on_with_without_ray(
    images: Path, tmp_path: Path, random_weights: Path, machines: Any
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "zoo", "extract", "--images", images, "--out", out, "--model", random_weights,
             "--batch-size", "2", "--shard-size", "4", "--device", "cpu", "--backend", "torch", "--engine", "ray",
             "--ray-address", machines.address]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not shards(out):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED, errors
    assert time.monotonic() - stopped < 10
    assert "Traceback" not in errors
    assert not (out / "_manifest.json").exists()
    assert run(images, out, random_weights).reused > 0
    run(images, tmp_path / "one", random_weights)
    assert results(out) == results(tmp_path / "one")
    assert_tidy(out)


@pytest.mark.slow
def test_what_a_cluster_cannot_do_is_one_line(tmp_path: Path, random_weights: Path, machines: Any) -> None:
    with (
        connect(machines.address, cores=4) as executor,
        pytest.raises(UserError, match="3 cores: choose fewer --workers"),
    ):
        executor.open(random_weights, ON_CPU)
    with connect(machines.address, cores=1) as executor:
        for options, message in (
            ({"device": "cuda"}, "has no GPU"),
            ({"device": "cuda:1"}, "--device cpu or cuda, not cuda:1"),
            ({"precision": "int8"}, "^--precision int8 needs --backend onnx$"),
        ):
            with pytest.raises(UserError, match=message):
                executor.open(random_weights, replace(ON_CPU, **options))  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"^[^\n]*none.safetensors[^\n]*$"):
            executor.open(tmp_path / "none.safetensors", ON_CPU)


@pytest.mark.slow
def test_workers_give_every_output_and_leave_duplicates_out(
    images: Path, tmp_path: Path, random_weights: Path, machines: Any
) -> None:
    (images / "zz_copy.png").write_bytes((images / "01.png").read_bytes())
    arguments = replace(ON_CPU, outputs=Outputs(layers=("layer2",), tiles=(1, 2), crops="ten"))
    config = ExtractionConfig(batch_size=4, shard_size=16, format="npy", dedupe=True)
    run_extraction(images, tmp_path / "one", model=arguments.load(random_weights), config=config, workers=1)
    with connect(machines.address, cores=1) as executor:
        model = executor.open(random_weights, arguments)
        result = run_extraction(images, tmp_path / "many", model=model, config=config, executor=executor, workers=1)
    assert (result.duplicates, result.missing) == (1, {})
    assert results(tmp_path / "many") == results(tmp_path / "one")


@pytest.mark.slow
def test_a_run_beside_the_cluster_and_a_full_disk(
    images: Path, tmp_path: Path, random_weights: Path, machines: Any
) -> None:
    run(images, tmp_path / "one", random_weights)
    expected = results(tmp_path / "one")
    disk = tmp_path / "disk"
    disk.mkdir()
    with connect(machines.address, cores=1) as executor:
        out = tmp_path / "raced"
        beside = threading.Thread(target=run, args=(images, out, random_weights))
        beside.start()
        run(images, out, random_weights, executor)
        beside.join(120)
        assert results(out) == expected
        assert_tidy(out)

        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip("no right to mount a small file system")
        try:
            with pytest.raises(UserError, match=r"^disk full while writing [^\n]*$"):
                run(images, disk / "out", random_weights, executor)
            assert 0 < shards(disk / "out") < 16
            subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
            run(images, disk / "out", random_weights, executor)
            assert results(disk / "out") == expected
        finally:
            subprocess.run(["umount", disk], check=True)
