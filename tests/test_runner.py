"""What both adapters share: batches of questions in, answers out."""

import subprocess
import sys

OUT_OF_MEMORY = """
import re, resource
from adaptvis_plugin.data.demo import demo_rows
from adaptvis_plugin.models.runner import Question, Runner, Setup

setup = Setup.create("scalingvis", "demo", None, None, {"alpha": 0.5})
runner = Runner(setup, device="cpu")
questions = [Question(runner.render([], row["question"], row["prompt"]), (row["image"],)) for row in demo_rows()]
method = setup.choose("whatsup_demo")
encoded = runner.encode(questions)
runner.answer(questions[:8], method, max_new_tokens=2)

used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
tight = runner.answer(questions, method, encoded, max_new_tokens=2)
fewer = runner.most_rows

resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
runner.most_rows = len(questions)
roomy = runner.answer(questions, method, encoded, max_new_tokens=2)
assert runner.most_rows == len(questions)
assert [answer.text for answer in tight] == [answer.text for answer in roomy]
assert max(abs(a.confidence - b.confidence) for a, b in zip(tight, roomy)) < 1e-4
print("most rows:", fewer)
"""


def test_a_batch_that_does_not_fit_into_memory_is_decoded_in_halves_with_the_same_answers() -> None:
    """With the process's memory really limited, and torch's own failure."""
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "400 rows do not fit into memory; going on with 200 at a time" in done.stderr
    assert int(done.stdout.split()[-1]) <= 200
