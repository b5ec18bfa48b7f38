"""Bad command lines of `python -m gpt` and `python -m train`, in this process or, where that matters, in one of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.__main__ import main as gpt
from gpt.command_line import as_line
from gpt.export import EXTRA, open_program
from train.__main__ import main as train

DIGITS = "9" * 50
NUMBERS = ["", "x", "nan", "inf", "-inf", "-1", "1e999", "0x10", "1_0", "²", DIGITS, f"-{DIGITS}", "9" * 5_000, "1;2", "--", "\n"]
OPTIONS = {  # an option for a number, and values that it takes although they are odd
    gpt: {
        "--length": {"1_0"},
        "--temperature": set(),
        "--top-k": {"1_0", DIGITS},
        "--top-p": set(),
        "--min-p": set(),
        "--seed": {"1_0"},
    },
    train: {
        "--steps": {"1_0"},
        "--minutes": {"1_0"},
        "--seed": {"1_0"},
        "--layers": {"1_0"},
        "--width": {"1_0"},
        "--context": {"1_0"},
        "--dropout": set(),
        "--free-bits": {"1_0", DIGITS},
    },
}
NAMES = [
    "",
    ".",
    "..",
    "/",
    "~",
    "nope",
    "no/pe/no",
    "a" * 5_000,
    f"{'a' * 300}/b",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "a\nb",
    "\x1b[31mred",
    "file:///etc/passwd",
    "../../no/such/file",
    "*",
    "-",
    "no-folder.txt/",
    "\u202egnp",
]


@pytest.fixture
def refuse(attack, command):
    """A function that runs a bad command line and returns the sentence that it ends with."""
    programs = {gpt: command("python -m gpt", gpt), train: command("python -m train", train)}

    def run(main, *args):
        def end():
            status, out, err = programs[main](*args)
            assert "Traceback" not in out + err
            assert status in (1, 2) or isinstance(status, str), (args, status)
            raise SystemExit(as_line(err.rstrip().rpartition("\n")[2]) if status == 2 else status)  # argparse quotes what it got

        return attack.refused(end, SystemExit)

    return run


@pytest.mark.parametrize(("main", "option"), [(main, option) for main, options in OPTIONS.items() for option in options])
def test_bad_numbers(refuse, text_file, tmp_path, main, option):
    words = (
        ["--model", "bigram-names", "--length", 1]
        if main is gpt
        else ["run", "gpt", "--data", text_file, "--out", tmp_path / "x"]
    )
    for value in NUMBERS:
        if value not in OPTIONS[main][option]:
            refuse(main, *words, f"{option}={value}")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", NAMES)
def test_bad_names(refuse, text_file, tmp_path, name):
    out, options = tmp_path / "out", ["--steps=1", "--layers=1", "--width=32", "--context=16"]
    refuse(gpt, f"--model={name}")
    refuse(gpt, "export", f"--out={tmp_path / 'x.pt2'}", "--", name)
    refuse(gpt, "export", f"--out={name}", "bigram-names")
    refuse(train, "evaluate", f"--data={text_file}", "--", name)
    refuse(train, "evaluate", f"--data={name}", "bigram-names")
    refuse(train, "run", "bigram", f"--data={name}", f"--out={out}")
    refuse(train, "run", "gpt", f"--data={text_file}", f"--out={out}", f"--tokenizer={name}", *options)
    refuse(train, "run", "gpt", f"--data={text_file}", f"--out={out}", f"--distill={name}", *options)
    refuse(train, "run", "mixture", f"--data={text_file}", f"--out={out}", "--of", "bigram-names", f"./{name}")
    refuse(train, "publish", "--repo=alice/tiny", "--dry-run", "--", name)
    refuse(train, "publish", f"--repo={name}", "--dry-run", "weights/bigram-names")
    refuse(train, "publish", "--repo=alice/tiny", f"--space={name}", "--dry-run", "weights/bigram-names")
    refuse(train, "run", f"--data={text_file}", f"--out={out}", "--", name)
    assert not out.exists()


@pytest.mark.parametrize(
    "name", ["u--x/s", "u/..s", "u/s.git", "-u/s", "u/s-", "u/s/t", "u/é", "u/", "/s", f"u/{'s' * 97}", "u/s s"]
)
def test_bad_hub_ids_are_refused_by_a_dry_run(refuse, name):
    for options in ([f"--repo={name}"], ["--repo=alice/tiny", f"--space={name}"], ["--repo=alice/tiny", f"--revision={name}//"]):
        refuse(train, "publish", "weights/bigram-names", "--dry-run", *options)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), max_size=4))
def test_any_words(refuse, words):
    refuse(train, *words)
    refuse(gpt, "--model=nope", *(word for word in words if not word.startswith("-h")))


@given(st.text(max_size=2_000))
def test_any_prompt(attack, command, text):
    run = command("python -m gpt", gpt)
    status, _, err = attack.survived(lambda: run("--model", "bigram-names", "--length", 1, "--seed", 1, f"--prompt={text}"))
    assert status == 0 or "UTF-8" in status, (status, err)


DEEP = "[" * 100_000
PROGRAM = {"name": "x", "config": {}, "context_length": 1, "state": [], "compiled": False, "torch": "2"}


@pytest.mark.parametrize(
    "model",
    [DEEP, "{}", "[]", "null", "1", "{", "\xff", '{"name": 1}']
    + [
        str(PROGRAM | change).replace("'", '"')
        for change in ({"config": 1}, {"state": 3}, {"state": [["x"]]}, {"context_length": -1})
    ],
)
def test_bad_programs(attack, tmp_path, model):
    import zipfile

    from gpt import CheckpointError, load

    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / f"{kind}.pt2"
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr(f"{EXTRA}model.json", model)
            archive.writestr(f"{EXTRA}tokenizer.json", load("bigram-names").tokenizer.files()["tokenizer.json"])
        attack.refused(lambda path=path: open_program(path), CheckpointError)


SHELL = """
{python} -m gpt --model bigram-names --length 3 --seed 1 > /dev/full
{python} -m train run bigram --data {text} --out {out} > /dev/full
WORLD_SIZE=2 RANK=abc {python} -m train run bigram --data {text} --out {out}
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("line", SHELL.strip().splitlines())
def test_bad_surroundings(attack, text_file, tmp_path, line):
    attack.inputs += 1
    line = line.format(python=sys.executable, text=text_file, out=tmp_path / "out")
    with attack.time_limit():
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert (done.returncode, done.stderr.strip().splitlines()[-1].startswith("python -m")) == (1, True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize(
    "words", [["gpt", "--model", "alice/tiny"], ["train", "publish", "weights/bigram-names", "--repo", "alice/tiny"]]
)
def test_ctrl_c_ends_the_wait_for_a_hub_that_hangs(attack, hub, tmp_path, words):
    attack.faults += 1
    hub.stall = 60
    sigint = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell may ignore it in the background
    env = hub.env(hub.WRITE, home=tmp_path)
    process = subprocess.Popen([sys.executable, "-m", *words], env=env, stderr=subprocess.PIPE, text=True, **sigint)
    while not hub.requests:
        assert process.poll() is None
        time.sleep(0.05)
    assert process.stderr.readline().startswith("Still waiting for 127.0.0.1, for alice/tiny.")
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert time.monotonic() - start < 10  # a second on an idle machine
