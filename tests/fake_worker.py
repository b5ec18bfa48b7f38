"""Speaks the protocol of `train/worker.py` without training anything. The first word of the text says what to do.

quick   sends an end with a copy of the models in the folder FAKE_MODELS
slow    sends steps until it reads "stop", then the end
crash   raises an exception with the text in its message
hang    ignores "stop"
deaf    ignores that stdin is closed, too
error   sends an error
"""

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path


def send(event, **values):
    print(json.dumps({"event": event, **values}), flush=True)


def main():
    settings = json.loads(sys.stdin.readline())
    text = Path(settings["text"]).read_text(encoding="utf-8")
    action = text.split()[0]
    stopped = threading.Event()

    def listen():
        for line in sys.stdin:
            if line == "stop\n" and action == "slow":
                stopped.set()
        if action != "deaf":
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    send("baselines", uniform=4.0, bigram=2.5, ngram=1.9, order=5)
    if action == "crash":
        raise KeyError(text)
    if action == "error":
        send("error", message="The text is not to my taste.")
        sys.exit(1)
    send("start", parameters=os.getpid(), config={}, reason=f"nice {os.nice(0)}", command=" ".join(os.environ))
    step = 0
    while action in ("hang", "deaf") or (action == "slow" and not stopped.is_set()):
        step += 1
        send("step", step=step, progress=0.5, loss=2.0, tokens_per_second=1.0, seconds_left=1.0)
        time.sleep(0.05)
    models = []
    for folder in sorted(Path(os.environ["FAKE_MODELS"]).iterdir()):
        shutil.copytree(folder, Path(settings["out"]) / folder.name)
        facts = {"kind": folder.name, "title": folder.name.upper(), "held_out": 1.5, "parameters": 1_000}
        models.append({"name": folder.name, "folder": folder.name, **facts})
    send("end", stopped=stopped.is_set(), models=models, winner="gpt", verdict="The GPT wins.")


main()
