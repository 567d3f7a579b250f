"""`vllm serve` as a user starts it, and the demo's questions as an OpenAI client asks them."""

import base64
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from adaptvis_plugin.data.demo.rows import demo_rows
from adaptvis_plugin.paths import DEMO_MODEL

ROWS = demo_rows()[:12]
VLLM = Path(sys.executable).with_name("vllm")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a user on this machine.

    The build of vLLM for CPUs has another name as a package, and vLLM's command asks for the version by its own.
    """
    (folder / "vllm-0.32.0+cpu.dist-info").mkdir(parents=True, exist_ok=True)
    (folder / "vllm-0.32.0+cpu.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
    )
    places = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"VLLM_CACHE_ROOT": str(folder / "cache"), "PYTHONPATH": os.pathsep.join(places)}
    return {**os.environ, **own, "PATH": f"{VLLM.parent}{os.pathsep}{os.environ['PATH']}"}


@contextlib.contextmanager
def serving(folder: Path, *options: str, model: str = str(DEMO_MODEL)) -> Iterator[str]:
    """Serve a checkpoint until the block ends, and yield the address; its log is shown if it ends before."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder.mkdir(exist_ok=True)
    log = folder / "server.log"
    command = ["vllm", "serve", model, "--host", "127.0.0.1", "--port", str(port), *options]
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, env=environment(folder), stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while not healthy(address):
            assert process.poll() is None and time.monotonic() < deadline, f"no server:\n{log.read_text()[-6000:]}"
            time.sleep(0.3)
        yield address
        assert process.poll() is None, f"the server has ended:\n{log.read_text()[-6000:]}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def metric(address: str, name: str) -> float:
    """Return the sum of a counter over all engines."""
    lines = requests.get(f"{address}/metrics", timeout=60).text.splitlines()
    found = [float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")]
    assert found, f"no {name}"
    return sum(found)


def messages(row: int) -> list[Any]:
    """Return a row as a chat, with its picture as a PNG: the server sees the same pixels."""
    written = io.BytesIO()
    ROWS[row]["image"].save(written, "PNG")
    url = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    text = {"type": "text", "text": ROWS[row]["question"]}
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, text]}]


def request(row: int, asked: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return the arguments of `chat.completions.create`."""
    # In a chat vLLM leaves the token away that begins a prompt, because templates have it; LLaVA's has not.
    body: dict[str, Any] = {"add_special_tokens": True, **({} if asked is None else {"vllm_xargs": dict(asked)})}
    return {
        "model": str(DEMO_MODEL),
        "messages": messages(row),
        "temperature": 0,
        "max_tokens": 8,
        "logprobs": True,
        "extra_body": {**body, **more.pop("extra_body", {})},
        **more,
    }


def said(answer: Any) -> tuple[str, Sequence[float]]:
    """Return an answer's text, and the log-probabilities of its tokens."""
    (choice,) = answer.choices
    return choice.message.content.strip(), [token.logprob for token in choice.logprobs.content]
